"""Embeddings of a data set, kept for as long as neither the model nor the pictures change."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import PIL

from bot_deploy.datasets import crops_fingerprint
from bot_deploy.errors import RunError
from bot_deploy.files import cache_folder, write_atomically

from .protocol import embed_crops

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot_deploy.datasets import Crop
    from bot_deploy.embedder import Embedder, Vectors

logger = logging.getLogger(__name__)

FOLDER = "embeddings-1"  # the number grows when the same crops would embed otherwise
LIMIT = 2 << 30  # bytes kept in all; the longest unused go first


def embed_or_reuse(
    embedder: Embedder, crops: Sequence[Crop], label: str, *, model: Path, fresh: bool = False
) -> Vectors:
    """`embed_crops` by `embedder`, which is `model`, unless it was done before; `fresh` does it again anyway."""
    try:
        path = cache_folder(FOLDER) / f"{_key(embedder, model, crops)}.npz"
    except (OSError, KeyError, RunError):  # a crop that is not there, which embedding will name, or no home folder
        return embed_crops(embedder, crops, label)
    kept = None if fresh else _read(path, (len(crops), embedder.contract.dim))
    if kept is not None:
        logger.info(f"embeddings of {len(crops)} {label} crops reused; --fresh embeds them again")
        return kept
    vectors = embed_crops(embedder, crops, label)
    if vectors.nbytes <= LIMIT:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda temporary: _write(temporary, vectors))
            _forget(path.parent)
        except (OSError, RunError) as error:
            logger.warning(f"embeddings not kept for the next time: {error}")
    return vectors


def _key(embedder: Embedder, model: Path, crops: Sequence[Crop]) -> str:
    """Over all that an embedding depends on: the model's bytes, what runs it and decodes, and every crop's file."""
    digest = hashlib.sha256()
    with model.open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(f"{embedder.backend}\n{embedder.contract.to_json()}\n{PIL.__version__}\n".encode())
    digest.update(crops_fingerprint(crops).encode())
    for crop in crops:
        digest.update(f"{_version(crop.path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _version(path: Path | zipfile.Path) -> str:
    """What changes when the file's content does."""
    if isinstance(path, zipfile.Path):
        entry = path.root.getinfo(path.at)
        return f"{entry.CRC} {entry.file_size}"
    stat = path.stat()
    # The time of the change, too: that of the content can be set back.
    return f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def _write(path: Path, vectors: Vectors) -> None:
    with path.open("wb") as file:
        np.savez(file, embeddings=vectors)


def _read(path: Path, shape: tuple[int, int]) -> Vectors | None:
    """None for what is not there or is not as it was written, which the checksum of a zip tells."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            vectors: Vectors = arrays["embeddings"]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    if vectors.shape != shape or vectors.dtype != np.float32:
        return None
    with contextlib.suppress(OSError):  # in a folder that may only be read
        os.utime(path)
    return vectors


def _forget(folder: Path) -> None:
    """Deletes the longest unused files beyond LIMIT bytes."""
    room = LIMIT
    for path, stat in sorted(((path, path.stat()) for path in folder.iterdir()), key=lambda one: -one[1].st_mtime_ns):
        room -= stat.st_size
        if room < 0:
            path.unlink(missing_ok=True)
