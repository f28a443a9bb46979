"""Damaged pictures, through the decoder, the embedder and `bot match`, `index` and `embed`."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bot_deploy.errors import ImageError
from bot_deploy.images import HAS_AVIF, MAX_PIXELS, read_image

from .harness import Fell, bot, check_message, refuses
from .material import draw_crop
from .mutate import damage

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from bot_deploy.images import Pixels

    from .material import Material

NOISE = np.random.default_rng(7).integers(0, 256, (64, 40, 3), dtype=np.uint8)
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("JPEG", {}),
    "progressive.jpg": ("JPEG", {"progressive": True}),
    "exif.jpg": ("JPEG", {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"}),
    "png": ("PNG", {}),
    "palette.png": ("PNG", {}),
    "webp": ("WEBP", {}),
    "lossless.webp": ("WEBP", {"lossless": True}),
    "bmp": ("BMP", {}),
    "gif": ("GIF", {}),
    "tiff": ("TIFF", {}),
    "lzw.tiff": ("TIFF", {"compression": "tiff_lzw"}),
    **({"avif": ("AVIF", {})} if HAS_AVIF else {}),
}
SIZE_FIELDS = {"png": (16, ">II"), "bmp": (18, "<ii"), "gif": (6, "<HH")}  # offset and form of width and height
EMBED_EVERY, COMMAND_EVERY = 20, 100  # attacks; the others only decode


def whole_picture(way: str, *, noisy: bool) -> bytes:
    """A picture as the bytes of a file."""
    image = Image.fromarray(NOISE if noisy else draw_crop(1, 1))
    if way == "palette.png":
        image = image.convert("P")
    stream = io.BytesIO()
    kind, options = WAYS[way]
    image.save(stream, kind, **options)
    return stream.getvalue()


def attack(rng: random.Random, material: Material) -> bool:
    """Damages a picture and reads it."""
    way = rng.choice(list(WAYS))
    whole = whole_picture(way, noisy=rng.random() < 0.5)
    suffix = way.rpartition(".")[2]
    if rng.random() < 0.1 and suffix in SIZE_FIELDS:
        data = with_size(whole, suffix, rng.choice((0, 1, 41, 9999, 65_535, 2**31 - 1)), rng.choice((0, 1, 63, 50_000)))
    elif rng.random() < 0.1:
        other = whole_picture(rng.choice(list(WAYS)), noisy=True)
        cut = rng.randrange(1, len(whole))
        data = whole[:cut] + other[cut:]
    else:
        data = damage(whole, rng)
    folder = material.empty_scratch()
    path = folder / f"0002_c1s1_000001_00.{suffix}"
    path.write_bytes(data)
    chance = rng.random()
    if chance < 1 / COMMAND_EVERY:
        return through_command(rng, path, material)
    pixels = read(path)
    if pixels is not None and suffix == "png" and data != whole and not np.array_equal(pixels, decoded(whole)):
        raise Fell("a damaged PNG gave other pixels")
    if chance < 1 / EMBED_EVERY:
        through_embedder(path, material, readable=pixels is not None)
    return pixels is None


def with_size(data: bytes, kind: str, width: int, height: int) -> bytes:
    """`data` with another size in its header."""
    start, form = SIZE_FIELDS[kind]
    limit = 65_535 if form == "<HH" else 2**31 - 1
    field = struct.pack(form, min(width, limit), min(height, limit))
    return data[:start] + field + data[start + len(field) :]


def decoded(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def read(path: Path) -> Pixels | None:
    """The pixels of `path`, checked; None if it was refused by an ImageError that names it."""
    try:
        pixels = read_image(path)
    except ImageError as error:
        check_message(str(error))
        if str(path) not in str(error):
            raise Fell(f"no path in {error}") from None
        return None
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not 0 < pixels.size <= 3 * MAX_PIXELS:
        raise Fell(f"pixels {pixels.dtype} {pixels.shape}")
    return pixels


def through_embedder(path: Path, material: Material, *, readable: bool) -> None:
    vectors = refuses(lambda: material.embedder.embed(path))
    if (vectors is not None) != readable:
        raise Fell("the decoder and the embedder differ")
    if vectors is not None and not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
        raise Fell("an embedding that is no unit vector")
    _, usable = material.embedder.embed([path], on_error="skip")
    if bool(usable[0]) != readable:
        raise Fell("on_error='skip' differs")


def through_command(rng: random.Random, path: Path, material: Material) -> bool:
    """A folder with this picture and a whole one."""
    Image.fromarray(draw_crop(3, 3)).save(path.with_name("0003_c2s1_000001_00.png"))
    model = ("--model", material.model, "--device", "cpu", "--threads", 1)
    command = rng.choice(("match", "query", "index", "embed"))
    if command == "embed":
        finished = bot("embed", path.parent, "--out", material.folder / "vectors.npy", *model)
    elif command == "index":
        finished = bot("index", path.parent, "-o", path.parent / "out.gallery", "--json", *model)
    elif command == "query":
        finished = bot("match", path, material.gallery, "--json", *model)
    else:
        query = min(material.crops.iterdir())
        finished = bot("match", query, path.parent, "--json", *model)
    if command != "query" and finished.code:
        raise Fell(f"one broken picture stopped bot {command}: {finished.stderr[-200:]!r}")
    if command == "embed":
        vectors = np.load(material.folder / "vectors.npy")
        if not np.isfinite(vectors).all():
            raise Fell("an embedding of NaN was written")
    return finished.code != 0 or '"broken": 1' in finished.stdout


ATTACKS = {"pictures": attack}
