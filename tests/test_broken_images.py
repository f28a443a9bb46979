"""The one decode on every kind of damage: a whole image or an error, and no warning."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import warnings
import zipfile
import zlib
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from helpers.commands import run_bot, run_python
from helpers.image_files import HEIGHT, NOISE, SMOOTH, WAYS, WIDTH, bmp, decode_or_none, encode, encoded_as, exif, png
from helpers.special_files import make_special_files
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bot_deploy import images
from bot_deploy.errors import ImageError


def spoiled() -> dict[str, bytes]:
    jpeg, noisy, lossless = encoded_as("jpeg"), encoded_as("jpeg", NOISE), encoded_as("webp", NOISE)
    progressive, flat = encoded_as("jpeg-progressive", NOISE), encoded_as("bmp")
    return {
        "empty.jpg": b"",
        "text.jpg": b"this is no image\n" * 20,
        "html.png": b"<!doctype html><title>404</title>",
        "zeros.jpg": bytes(4096),
        "only the magic.jpg": jpeg[:3],
        "only the header.jpg": noisy[:200],
        "half.jpg": noisy[: len(noisy) // 2],
        "almost.jpg": noisy[:-2],
        "a byte less.jpg": noisy[:-1],
        "half progressive.jpg": progressive[: len(progressive) // 2],
        "half of it zeros.jpg": noisy[: len(noisy) // 2] + bytes(len(noisy) // 2),
        "all but the end zeros.jpg": progressive[: len(progressive) * 9 // 10] + bytes(5000),
        "half.png": encoded_as("png", NOISE)[:12000],
        "header.png": encoded_as("png")[:40],
        "half of it zeros.png": encoded_as("png", NOISE)[:12000] + bytes(12000),
        "no data.png": png(4, 4, 8, 2, b""),
        "no rows.png": png(0, 4, 8, 2, b""),
        "half.webp": lossless[: len(lossless) // 2],
        "almost.webp": lossless[:-3],
        "header.webp": lossless[:20],
        "half.bmp": flat[: len(flat) // 2],
        "almost.bmp": flat[:-1],
        "header.bmp": flat[:40],
        "no rows.bmp": bmp(4, 0, b""),
        "half.gif": encoded_as("gif", NOISE)[:5000],
        "half.tiff": encoded_as("tiff", NOISE)[:5000],
        "half lzw.tiff": encoded_as("tiff-lzw", NOISE)[:5000],
        "half.avif": encoded_as("avif", NOISE)[:5000],
        "no end.png": encoded_as("png")[:-12],
        "float.tiff": encode(Image.fromarray(SMOOTH[..., 0].astype(np.float32)), "TIFF"),
        "renamed pcx.jpg": encode(SMOOTH, "PCX"),
    }


@pytest.mark.parametrize("name", spoiled())
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(spoiled()[name])
    with pytest.raises(ImageError) as caught:
        images.read_image(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_missing_files_folders_and_impossible_names(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    for name in ("folder.jpg", "missing.jpg", "no\0way.jpg", "x" * 300 + ".jpg"):
        for path in (tmp_path / name, str(tmp_path / name)):
            with pytest.raises(ImageError, match=r"cannot be read") as caught:
                images.read_image(path)
            assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("way", WAYS)
def test_a_cut_anywhere_gives_the_whole_picture_or_none(way: str) -> None:
    data = encoded_as(way, NOISE)
    whole = images.decode_image(data, "x")
    cuts = sorted({*range(0, 600, 13), *range(0, len(data), len(data) // 60), *range(len(data) - 40, len(data))})
    refused = 0
    for cut in cuts:
        pixels = decode_or_none(data[:cut])
        if pixels is None:
            refused += 1
        else:  # a PNG is whole before its last checksum
            np.testing.assert_array_equal(pixels, whole if pixels.shape == whole.shape else whole.transpose(1, 0, 2))
    assert refused > len(cuts) / 2


@pytest.mark.parametrize("size", [(11_000, 10_000), (60_000, 60_000)])
def test_over_100_megapixels_is_refused_before_decoding(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Image.Image) -> None:
        raise AssertionError("its pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    rows = zlib.compress(bytes(1000))
    for data in (png(*size, 8, 2, rows), bmp(*size, bytes(1000))):
        with pytest.raises(ImageError, match=r"big: over 100 megapixels"):
            images.decode_image(data, "big")


def test_real_pixels_over_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", HEIGHT * WIDTH)
    assert images.decode_image(encoded_as("jpeg"), "x").shape == SMOOTH.shape  # the limit itself is allowed
    monkeypatch.setattr(images, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    for way in WAYS:
        with pytest.raises(ImageError, match=r"x: over \d+ megapixels; crop"):
            images.decode_image(encoded_as(way), "x")


def test_the_pixels_of_a_webp_count_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 2 * HEIGHT * WIDTH)
    assert images.decode_image(encoded_as("webp"), "x").shape == SMOOTH.shape
    monkeypatch.setattr(images, "MAX_PIXELS", 2 * HEIGHT * WIDTH - 1)
    with pytest.raises(ImageError, match="megapixels"):
        images.decode_image(encoded_as("webp"), "x")
    assert images.decode_image(encoded_as("png"), "x").shape == SMOOTH.shape


def test_a_webp_over_50_megapixels_is_refused_before_decoding() -> None:
    header = (8000 - 1) | (6300 - 1) << 14  # width and height of a lossless WebP, 14 bits each: 50.4 megapixels
    data = b"VP8L" + (5).to_bytes(4, "little") + b"\x2f" + header.to_bytes(4, "little") + b"\0"
    with pytest.raises(ImageError, match="big: over 50 megapixels"):
        images.decode_image(b"RIFF" + (4 + len(data)).to_bytes(4, "little") + b"WEBP" + data, "big")


@pytest.mark.parametrize("quiet", [False, True], ids=["warnings are errors", "warnings as usual"])
@pytest.mark.parametrize("way", WAYS)
def test_random_damage_is_a_picture_or_an_image_error(way: str, quiet: bool) -> None:
    # Damage amid a JPEG's or a lossy WebP's pixels may decode to other pixels: those formats have no checksum.
    rng = np.random.default_rng(12 if quiet else 11)
    outcomes = set()
    with warnings.catch_warnings():
        if quiet:
            warnings.filterwarnings("ignore", module=r"PIL\.")
        for turn in range(300):
            data = bytearray(encoded_as(way, SMOOTH))
            reach = len(data) if turn % 2 else min(len(data), 300)  # half of them hit the headers
            for place in rng.integers(0, reach, rng.integers(1, 5)):
                data[place] = rng.integers(0, 256)
            if turn % 3 == 0:
                data = data[: rng.integers(0, len(data))]
            outcomes.add(decode_or_none(bytes(data)) is None)
    assert any(outcomes)


def test_bot_hides_the_warnings_of_pillow_and_the_library_does_not(onnx_file: Path, tmp_path: Path) -> None:
    # In processes of their own, since pytest sets the filters of this one.
    whole = encode(SMOOTH, "JPEG", exif=exif(6))
    data = whole.replace(b"\x01\x0e\x00\x02\x00\x00", b"\x01\x0e\x00\x02\xff\x00")
    assert data != whole
    (tmp_path / "damaged.jpg").write_bytes(data)
    code = "import sys; from bot_deploy import read_image; print(read_image(sys.argv[1]).shape)"
    done = run_python("-c", code, tmp_path / "damaged.jpg")
    assert done.stdout.strip() in {f"({WIDTH}, {HEIGHT}, 3)", f"({HEIGHT}, {WIDTH}, 3)"}
    assert "UserWarning" in done.stderr
    done = run_bot("embed", tmp_path / "damaged.jpg", "-o", tmp_path / "x.npy", "--model", onnx_file)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


# ---- checksums ----

PNGS = {way: encoded_as(way, image) for way, image in (("png", NOISE), ("png-exif", SMOOTH))}


@given(way=st.sampled_from(sorted(PNGS)), place=st.integers(0), bit=st.integers(0, 7))
@settings(max_examples=300, deadline=None)
def test_every_flipped_bit_of_a_png_is_noticed(way: str, place: int, bit: int) -> None:
    data = bytearray(PNGS[way])
    data[place % len(data)] ^= 1 << bit
    assert decode_or_none(bytes(data)) is None


def test_a_png_with_bytes_after_its_end_is_whole() -> None:
    np.testing.assert_array_equal(images.decode_image(encoded_as("png") + b"more", "x"), SMOOTH)


def test_a_zip_compares_its_checksum(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "crops.zip", "w", zipfile.ZIP_STORED) as out:
        out.writestr("a.bmp", encoded_as("bmp", NOISE))
    data = bytearray((tmp_path / "crops.zip").read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "crops.zip").write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.bmp: cannot be read \(Bad CRC-32"):
        images.read_image(zipfile.Path(tmp_path / "crops.zip") / "a.bmp")


# ---- special files ----


def special_files(folder: Path) -> dict[Path, str]:
    """Makes what is no regular file, each with a word of its error."""
    make_special_files(folder)
    (folder / "terminal.jpg").symlink_to("/dev/tty")
    listener = socket.socket(socket.AF_UNIX)
    with contextlib.chdir(folder):  # an address has at most 108 bytes
        listener.bind("socket.jpg")
    listener.close()
    words = {
        "fifo": "not a regular file",
        "to_fifo": "not a regular file",
        "loop": "symbolic links",
        "none": "No such file",
        "zero": "not a regular file",
        "terminal": "",
        "folder": "Is a directory",
        "sparse": "over 320 MB",
        "socket": "",
    }
    return {folder / f"{name}.jpg": word for name, word in words.items()}


def _count_descriptors() -> int:
    folder = Path("/proc/self/fd")
    return sum(1 for _ in folder.iterdir()) if folder.exists() else 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
def test_only_regular_files_are_opened_and_nothing_waits(tmp_path: Path) -> None:
    files = special_files(tmp_path)
    before = _count_descriptors()
    for path, error in zip(files, images.read_many(files, (4, 2)), strict=True):
        assert isinstance(error, ImageError)
        assert str(error).startswith(f"{path}: cannot be read (")
        assert files[path] in str(error)
    assert _count_descriptors() == before


@pytest.mark.filterwarnings("ignore:unclosed file")  # Python closes a stream that the interrupt left
def test_an_interrupt_is_never_taken_for_an_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    path.write_bytes(encoded_as("bmp"))
    own = {images.__file__, os.fdopen.__code__.co_filename}
    steps = 0

    def interrupt_at(number: int) -> bool:
        """Whether opening the file has a step of this number; it is interrupted there."""
        nonlocal steps
        steps = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal steps
            frame.f_trace_opcodes = frame.f_code.co_filename in own
            steps += event == "opcode"
            if event == "opcode" and steps == number:
                raise KeyboardInterrupt
            return trace

        earlier = sys.gettrace()
        sys.settrace(trace)
        try:
            images.open_regular(path).close()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(earlier)
        return False

    count = 0
    while interrupt_at(count + 1):
        count += 1
    assert count > 20


def test_the_size_limit_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded_as("bmp")
    (tmp_path / "a.bmp").write_bytes(data)
    monkeypatch.setattr(images, "MAX_INPUT_BYTES", len(data))
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.bmp"), SMOOTH)
    monkeypatch.setattr(images, "MAX_INPUT_BYTES", len(data) - 1)
    with pytest.raises(ImageError, match="over 0 MB"):
        images.read_image(tmp_path / "a.bmp")
