"""The one decode: every kind of file to its pixels, and how files are found and loaded."""

from __future__ import annotations

import struct
import threading
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from helpers.commands import run_python
from helpers.image_files import (
    COLUMNS,
    HEIGHT,
    NOISE,
    ROWS,
    SMOOTH,
    U8,
    WIDTH,
    bmp,
    chunk,
    encode,
    encoded_as,
    exif,
    png,
)
from PIL import Image

from bot_deploy import images
from bot_deploy.datasets import open_dataset
from bot_deploy.errors import ImageError

# ---- what is right ----


@pytest.mark.parametrize("way", ["png", "webp-lossless", "bmp", "tiff", "tiff-lzw"])
@pytest.mark.parametrize("picture", [SMOOTH, NOISE], ids=["smooth", "noise"])
def test_lossless_formats_give_the_pixels_back(way: str, picture: U8) -> None:
    np.testing.assert_array_equal(images.decode_image(encoded_as(way, picture), "x"), picture)


@pytest.mark.parametrize("way", ["jpeg", "jpeg-progressive", "webp"])
def test_lossy_formats_agree_with_another_decoder(way: str) -> None:
    data = encoded_as(way)
    other = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
    pixels = images.decode_image(data, "x")
    assert np.abs(pixels.astype(int) - other).max() <= 2
    assert np.abs(pixels.astype(int) - SMOOTH).mean() < 12  # and it is that image


def test_bmp_stored_top_down() -> None:
    rows = bytes([1, 2, 3, 4, 5, 6, 0, 0]) + bytes([7, 8, 9, 10, 11, 12, 0, 0])
    expected = np.array([[[3, 2, 1], [6, 5, 4]], [[9, 8, 7], [12, 11, 10]]], np.uint8)
    np.testing.assert_array_equal(images.decode_image(bmp(2, -2, rows), "x"), expected)
    np.testing.assert_array_equal(images.decode_image(bmp(2, 2, rows), "x"), expected[::-1])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_grey(kind: str) -> None:
    grey = SMOOTH[..., 2]
    pixels = images.decode_image(encode(grey, kind, **({"quality": 100} if kind == "JPEG" else {})), "x")
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels.astype(int) - grey[..., None]).max() <= (2 if kind == "JPEG" else 0)


