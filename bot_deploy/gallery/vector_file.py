"""The file with the vectors of an index: a header of 4096 bytes, then float16 vectors, one after the other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.embedder import Vectors

    from .search import Float16Vectors, Slots

HEADER_BYTES = 4096  # before the first vector
MAGIC = b"bot-deploy gallery: float16 vectors from byte 4096\n"
COPY_VECTORS = 4096  # copied at once, so that a large file does not fill the memory


def file_bytes(length: int, dim: int) -> int:
    """The size in bytes of a file of `length` vectors."""
    return HEADER_BYTES + length * dim * 2


def has_header(path: Path) -> bool:
    """Whether the file begins as `append_vectors` begins it."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def append_vectors(path: Path, vectors: Vectors, length: int) -> None:
    """Writes `vectors` [N, D] as float16 behind the first `length` vectors; on return they are on the disk."""
    if not len(vectors):
        return
    with path.open("r+b" if path.exists() else "w+b") as file:
        if not length:
            file.write(MAGIC.ljust(HEADER_BYTES, b"\0"))
        file.seek(file_bytes(length, vectors.shape[1]))
        file.write(vectors.astype(np.float16).tobytes())
        file.flush()
        _sync(file.fileno())


def copy_vectors(vectors: Float16Vectors, slots: Slots, path: Path) -> None:
    """Writes a new file of the vectors in `slots`, in their order; on return they are on the disk."""
    with path.open("wb") as file:
        file.write(MAGIC.ljust(HEADER_BYTES, b"\0"))
        for start in range(0, len(slots), COPY_VECTORS):
            file.write(vectors[slots[start : start + COPY_VECTORS]].tobytes())
        _sync(file.fileno())


def _sync(file: int) -> None:
    getattr(os, "fdatasync", os.fsync)(file)
