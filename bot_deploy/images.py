"""Images to uint8 RGB arrays [H, W, 3]: the only decoder and the only resize of the project."""

from __future__ import annotations

import ctypes
import errno
import io
import logging
import os
import stat
import struct
import threading
import zipfile
import zlib
from collections import Counter
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from bot_deploy.errors import ImageError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]

HAS_AVIF = find_spec("PIL._avif") is not None  # not where Pillow was built without it
SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}) | (
    {".avif"} if HAS_AVIF else set()
)
WRITABLE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
# Images that are not read: a walk through a folder counts and names them.
UNREAD_SUFFIXES = (
    frozenset(
        {".avif", ".heic", ".heics", ".heif", ".hif", ".ico", ".jpe", ".jxl", ".jxr", ".mpo", ".psd", ".qoi", ".svg"}
    )
    | {".j2k", ".jp2", ".jpf", ".jpx", ".pbm", ".pcx", ".pgm", ".pnm", ".ppm", ".tga", ".exr", ".hdr"}
    | {".qoi", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".raw", ".rw2"}
) - SUFFIXES
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF") + (("AVIF",) if HAS_AVIF else ())
NOT_AN_IMAGE = f"not a JPEG, PNG, WebP, BMP, GIF{', TIFF or AVIF' if HAS_AVIF else ' or TIFF'} image"
MAX_PIXELS = 100_000_000  # in one image, and in all images that `read_many` decodes at one time
# What a pixel of a format counts, beside those of the others: the decoder of WebP needs about twice their memory.
PIXEL_COSTS = {"WEBP": 2}
MAX_INPUT_BYTES = 320_000_000  # of one file, and of all files that `read_many` holds at one time
PNG_SIGNATURE_BYTES = 8
JPEG_END = b"\xff\xd9"  # the last bytes of a JPEG; they occur nowhere else after its header
TRANSPOSES = {  # EXIF orientation -> what turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BACKGROUND = (128, 128, 128)  # shows through transparent pixels; grey favours no colour
LARGE_PIXELS = 4_000_000  # the memory of an image with as many is returned to the system at once
STRIP_PIXELS = 1 << 20  # pixels that are converted to RGB at one time
READ_AHEAD = 32  # images that each thread of `read_many` may be ahead of the caller
MAX_READ_AHEAD = 512  # images that all threads together may be ahead


class _Budget:
    """An amount that several threads share. `take` waits until enough of it is free."""

    def __init__(self, limit: int) -> None:
        self._limit = self._free = limit
        self._change = threading.Condition()

    @contextmanager
    def take(self, amount: int) -> Iterator[None]:
        amount = min(amount, self._limit)
        with self._change:
            self._change.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._change:
                self._free += amount
                self._change.notify_all()


class _Memory:
    """Bounds the bytes of files and the pixels that the threads of one `read_many` hold at one time.

    Each thread takes bytes first and pixels second, so no two threads wait for each other.
    """

    def __init__(self) -> None:
        self.file_bytes = _Budget(MAX_INPUT_BYTES)
        self.pixels = _Budget(MAX_PIXELS)


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a regular file of at most MAX_INPUT_BYTES for reading, and never waits.

    A FIFO would wait for a writer, a device may never end, and a sparse file of terabytes would fill the memory.

    Raises:
        OSError: anything else, or a file that cannot be opened.
    """
    # The stream owns its descriptor from the start, so an interrupt cannot close it twice.
    file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115
    try:
        _check_regular(os.fstat(file.fileno()))
    except BaseException:
        file.close()
        raise
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    # `path` may be a FIFO, or a link to one: with O_NONBLOCK, opening it returns at once.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    _check_file_size(status.st_size)


def _check_file_size(size: int) -> None:
    if size > MAX_INPUT_BYTES:
        raise OSError(errno.EFBIG, f"over {MAX_INPUT_BYTES // 1_000_000} MB")


def read_image(path: str | Path | zipfile.Path) -> Pixels:
    """The image in the file at `path` (on disk or in a zip), upright, as uint8 RGB [H, W, 3].

    Only regular files are opened, and opening never waits. The first frame of an animation is read.

    Raises:
        ImageError: the file is missing, no regular file, empty, over 320 MB, truncated, corrupt, over 100 megapixels
            or not an image.
    """
    return _read(path, None, _Memory())


def decode_image(data: bytes, name: str) -> Pixels:
    """The encoded image `data` as uint8 RGB [H, W, 3], turned upright by its EXIF orientation.

    Raises:
        ImageError: as `read_image`; the message begins with `name`.
    """
    return _decode(data, name, None, _Memory())


def _read(path: str | Path | zipfile.Path, size: tuple[int, int] | None, memory: _Memory) -> Pixels:
    """As `read_image`, scaled to `size` = (height, width) unless it is None, within the bounds of `memory`."""
    # ValueError: a null byte in the name; RuntimeError: an encrypted or unknown kind of zip
    unreadable = (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError, RuntimeError, MemoryError)
    try:
        with _open_file(path) as (stream, file_bytes), memory.file_bytes.take(file_bytes):
            data = stream.read(file_bytes + 1)  # one byte more: a zip compares its checksum at the end
            return _decode(data, str(path), size, memory)
    except unreadable as error:
        raise ImageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


@contextmanager
def _open_file(path: str | Path | zipfile.Path) -> Iterator[tuple[IO[bytes], int]]:
    """Yields the file as a stream, and its size in bytes; raises OSError as `open_regular` does."""
    if isinstance(path, zipfile.Path):
        with path.open("rb") as stream:
            size = path.root.getinfo(path.at).file_size
            _check_file_size(size)
            yield stream, size
    else:
        with open_regular(path) as file:
            yield file, os.fstat(file.fileno()).st_size


def _decode(data: bytes, name: str, size: tuple[int, int] | None, memory: _Memory) -> Pixels:
    if not data:
        raise ImageError(f"{name}: the file is empty")
    with _convert_pillow_errors(name):
        stream = io.BytesIO(data)
        with Image.open(stream, formats=FORMATS) as image:
            _check_size(image, name)
            # libjpeg would make the missing rest grey.
            if image.format == "JPEG" and JPEG_END not in data[stream.tell() :]:
                raise ImageError(f"{name}: corrupt or truncated (the JPEG has no end)")
            if image.format == "PNG":
                _check_png(data)
            count = _pixel_count(image)
            with memory.pixels.take(count):
                pixels = _pixels(image, size)
                image.close()
                if count >= LARGE_PIXELS:
                    _return_freed_memory()
                return pixels


def _return_freed_memory() -> None:
    """Returns freed memory to the system: glibc keeps it for each thread, 700 MB after 100 megapixels."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _check_png(data: bytes) -> None:
    """Compares the checksum of every chunk of a PNG; Pillow leaves out those of the image data.

    Raises:
        SyntaxError: a checksum is wrong, or the last chunk is missing.
    """
    view = memoryview(data)
    position, kind = PNG_SIGNATURE_BYTES, b""
    while kind != b"IEND":
        (length,) = struct.unpack_from(">I", view, position)  # struct.error: the file ends before
        kind = bytes(view[position + 4 : position + 8])
        end = position + 8 + length
        (checksum,) = struct.unpack_from(">I", view, end)
        if zlib.crc32(view[position + 4 : end]) != checksum:
            raise SyntaxError(f"wrong checksum in the PNG at byte {position:,}")
        position = end + 4


def convert_image(image: Image.Image, name: str) -> Pixels:
    """A PIL image of any mode as uint8 RGB [H, W, 3], turned upright by its EXIF orientation.

    Raises:
        ImageError: as `read_image`; the message begins with `name`.
    """
    with _convert_pillow_errors(name):
        _check_size(image, name)
        return _pixels(image, None)


@contextmanager
def _convert_pillow_errors(name: str) -> Iterator[None]:
    """Turns every error of Pillow into an ImageError that begins with `name`."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name) from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: {NOT_AN_IMAGE}") from None
    except MemoryError:
        raise ImageError(f"{name}: does not fit in memory") from None
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - damaged files make Pillow raise anything
        raise ImageError(f"{name}: corrupt or truncated ({error})") from None


def _check_size(image: Image.Image, name: str) -> None:
    if _pixel_count(image) > MAX_PIXELS:
        raise _too_large(name, image.format)


def _pixel_count(image: Image.Image) -> int:
    """The pixels of `image` as they count against MAX_PIXELS."""
    return image.width * image.height * PIXEL_COSTS.get(image.format or "", 1)


def _too_large(name: str, image_format: str | None = None) -> ImageError:
    megapixels = MAX_PIXELS // PIXEL_COSTS.get(image_format or "", 1) // 1_000_000
    return ImageError(f"{name}: over {megapixels} megapixels; crop or shrink it first")


def _pixels(image: Image.Image, size: tuple[int, int] | None) -> Pixels:
    upright = _rgb(_upright(image))
    return np.asarray(upright if size is None else _scale(upright, size))


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # first, so that later errors come from EXIF and not from pixels
    try:
        transpose = TRANSPOSES.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - damaged EXIF raises anything; the pixels decide
        transpose = None
    return image if transpose is None else image.transpose(transpose)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    rows = max(1, STRIP_PIXELS // image.width)
    if image.height <= rows:
        return _strip_to_rgb(image)
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):  # in strips: the steps of a large image would need 16 bytes a pixel
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_strip_to_rgb(strip), (0, top))
    return rgb


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or (image.mode == "I" and getattr(image, "format", "") == "TIFF"):
        raise ValueError("pixels of 32 bits; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it to white
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (*BACKGROUND, 255)), rgba).convert("RGB")
    return image.convert("RGB")


def resize(image: Pixels, size: tuple[int, int]) -> Pixels:
    """`image` uint8 [H, W, 3], scaled to `size` = (height, width); the aspect ratio may change (as in the paper)."""
    return image if image.shape[:2] == size else np.asarray(_scale(Image.fromarray(image), size))


def letterbox(image: Pixels, size: tuple[int, int]) -> Pixels:
    """`image` uint8 [H, W, 3] in the middle of `size` = (height, width), with its aspect ratio; the rest is black."""
    scale = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    canvas = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[top : top + height, left : left + width] = resize(image, (height, width))
    return canvas


def _scale(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    if image.size == (width, height):
        return image
    # When a real crop moves by one pixel, antialiased bilinear changes the embeddings least of seven kernels. No kernel
    # ranks better beyond noise, and other toolkits train with this one; see benchmarks/README.md.
    return image.resize((width, height), Image.Resampling.BILINEAR)


def read_resized(path: str | Path | zipfile.Path, size: tuple[int, int]) -> Pixels:
    """The image in the file at `path`, scaled to `size` = (height, width); see `read_image` and `resize`."""
    return _read(path, size, _Memory())


def find_images(folder: str | Path, suffixes: frozenset[str] = SUFFIXES) -> list[Path]:
    """The image files under `folder` at any depth, sorted, see `walk_images`; none if there is no folder."""
    root = Path(folder)
    return [] if not root.is_dir() else sorted(root / path for path, _ in walk_images(root, suffixes))


def walk_images(
    folder: str | Path,
    suffixes: frozenset[str] = SUFFIXES,
    on_error: Callable[[str, OSError], None] | None = None,
    others: Counter[str] | None = None,
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yields the path below `folder` (parts joined by "/") and the directory entry of each image file, in no order.

    Hidden files and folders are skipped; links to folders are not followed. Everything else with the name of an image
    is yielded, also links, devices and empty folders: `read_image` raises an ImageError for what is no regular file.
    At the end, a warning counts the images of kinds that are not read (`UNREAD_SUFFIXES`).

    `on_error` gets the path of a folder below `folder` that cannot be read, and why. `others` counts the other
    files by their suffixes.

    Raises:
        InputError: a folder cannot be read, and there is no `on_error` or it is `folder` itself.
    """
    others = Counter() if others is None else others
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
        if parent and not entries and Path(parent.name).suffix.lower() in suffixes:  # it has the name of an image
            yield prefix[:-1], parent
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - for a million names, Path is slow
            if entry.is_dir(follow_symlinks=False):
                folders.append((f"{prefix}{name}/", entry.path, entry))
            elif suffix in suffixes:
                yield prefix + name, entry
            else:
                others[suffix] += 1
    warn_of_skipped(folder, others)


def warn_of_skipped(source: str | Path, others: Counter[str]) -> None:
    """Logs how many of the files below `source`, counted by suffix, are images of kinds that are not read."""
    skipped = Counter({suffix: others[suffix] for suffix in UNREAD_SUFFIXES & others.keys()})
    if skipped:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in skipped.most_common())
        logger.warning(f"{source}: {skipped.total()} images are left out ({kinds}); convert them to JPEG or PNG")


def broken_files(errors: Mapping[Path, object]) -> list[dict[str, str]]:
    """The broken files in `errors` for JSON: path and error, without the path that the message begins with."""
    return [
        {"path": str(path), "error": str(error).removeprefix(f"{path}: ")} for path, error in sorted(errors.items())
    ]


def read_many(
    paths: Iterable[str | Path | zipfile.Path], size: tuple[int, int], workers: int = 4
) -> Iterator[Pixels | ImageError]:
    """Yields `read_resized` of each path in order, or the error of a broken file; `workers` threads read ahead.

    However many threads there are, the images being decoded at one time have at most `MAX_PIXELS` pixels together.
    """
    from collections import deque
    from concurrent.futures import Future, ThreadPoolExecutor

    memory = _Memory()

    def read(path: str | Path | zipfile.Path) -> Pixels | ImageError:
        try:
            return _read(path, size, memory)
        except ImageError as error:
            return error

    ahead: deque[Future[Pixels | ImageError]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for path in paths:
            ahead.append(pool.submit(read, path))
            if len(ahead) >= min(READ_AHEAD * workers, MAX_READ_AHEAD):
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
