"""Pictures as bytes, in every way a file of each format may be written."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bot_deploy import images
from bot_deploy.errors import ImageError

U8 = npt.NDArray[np.uint8]

HEIGHT, WIDTH = 48, 32
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
SMOOTH: U8 = np.stack([ROWS * 5, COLUMNS * 7, (ROWS + COLUMNS) * 3], axis=-1).astype(np.uint8)
NOISE: U8 = np.random.default_rng(7).integers(0, 256, (128, 64, 3), dtype=np.uint8)

# One image on disk in every way a file of each format may be written.
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
    "gif": ("GIF", {}),
    "tiff": ("TIFF", {}),
    "tiff-lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff-exif": ("TIFF", {"exif": b"made below"}),
    "avif": ("AVIF", {}),
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


def encoded_as(way: str, image: U8 = SMOOTH) -> bytes:
    kind, options = WAYS[way]
    return encode(image, kind, **{**options, **({"exif": exif(6)} if "exif" in options else {})})


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


def decode_or_none(data: bytes) -> U8 | None:
    """What `decode` may do with any bytes at all: an image, or ImageError with the name; None for that."""
    refusal = ""
    try:
        pixels = images.decode_image(data, "a b/ö.jpg")
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
