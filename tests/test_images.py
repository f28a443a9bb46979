"""The one decode and the one resize: every kind of file, every kind of damage, golden pixels."""

from __future__ import annotations

import io
import math
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bot_deploy import images
from bot_deploy.errors import ImageError

U8 = npt.NDArray[np.uint8]

HEIGHT, WIDTH = 48, 32
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
SMOOTH: U8 = np.stack([ROWS * 5, COLUMNS * 7, (ROWS + COLUMNS) * 3], axis=-1).astype(np.uint8)
NOISE: U8 = np.random.default_rng(7).integers(0, 256, (128, 64, 3), dtype=np.uint8)

# One picture on disk in every way a file of each format may be written.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {}),
    "jpeg-progressive": ("JPEG", {"progressive": True}),
    "jpeg-exif": ("JPEG", {"exif": b"made below"}),
    "png": ("PNG", {}),
    "png-exif": ("PNG", {"exif": b"made below"}),
    "webp": ("WEBP", {}),
    "webp-lossless": ("WEBP", {"lossless": True}),
    "webp-exif": ("WEBP", {"exif": b"made below"}),
    "bmp": ("BMP", {}),
}


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010E] = "a description, so that there is something to damage"
    return tags


def encode(image: Image.Image | U8, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def written(way: str, picture: U8 = SMOOTH) -> bytes:
    kind, options = WAYS[way]
    return encode(picture, kind, **{**options, **({"exif": exif(6)} if "exif" in options else {})})


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, body: bytes, *between: bytes) -> bytes:
    """A PNG put together by hand; `body` are its rows, each after a filter byte."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(body))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(between) + data + chunk(b"IEND", b"")


def bmp(width: int, height: int, body: bytes) -> bytes:
    header = b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, 54)
    return header + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(body), 0, 0, 0, 0) + body


def whole_or_refused(data: bytes) -> U8 | None:
    """What `decode` may do with any bytes at all: a picture, or ImageError with the name; None for that."""
    refusal = ""
    try:
        pixels = images.decode(data, "a b/ö.jpg")
    except ImageError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith("a b/ö.jpg: ")
        return None
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.size
    return pixels


# ---- what is right ----


@pytest.mark.parametrize("way", ["png", "webp-lossless", "bmp"])
@pytest.mark.parametrize("picture", [SMOOTH, NOISE], ids=["smooth", "noise"])
def test_lossless_formats_give_the_pixels_back(way: str, picture: U8) -> None:
    np.testing.assert_array_equal(images.decode(written(way, picture), "x"), picture)


@pytest.mark.parametrize("way", ["jpeg", "jpeg-progressive", "webp"])
def test_lossy_formats_agree_with_another_decoder(way: str) -> None:
    data = written(way)
    other = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
    pixels = images.decode(data, "x")
    assert np.abs(pixels.astype(int) - other).max() <= 2
    assert np.abs(pixels.astype(int) - SMOOTH).mean() < 12  # and it is that picture


def test_bmp_stored_top_down() -> None:
    rows = bytes([1, 2, 3, 4, 5, 6, 0, 0]) + bytes([7, 8, 9, 10, 11, 12, 0, 0])
    expected = np.array([[[3, 2, 1], [6, 5, 4]], [[9, 8, 7], [12, 11, 10]]], np.uint8)
    np.testing.assert_array_equal(images.decode(bmp(2, -2, rows), "x"), expected)
    np.testing.assert_array_equal(images.decode(bmp(2, 2, rows), "x"), expected[::-1])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_grey(kind: str) -> None:
    grey = SMOOTH[..., 2]
    pixels = images.decode(encode(grey, kind, **({"quality": 100} if kind == "JPEG" else {})), "x")
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels.astype(int) - grey[..., None]).max() <= (2 if kind == "JPEG" else 0)


def over_grey(colour: npt.NDArray[Any], alpha: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    share = alpha.astype(float)[..., None] / 255
    return np.asarray(colour.astype(float) * share + 128 * (1 - share))


def test_alpha_is_composited_over_mid_grey() -> None:
    alpha = (COLUMNS * 8).astype(np.uint8)
    rgba = np.dstack([SMOOTH, alpha])
    pixels = images.decode(encode(rgba, "PNG"), "x")
    assert np.abs(pixels - over_grey(SMOOTH, alpha)).max() <= 1
    assert (pixels[:, 0] == 128).all()
    webp = images.decode(encode(rgba, "WEBP", lossless=True, exact=True), "x")
    np.testing.assert_array_equal(webp, pixels)


def test_grey_with_alpha() -> None:
    alpha = (COLUMNS * 8).astype(np.uint8)
    two = Image.merge("LA", [Image.fromarray(SMOOTH[..., 0]), Image.fromarray(alpha)])
    pixels = images.decode(encode(two, "PNG"), "x")
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
    np.testing.assert_array_equal(images.decode(encode(image, kind), "x"), colours[indices])


def test_palette_with_one_transparent_colour() -> None:
    image, colours, indices = palette_image()
    colours[2] = 128
    np.testing.assert_array_equal(images.decode(encode(image, "PNG", transparency=2), "x"), colours[indices])


def test_palette_with_an_alpha_for_each_colour() -> None:
    image, colours, indices = palette_image()
    alphas = np.array([255, 0, 128, 64], np.uint8)
    pixels = images.decode(encode(image, "PNG", transparency=alphas.tobytes()), "x")
    assert np.abs(pixels - over_grey(colours, alphas)[indices]).max() <= 1


@pytest.mark.parametrize(("colour", "marked"), [(2, (1, 2, 3)), (0, (7,))], ids=["rgb", "grey"])
def test_one_transparent_colour_without_a_palette(colour: int, marked: tuple[int, ...]) -> None:
    row = bytes(marked) + bytes(len(marked) * [200])
    body = png(2, 1, 8, colour, b"\0" + row, chunk(b"tRNS", struct.pack(f">{len(marked)}H", *marked)))
    np.testing.assert_array_equal(images.decode(body, "x"), [[[128] * 3, [200] * 3]])


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_one_bit(kind: str) -> None:
    bits = (ROWS + COLUMNS) % 3 == 0
    pixels = images.decode(encode(Image.fromarray(bits), kind), "x")
    np.testing.assert_array_equal(pixels, np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


@pytest.mark.parametrize(("bits", "packed", "values"), [(2, 0b00011011, (0, 85, 170, 255)), (4, 0x0F, (0, 255))])
def test_two_and_four_bit_grey(bits: int, packed: int, values: tuple[int, ...]) -> None:
    pixels = images.decode(png(len(values), 1, bits, 0, bytes([0, packed])), "x")
    np.testing.assert_array_equal(pixels[0, :, 0], values)


def test_sixteen_bit_grey_is_scaled_and_not_clipped_to_white() -> None:
    values = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 42).astype(np.uint16)
    pixels = images.decode(encode(Image.fromarray(values), "PNG"), "x")
    np.testing.assert_array_equal(pixels, np.repeat((values >> 8)[..., None], 3, axis=2))
    assert len(np.unique(pixels)) > 200


def test_sixteen_bit_rgb() -> None:
    values = np.random.default_rng(1).integers(0, 1 << 16, (5, 4, 3)).astype(">u2")
    body = b"".join(b"\0" + row.tobytes() for row in values)
    np.testing.assert_array_equal(images.decode(png(4, 5, 16, 2, body), "x"), values >> 8)


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
        assert np.abs(images.decode(file, "x").astype(int) - colour).max() <= 3


# Orientation n as the mapping from the upright picture to the one that is stored.
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
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100})])
def test_exif_orientation(kind: str, options: dict[str, Any], orientation: int) -> None:
    stored = np.ascontiguousarray(STORED[orientation](SMOOTH))
    pixels = images.decode(encode(stored, kind, exif=exif(orientation), **options), "x")
    assert pixels.shape == SMOOTH.shape
    # Of all eight, it is the upright one.
    distance = np.abs(pixels.astype(int) - SMOOTH).mean()
    assert distance <= (6 if kind == "JPEG" else 0)
    assert distance < np.abs(pixels.astype(int) - SMOOTH[::-1]).mean() / 3


@pytest.mark.parametrize("orientation", [0, 9, 1000])
def test_unknown_orientations_are_ignored(orientation: int) -> None:
    np.testing.assert_array_equal(images.decode(encode(SMOOTH, "PNG", exif=exif(orientation)), "x"), SMOOTH)


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
            assert sorted(images.decode(bytes(damaged), "x").shape) == [3, 64, 128]


@pytest.mark.parametrize("name", ["plain.jpg", "with space.jpg", "Zoë Ψ 人.png", "no_suffix", "wrong.bmp", "UPPER.JPG"])
def test_any_path_as_text_or_path(tmp_path: Path, name: str) -> None:
    file = tmp_path / "ordner mit ü" / name
    file.parent.mkdir()
    file.write_bytes(written("png"))
    np.testing.assert_array_equal(images.load(file), SMOOTH)
    np.testing.assert_array_equal(images.load(str(file)), SMOOTH)


def test_from_a_zip(tmp_path: Path) -> None:
    archive = tmp_path / "crops.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a/Zoë 1.png", written("png"))
        out.writestr("a/empty.png", b"")
    top = zipfile.Path(archive)
    np.testing.assert_array_equal(images.load(top / "a" / "Zoë 1.png"), SMOOTH)
    for name in ("empty.png", "none.png"):
        with pytest.raises(ImageError, match=name):
            images.load(top / "a" / name)
    with pytest.raises(ImageError, match=r"crops\.zip"):
        images.load(top / "a")


def damaged_zips(tmp_path: Path) -> dict[str, Path]:
    plain = tmp_path / "plain.zip"
    with zipfile.ZipFile(plain, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a.bmp", written("bmp"))
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
        images.load(zipfile.Path(damaged_zips(tmp_path)[kind]) / "a.bmp")


# ---- what is wrong ----


def spoiled() -> dict[str, bytes]:
    jpeg, noisy, lossless = written("jpeg"), written("jpeg", NOISE), written("webp", NOISE)
    progressive, flat = written("jpeg-progressive", NOISE), written("bmp")
    return {
        "empty.jpg": b"",
        "text.jpg": b"this is no picture\n" * 20,
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
        "half.png": written("png", NOISE)[:12000],
        "header.png": written("png")[:40],
        "half of it zeros.png": written("png", NOISE)[:12000] + bytes(12000),
        "no data.png": png(4, 4, 8, 2, b""),
        "no rows.png": png(0, 4, 8, 2, b""),
        "half.webp": lossless[: len(lossless) // 2],
        "almost.webp": lossless[:-3],
        "header.webp": lossless[:20],
        "half.bmp": flat[: len(flat) // 2],
        "almost.bmp": flat[:-1],
        "header.bmp": flat[:40],
        "no rows.bmp": bmp(4, 0, b""),
        "film.gif": encode(SMOOTH, "GIF"),
        "scan.tiff": encode(SMOOTH, "TIFF"),
        "renamed gif.jpg": encode(SMOOTH, "GIF"),
    }


@pytest.mark.parametrize("name", spoiled())
def test_what_is_no_whole_image_is_refused_by_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(spoiled()[name])
    with pytest.raises(ImageError) as caught:
        images.load(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_missing_files_folders_and_impossible_names(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    for name in ("folder.jpg", "missing.jpg", "no\0way.jpg", "x" * 300 + ".jpg"):
        for path in (tmp_path / name, str(tmp_path / name)):
            with pytest.raises(ImageError, match=r"cannot be read") as caught:
                images.load(path)
            assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("way", WAYS)
def test_a_cut_anywhere_gives_the_whole_picture_or_none(way: str) -> None:
    data = written(way, NOISE)
    whole = images.decode(data, "x")
    cuts = sorted({*range(0, 600, 13), *range(0, len(data), len(data) // 60), *range(len(data) - 40, len(data))})
    refused = 0
    for cut in cuts:
        pixels = whole_or_refused(data[:cut])
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
            images.decode(data, "big")


def test_real_pixels_over_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", HEIGHT * WIDTH)
    assert images.decode(written("jpeg"), "x").shape == SMOOTH.shape  # the limit itself is allowed
    monkeypatch.setattr(images, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    for way in WAYS:
        with pytest.raises(ImageError, match="over 100 megapixels"):
            images.decode(written(way), "x")


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
            data = bytearray(written(way, SMOOTH))
            reach = len(data) if turn % 2 else min(len(data), 300)  # half of them hit the headers
            for place in rng.integers(0, reach, rng.integers(1, 5)):
                data[place] = rng.integers(0, 256)
            if turn % 3 == 0:
                data = data[: rng.integers(0, len(data))]
            outcomes.add(whole_or_refused(bytes(data)) is None)
    assert any(outcomes)


def test_usual_warnings_stay_silent() -> None:
    # In its own process, since pytest sets the filters of this one.
    whole = encode(SMOOTH, "JPEG", exif=exif(6))
    data = whole.replace(b"\x01\x0e\x00\x02\x00\x00", b"\x01\x0e\x00\x02\xff\x00")
    assert data != whole
    code = "import sys; from bot_deploy import images; print(images.decode(sys.stdin.buffer.read(), 'x').shape)"
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert done.stdout.decode().strip() in {f"({WIDTH}, {HEIGHT}, 3)", f"({HEIGHT}, {WIDTH}, 3)"}
    assert done.stderr == b""


# ---- resize ----


def triangle_weights(size: int, out: int) -> list[list[tuple[int, float]]]:
    """For each output pixel the input pixels it sees and their weights: a triangle, widened when shrinking."""
    scale = size / out
    support = max(scale, 1.0)
    rows = []
    for target in range(out):
        centre = (target + 0.5) * scale
        seen = []
        for source in range(size):
            weight = 1 - abs(source + 0.5 - centre) / support
            if weight > 0:
                seen.append((source, weight))
        total = sum(weight for _, weight in seen)
        rows.append([(source, weight / total) for source, weight in seen])
    return rows


def naive_resize(image: U8, height: int, width: int) -> npt.NDArray[np.float64]:
    down, across = triangle_weights(image.shape[0], height), triangle_weights(image.shape[1], width)
    out = np.zeros((height, width, 3))
    for y in range(height):
        for x in range(width):
            for channel in range(3):
                out[y, x, channel] = math.fsum(
                    wy * wx * float(image[sy, sx, channel]) for sy, wy in down[y] for sx, wx in across[x]
                )
    return out


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((30, 20), (10, 5)),  # down, by whole numbers
        ((31, 17), (12, 7)),  # down
        ((7, 5), (20, 13)),  # up
        ((9, 21), (24, 8)),  # up and down
        ((24, 6), (7, 15)),
        ((1, 1), (4, 3)),
        ((13, 9), (1, 1)),
        ((16, 8), (16, 4)),  # one side already fits
    ],
)
def test_resize_to_golden_pixels(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = np.random.default_rng(5).integers(0, 256, (*source, 3), dtype=np.uint8)
    resized = images.resize(image, target)
    assert resized.dtype == np.uint8
    assert resized.shape == (*target, 3)
    assert np.abs(resized - naive_resize(image, *target)).max() <= 1


def test_resize_by_hand() -> None:
    # Halving a row: each output pixel sees four inputs with weights 1 3 3 1, three at the borders.
    row = np.repeat(np.array([[0, 80, 160, 240]], np.uint8)[..., None], 3, axis=2)
    expected = [round((3 * 0 + 3 * 80 + 160) / 7), round((80 + 3 * 160 + 3 * 240) / 7)]
    np.testing.assert_array_equal(images.resize(row, (1, 2))[0, :, 0], expected)


def test_an_image_that_fits_is_left_alone() -> None:
    np.testing.assert_array_equal(images.resize(NOISE, (128, 64)), NOISE)


def test_size_is_height_and_width(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(written("png"))
    assert images.load_resized(tmp_path / "a.png", (20, 10)).shape == (20, 10, 3)
    np.testing.assert_array_equal(images.load_resized(tmp_path / "a.png", (20, 10)), images.resize(SMOOTH, (20, 10)))


# ---- find and load_many ----


def test_find(tmp_path: Path) -> None:
    wanted = ["B.JPG", "a.jpeg", "b/c/d.PNG", "b/z.webp", "c.d/e f.Bmp", "ü.jpg"]
    passed = ["._a.jpg", ".git/a.jpg", "b/.hidden/c/a.png", "a.txt", "b/a.gif", "jpg", "a.jpg.part", "b/.jpg"]
    for name in (*wanted, *passed):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "folder.jpg" / "in.png").touch()
    found = images.find(tmp_path)
    assert found == images.find(str(tmp_path)) == sorted(found)
    assert {path.relative_to(tmp_path).as_posix() for path in found} == {*wanted, "folder.jpg/in.png"}


def test_find_below_a_hidden_folder(tmp_path: Path) -> None:
    root = tmp_path / ".cache" / "set"
    root.mkdir(parents=True)
    (root / "a.jpg").touch()
    assert images.find(root) == [root / "a.jpg"]
    assert images.find(tmp_path) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_load_many_keeps_the_order_and_yields_errors_in_place(tmp_path: Path, workers: int) -> None:
    number = 32 * workers + 40  # more than it reads ahead
    paths: list[str | Path | zipfile.Path] = []
    for index in range(number):
        file = tmp_path / f"{index}.png"
        if index % 7 == 3:
            file.write_bytes(b"" if index % 2 else b"no picture")
        else:
            file.write_bytes(encode(np.full((2, 3, 3), index, np.uint8), "PNG"))
        paths.append(file)
    results = list(images.load_many(iter(paths), (4, 2), workers))
    assert len(results) == number
    for index, result in enumerate(results):
        if index % 7 == 3:
            assert isinstance(result, ImageError)
            assert str(result).startswith(f"{paths[index]}: ")
        else:
            np.testing.assert_array_equal(result, np.full((4, 2, 3), index, np.uint8))


def test_load_many_reads_only_a_few_ahead(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(written("png"))
    asked = 0

    def paths() -> Any:
        nonlocal asked
        for _ in range(10_000):
            asked += 1
            yield tmp_path / "a.png"

    many = images.load_many(paths(), (4, 2), workers=1)
    next(many)
    many.close()  # type: ignore[attr-defined]
    assert asked <= 64


def test_load_many_of_nothing() -> None:
    assert list(images.load_many([], (4, 2))) == []