def over_grey(colour: npt.NDArray[Any], alpha: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    share = alpha.astype(float)[..., None] / 255
    return np.asarray(colour.astype(float) * share + 128 * (1 - share))


def test_alpha_is_composited_over_mid_grey() -> None:
    alpha = (COLUMNS * 8).astype(np.uint8)
    rgba = np.dstack([SMOOTH, alpha])
    pixels = images.decode_image(encode(rgba, "PNG"), "x")
    assert np.abs(pixels - over_grey(SMOOTH, alpha)).max() <= 1
    assert (pixels[:, 0] == 128).all()
    webp = images.decode_image(encode(rgba, "WEBP", lossless=True, exact=True), "x")
    np.testing.assert_array_equal(webp, pixels)


def test_grey_with_alpha() -> None:
    alpha = (COLUMNS * 8).astype(np.uint8)
    two = Image.merge("LA", [Image.fromarray(SMOOTH[..., 0]), Image.fromarray(alpha)])
    pixels = images.decode_image(encode(two, "PNG"), "x")
    assert np.abs(pixels - over_grey(np.repeat(SMOOTH[..., :1], 3, axis=2), alpha)).max() <= 1


def palette_image() -> tuple[Image.Image, npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    colours = np.array([[250, 10, 20], [30, 240, 50], [60, 70, 230], [9, 8, 7]], np.uint8)
    indices = ((ROWS // 5 + COLUMNS // 3) % 4).astype(np.uint8)
    image = Image.fromarray(indices).convert("L")
    image = Image.frombytes("P", (WIDTH, HEIGHT), image.tobytes())
    image.putpalette(colours.tobytes())
    return image, colours, indices


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_palette(kind: str) -> None:
    image, colours, indices = palette_image()
    np.testing.assert_array_equal(images.decode_image(encode(image, kind), "x"), colours[indices])


def test_palette_with_one_transparent_colour() -> None:
    image, colours, indices = palette_image()
    colours[2] = 128
    np.testing.assert_array_equal(images.decode_image(encode(image, "PNG", transparency=2), "x"), colours[indices])


def test_palette_with_an_alpha_for_each_colour() -> None:
    image, colours, indices = palette_image()
    alphas = np.array([255, 0, 128, 64], np.uint8)
    pixels = images.decode_image(encode(image, "PNG", transparency=alphas.tobytes()), "x")
    assert np.abs(pixels - over_grey(colours, alphas)[indices]).max() <= 1


@pytest.mark.parametrize(("colour", "marked"), [(2, (1, 2, 3)), (0, (7,))], ids=["rgb", "grey"])
def test_one_transparent_colour_without_a_palette(colour: int, marked: tuple[int, ...]) -> None:
    row = bytes(marked) + bytes(len(marked) * [200])
    body = png(2, 1, 8, colour, b"\0" + row, chunk(b"tRNS", struct.pack(f">{len(marked)}H", *marked)))
    np.testing.assert_array_equal(images.decode_image(body, "x"), [[[128] * 3, [200] * 3]])


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_one_bit(kind: str) -> None:
    bits = (ROWS + COLUMNS) % 3 == 0
    pixels = images.decode_image(encode(Image.fromarray(bits), kind), "x")
    np.testing.assert_array_equal(pixels, np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


@pytest.mark.parametrize(("bits", "packed", "values"), [(2, 0b00011011, (0, 85, 170, 255)), (4, 0x0F, (0, 255))])
def test_two_and_four_bit_grey(bits: int, packed: int, values: tuple[int, ...]) -> None:
    pixels = images.decode_image(png(len(values), 1, bits, 0, bytes([0, packed])), "x")
    np.testing.assert_array_equal(pixels[0, :, 0], values)


def test_sixteen_bit_grey_is_scaled_and_not_clipped_to_white() -> None:
    values = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 42).astype(np.uint16)
    pixels = images.decode_image(encode(Image.fromarray(values), "PNG"), "x")
    np.testing.assert_array_equal(pixels, np.repeat((values >> 8)[..., None], 3, axis=2))
    assert len(np.unique(pixels)) > 200


def test_sixteen_bit_rgb() -> None:
    values = np.random.default_rng(1).integers(0, 1 << 16, (5, 4, 3)).astype(">u2")
    body = b"".join(b"\0" + row.tobytes() for row in values)
    np.testing.assert_array_equal(images.decode_image(png(4, 5, 16, 2, body), "x"), values >> 8)


def ink(cyan: int, magenta: int, yellow: int, black: int) -> bytes:
    return encode(Image.new("CMYK", (16, 16), (cyan, magenta, yellow, black)), "JPEG", quality=95)


def without_adobe(data: bytes) -> bytes:
    start = data.find(b"\xff\xee")
    assert start > 0
    assert b"Adobe" in data[start : start + 16]
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]


@pytest.mark.parametrize(
    ("inks", "colour"),
    [
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 0, 0), (255, 0, 255)),
        ((0, 0, 255, 0), (255, 255, 0)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 0, 0, 0), (255, 255, 255)),
        ((100, 50, 20, 30), (155 * 225 // 255, 205 * 225 // 255, 235 * 225 // 255)),
    ],
)
def test_cmyk_jpeg(inks: tuple[int, int, int, int], colour: tuple[int, int, int]) -> None:
    # In these files 255 means no ink, the way Adobe writes them; with and without its marker.
    data = ink(*inks)
    for file in (data, without_adobe(data)):
        assert np.abs(images.decode_image(file, "x").astype(int) - colour).max() <= 3


# Orientation n as the mapping from the upright image to the one that is stored.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100}), ("TIFF", {})]
)
def test_exif_orientation(kind: str, options: dict[str, Any], orientation: int) -> None:
    stored = np.ascontiguousarray(STORED[orientation](SMOOTH))
    pixels = images.decode_image(encode(stored, kind, exif=exif(orientation), **options), "x")
    assert pixels.shape == SMOOTH.shape
    # Of all eight, it is the upright one.
    distance = np.abs(pixels.astype(int) - SMOOTH).mean()
    assert distance <= (6 if kind == "JPEG" else 0)
    assert distance < np.abs(pixels.astype(int) - SMOOTH[::-1]).mean() / 3


@pytest.mark.parametrize("orientation", [0, 9, 1000])
def test_unknown_orientations_are_ignored(orientation: int) -> None:
    np.testing.assert_array_equal(images.decode_image(encode(SMOOTH, "PNG", exif=exif(orientation)), "x"), SMOOTH)


def test_damaged_exif_costs_no_pixels() -> None:
    # As for everyone whose warnings are not errors: the filter that images.py installs, put back for this test.
    rng = np.random.default_rng(3)
    data = encode(NOISE, "WEBP", lossless=True, exif=exif(6))
    start = data.rfind(b"EXIF") + 8
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for _ in range(300):
            damaged = bytearray(data)
            for place in rng.integers(start, len(data), 4):
                damaged[place] = rng.integers(0, 256)
            assert sorted(images.decode_image(bytes(damaged), "x").shape) == [3, 64, 128]


@pytest.mark.parametrize("name", ["plain.jpg", "with space.jpg", "Zoë Ψ 人.png", "no_suffix", "wrong.bmp", "UPPER.JPG"])
def test_any_path_as_text_or_path(tmp_path: Path, name: str) -> None:
    file = tmp_path / "ordner mit ü" / name
    file.parent.mkdir()
    file.write_bytes(encoded_as("png"))
    np.testing.assert_array_equal(images.read_image(file), SMOOTH)
    np.testing.assert_array_equal(images.read_image(str(file)), SMOOTH)


def test_from_a_zip(tmp_path: Path) -> None:
    archive = tmp_path / "crops.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a/Zoë 1.png", encoded_as("png"))
        out.writestr("a/empty.png", b"")
    top = zipfile.Path(archive)
    np.testing.assert_array_equal(images.read_image(top / "a" / "Zoë 1.png"), SMOOTH)
    for name in ("empty.png", "none.png"):
        with pytest.raises(ImageError, match=name):
            images.read_image(top / "a" / name)
    with pytest.raises(ImageError, match=r"crops\.zip"):
        images.read_image(top / "a")


