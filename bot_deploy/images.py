"""Pictures to uint8 RGB arrays [H, W, 3]: the only decoder and the only resize of the project."""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from bot_deploy.errors import ImageError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Pixels = npt.NDArray[np.uint8]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MAX_PIXELS = 100_000_000
MAX_INPUT_BYTES = 320_000_000  # of one file
TOO_LARGE = "over 100 megapixels; crop or shrink it first"
JPEG_END = b"\xff\xd9"  # the last bytes of a JPEG; they occur nowhere else after its header
TRANSPOSES = {  # EXIF orientation -> what turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BACKGROUND = (128, 128, 128)  # shows through transparent pixels; grey favours no colour
READ_AHEAD = 32  # pictures that each thread of `read_many` may be ahead of the caller


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a regular file of at most MAX_INPUT_BYTES for reading, without waiting for anybody.

    A FIFO would wait for a writer, a device may never end, and a sparse file of terabytes would fill the memory.

    Raises:
        OSError: anything else, or a file that cannot be opened.
    """
    # Of what is no regular file, only a link's target can be opened by accident: O_NONBLOCK returns at once.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_regular(os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    if status.st_size > MAX_INPUT_BYTES:
        raise OSError(errno.EFBIG, f"over {MAX_INPUT_BYTES // 1_000_000} MB")


def read_image(path: str | Path | zipfile.Path) -> Pixels:
    """The picture in the file at `path` (on disk or in a zip), upright, as uint8 RGB [H, W, 3].

    Raises:
        ImageError: the file is missing, empty, truncated, corrupt, over 100 megapixels or not a picture.
    """
    try:
        if isinstance(path, zipfile.Path):
            data = path.read_bytes()
        else:
            with open_regular(path) as file:
                data = file.read()
    # ValueError: a null byte in the name; RuntimeError: an encrypted or unknown kind of zip
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError, RuntimeError) as error:
        raise ImageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> Pixels:
    """The encoded picture `data` as uint8 RGB [H, W, 3], turned upright by its EXIF orientation.

    Raises:
        ImageError: as `read_image`; the message begins with `name`.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty")
    with _named_errors(name):
        stream = io.BytesIO(data)
        with Image.open(stream, formats=FORMATS) as image:
            # libjpeg would make the missing rest grey.
            if image.format == "JPEG" and _is_small(image) and JPEG_END not in data[stream.tell() :]:
                raise ImageError(f"{name}: corrupt or truncated (the JPEG has no end)")
            return _pixels(image)


def convert_image(image: Image.Image, name: str) -> Pixels:
    """A PIL image of any mode as uint8 RGB [H, W, 3], turned upright by its EXIF orientation.

    Raises:
        ImageError: as `read_image`; the message begins with `name`.
    """
    with _named_errors(name):
        return _pixels(image)


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Turns every error of Pillow into an ImageError that begins with `name`."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{name}: {TOO_LARGE}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not a JPEG, PNG, WebP or BMP image") from None
    except (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, struct.error, Warning) as error:
        raise ImageError(f"{name}: corrupt or truncated ({error})") from None
    except MemoryError:
        raise ImageError(f"{name}: does not fit in memory") from None


def _is_small(image: Image.Image) -> bool:
    return image.width * image.height <= MAX_PIXELS


def _pixels(image: Image.Image) -> Pixels:
    if not _is_small(image):
        raise Image.DecompressionBombError
    return np.asarray(_rgb(_upright(image)))


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # first, so that later errors come from EXIF and not from pixels
    try:
        transpose = TRANSPOSES.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - damaged EXIF raises anything; the pixels decide
        transpose = None
    return image if transpose is None else image.transpose(transpose)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it to white
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (*BACKGROUND, 255)), rgba).convert("RGB")
    return image.convert("RGB")


def resize(image: Pixels, size: tuple[int, int]) -> Pixels:
    """`image` uint8 [H, W, 3], scaled to `size` = (height, width); the aspect ratio may change (as in the paper)."""
    height, width = size
    if image.shape[:2] == size:
        return image
    # Of seven kernels, antialiased bilinear changes the embeddings least when a real crop moves by one pixel. No kernel
    # ranks better beyond noise, and other toolkits train with this one; see benchmarks/README.md.
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def read_resized(path: str | Path | zipfile.Path, size: tuple[int, int]) -> Pixels:
    """The picture in the file at `path`, scaled to `size` = (height, width); see `read_image` and `resize`."""
    return resize(read_image(path), size)


def find_images(folder: str | Path, suffixes: frozenset[str] = SUFFIXES) -> list[Path]:
    """The image files under `folder` at any depth, sorted, see `walk_images`; none where there is no folder."""
    root = Path(folder)
    return [] if not root.is_dir() else sorted(root / path for path, _ in walk_images(root, suffixes))


def walk_images(
    folder: str | Path,
    suffixes: frozenset[str] = SUFFIXES,
    on_error: Callable[[str, OSError], None] | None = None,
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yields the path below `folder` (parts joined by "/") and the directory entry of each image file, in no order.

    Hidden files and folders are skipped; links to folders are not followed. Everything else with the name of an image
    is yielded, also links, devices and empty folders: `read_image` refuses what is no regular file, and says so.

    `on_error` gets the path of a folder below `folder` that cannot be read, and why.

    Raises:
        InputError: a folder cannot be read, and there is no `on_error` or it is `folder` itself.
    """
    folders: list[tuple[str, str, os.DirEntry[str] | None]] = [("", os.fspath(folder), None)]
    while folders:
        prefix, path, parent = folders.pop()
        try:
            with os.scandir(path) as listing:
                entries = list(listing)  # an entry holds its type, so that a folder costs no other call
        except OSError as error:
            if on_error is None or parent is None:
                raise InputError(f"{path}: cannot be read ({error.strerror})") from None
            on_error(prefix[:-1], error)
            continue
        if parent and not entries and Path(parent.name).suffix.lower() in suffixes:  # somebody took it for an image
            yield prefix[:-1], parent
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append((f"{prefix}{name}/", entry.path, entry))
            elif os.path.splitext(name)[1].lower() in suffixes:  # noqa: PTH122 - for a million names, Path is slow
                yield prefix + name, entry


def read_many(
    paths: Iterable[str | Path | zipfile.Path], size: tuple[int, int], workers: int = 4
) -> Iterator[Pixels | ImageError]:
    """Yields `read_resized` of each path in order, or the error of a broken file; `workers` threads read ahead."""
    from collections import deque
    from concurrent.futures import Future, ThreadPoolExecutor

    def read(path: str | Path | zipfile.Path) -> Pixels | ImageError:
        try:
            return read_resized(path, size)
        except ImageError as error:
            return error

    ahead: deque[Future[Pixels | ImageError]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for path in paths:
            ahead.append(pool.submit(read, path))
            if len(ahead) >= READ_AHEAD * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
