"""The one decode on every kind of damage: a whole picture or an error, and no warning."""

from __future__ import annotations

import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import run_bot, run_python
from helpers.pictures import HEIGHT, NOISE, SMOOTH, WAYS, WIDTH, bmp, encode, exif, png, whole_or_refused, written
from PIL import Image

from bot_deploy import images
from bot_deploy.errors import ImageError


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
    data = written(way, NOISE)
    whole = images.decode_image(data, "x")
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
            images.decode_image(data, "big")


def test_real_pixels_over_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", HEIGHT * WIDTH)
    assert images.decode_image(written("jpeg"), "x").shape == SMOOTH.shape  # the limit itself is allowed
    monkeypatch.setattr(images, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    for way in WAYS:
        with pytest.raises(ImageError, match="over 100 megapixels"):
            images.decode_image(written(way), "x")


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