def damaged_zips(tmp_path: Path) -> dict[str, Path]:
    plain = tmp_path / "plain.zip"
    with zipfile.ZipFile(plain, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a.bmp", encoded_as("bmp"))
    data = plain.read_bytes()
    middle = bytearray(data)
    middle[60:80] = bytes(20)
    directory = data.rfind(b"PK\1\2")
    secret, unknown = bytearray(data), bytearray(data)
    secret[6] |= 1
    secret[directory + 8] |= 1
    unknown[8] = unknown[directory + 10] = 99
    found = {}
    for name, content in {"middle": middle, "secret": secret, "unknown": unknown}.items():
        found[name] = tmp_path / f"{name}.zip"
        found[name].write_bytes(content)
    return found


@pytest.mark.parametrize("kind", ["middle", "secret", "unknown"])
def test_damaged_encrypted_or_strange_zips(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ImageError, match=r"a\.bmp"):
        images.read_image(zipfile.Path(damaged_zips(tmp_path)[kind]) / "a.bmp")


# ---- find and read_many ----


def test_find_images(tmp_path: Path) -> None:
    wanted = ["B.JPG", "a.jpeg", "b/c/d.PNG", "b/z.webp", "c.d/e f.Bmp", "ü.jpg", "b/a.gif", "b/a.TIF", "b/b.tiff"]
    passed = ["._a.jpg", ".git/a.jpg", "b/.hidden/c/a.png", "a.txt", "b/a.heic", "jpg", "a.jpg.part", "b/.jpg"]
    for name in (*wanted, *passed):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "folder.jpg" / "in.png").touch()
    found = images.find_images(tmp_path)
    assert found == images.find_images(str(tmp_path)) == sorted(found)
    assert {path.relative_to(tmp_path).as_posix() for path in found} == {*wanted, "folder.jpg/in.png"}


def test_find_images_below_a_hidden_folder(tmp_path: Path) -> None:
    root = tmp_path / ".cache" / "set"
    root.mkdir(parents=True)
    (root / "a.jpg").touch()
    assert images.find_images(root) == [root / "a.jpg"]
    assert images.find_images(tmp_path) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_read_many_keeps_the_order_and_yields_errors_in_place(tmp_path: Path, workers: int) -> None:
    number = 32 * workers + 40  # more than it reads ahead
    paths: list[str | Path | zipfile.Path] = []
    for index in range(number):
        file = tmp_path / f"{index}.png"
        if index % 7 == 3:
            file.write_bytes(b"" if index % 2 else b"no image")
        else:
            file.write_bytes(encode(np.full((2, 3, 3), index, np.uint8), "PNG"))
        paths.append(file)
    results = list(images.read_many(iter(paths), (4, 2), workers))
    assert len(results) == number
    for index, result in enumerate(results):
        if index % 7 == 3:
            assert isinstance(result, ImageError)
            assert str(result).startswith(f"{paths[index]}: ")
        else:
            np.testing.assert_array_equal(result, np.full((4, 2, 3), index, np.uint8))


def test_read_many_reads_only_a_few_ahead(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded_as("png"))
    asked = 0

    def paths() -> Any:
        nonlocal asked
        for _ in range(10_000):
            asked += 1
            yield tmp_path / "a.png"

    many = images.read_many(paths(), (4, 2), workers=1)
    next(many)
    many.close()  # type: ignore[attr-defined]
    assert asked <= 64


def test_read_many_of_nothing() -> None:
    assert list(images.read_many([], (4, 2))) == []


# ---- other kinds of images ----


def test_the_first_frame_of_an_animated_gif() -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(images.decode_image(data, "x"), np.full((6, 8, 3), (200, 0, 0)))


@pytest.mark.skipif(not images.HAS_AVIF, reason="this Pillow reads no AVIF")
def test_avif() -> None:
    pixels = images.decode_image(encode(SMOOTH, "AVIF", quality=95), "x")
    assert np.abs(pixels.astype(int) - SMOOTH).mean() < 3


def test_pictures_of_other_kinds_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.jpg", "b/c.HEIC", "b/d.heic", "e.jp2", "f.txt", ".g.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert images.find_images(tmp_path) == [tmp_path / "a.jpg"]
    expected = f"{tmp_path}: 3 images are left out (2 .heic, 1 .jp2); convert them to JPEG or PNG"
    assert caplog.messages == [expected]


def test_pictures_of_other_kinds_in_a_zip_are_counted_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with zipfile.ZipFile(tmp_path / "crops.zip", "w") as out:
        for name in ("alice/c1_1.png", "alice/c2_1.png", "bob/c1_1.png", "bob/c2_1.png", "bob/c3_1.heic", "a/.x.heic"):
            out.writestr(name, encoded_as("png"))
    open_dataset(tmp_path / "crops.zip")
    assert f"{tmp_path / 'crops.zip'}: 1 images are left out (1 .heic); convert them to JPEG or PNG" in caplog.messages


# ---- memory ----


def test_all_steps_to_rgb_are_the_same_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    palette, colours, indices = palette_image()
    alpha = np.dstack([SMOOTH, (COLUMNS * 8).astype(np.uint8)])
    sixteen = Image.fromarray((np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 42).astype(np.uint16))
    files = [
        encode(palette, "PNG", transparency=2),
        encode(palette, "GIF", transparency=2),
        encode(alpha, "PNG"),
        encode(sixteen, "PNG"),
        encode(SMOOTH[..., 0], "PNG"),
        encode(Image.new("CMYK", (WIDTH, HEIGHT), (9, 80, 70, 60)), "JPEG"),
    ]
    whole = [images.decode_image(data, "x") for data in files]
    monkeypatch.setattr(images, "STRIP_PIXELS", 5 * WIDTH)
    for data, pixels in zip(files, whole, strict=True):
        np.testing.assert_array_equal(images.decode_image(data, "x"), pixels)
    colours[2] = 128
    np.testing.assert_array_equal(whole[0], colours[indices])


def test_the_pixels_decoded_at_one_time_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{number}.png" for number in range(24)]
    for number, file in enumerate(files):
        file.write_bytes(encode(np.full((10, 10 * (1 + number % 3), 3), number, np.uint8), "PNG"))
    limit = 500  # pixels; the images have 100, 200 and 300
    monkeypatch.setattr(images, "MAX_PIXELS", limit)
    lock, decoding, peaks = threading.Lock(), [0], []
    decode = images._pixels

    def count(image: Image.Image, size: tuple[int, int] | None) -> images.Pixels:
        pixels = image.width * image.height
        with lock:
            decoding[0] += pixels
            peaks.append(decoding[0])
        time.sleep(0.005)
        try:
            return decode(image, size)
        finally:
            with lock:
                decoding[0] -= pixels

    monkeypatch.setattr(images, "_pixels", count)
    results = list(images.read_many(files, (4, 2), workers=12))
    assert 300 < max(peaks) <= limit
    for number, pixels in enumerate(results):
        np.testing.assert_array_equal(pixels, np.full((4, 2, 3), number, np.uint8))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize(("suffix", "mode", "side"), [("png", "RGBA", 10_000), ("webp", "RGBA", 7071)])
def test_reading_many_large_pictures_stays_under_1500_megabytes(
    tmp_path: Path, suffix: str, mode: str, side: int
) -> None:
    # As on a machine with 64 cores: four of the largest images, a few hundred kilobytes each.
    first = tmp_path / f"0.{suffix}"
    Image.new(mode, (side, side), (90, 80, 70, 60)[: len(mode)]).save(first, quality=20)
    for number in range(1, 4):
        (tmp_path / f"{number}.{suffix}").write_bytes(first.read_bytes())
    code = """
import sys
from pathlib import Path
from bot_deploy import images
results = list(images.read_many(images.find_images(sys.argv[1]), (256, 128), workers=64))
print(sum(result.shape == (256, 128, 3) for result in results))
status = Path("/proc/self/status").read_text()  # ru_maxrss would be this process's, if that is more
print(int(status.split("VmHWM:")[1].split()[0]) * 1024 // 1_000_000)"""
    done = run_python("-c", code, tmp_path)
    number, megabytes = map(int, done.stdout.split())
    assert number == 4, done.stderr
    assert megabytes < 1200  # leaves 300 for a model
