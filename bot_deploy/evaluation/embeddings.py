"""The embedding cache: embeddings of a data set are reused while neither the model nor the images change."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import zipfile
from dataclasses import replace
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

CACHE_NAME = "embeddings-1"  # raise the number when the same crops get other embeddings
MAX_CACHE_BYTES = 2 << 30  # beyond it the longest unused files are deleted


def embed_or_reuse(
    embedder: Embedder, crops: Sequence[Crop], crops_name: str, *, model: Path, fresh: bool = False
) -> Vectors:
    """The embeddings [N, D] of `crops`, from the embedding cache if they are there.

    Args:
        embedder: the opened model.
        crops: the images.
        crops_name: names the crops in the log and on the progress bar.
        model: the file of `embedder`.
        fresh: embed again instead of reading the cache; the result replaces the cached one.

    Raises:
        InputError: a crop is not a usable image.
    """
    try:
        path = cache_folder(CACHE_NAME) / f"{_key(embedder, model, crops)}.npz"
    except (OSError, KeyError, RunError):  # a missing crop, which embed_crops will name, or no home folder
        return embed_crops(embedder, crops, crops_name)
    cached = None if fresh else _read(path, (len(crops), embedder.contract.dim))
    if cached is not None:
        logger.info(f"embeddings of {len(crops)} {crops_name} crops reused from the embedding cache")
        return cached
    vectors = embed_crops(embedder, crops, crops_name)
    if vectors.nbytes <= MAX_CACHE_BYTES:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda temporary: _write(temporary, vectors))
            _delete_longest_unused(path.parent)
        except (OSError, RunError) as error:
            logger.warning(f"embeddings are not cached: {error}")
    return vectors


def _key(embedder: Embedder, model: Path, crops: Sequence[Crop]) -> str:
    """A hash of everything that an embedding depends on: model file, backend, contract, Pillow and the crops."""
    digest = hashlib.sha256()
    with model.open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    # Embeddings are those of the network: neither thresholds nor camera means change them.
    contract = replace(embedder.contract, calibration=None, camera_means=(), whitening="")
    digest.update(f"{embedder.backend}\n{contract.to_json()}\n{PIL.__version__}\n".encode())
    digest.update(crops_fingerprint(crops).encode())
    for crop in crops:
        digest.update(f"{_version(crop.path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _version(path: Path | zipfile.Path) -> str:
    """A text that changes when the file's content changes."""
    if isinstance(path, zipfile.Path):
        entry = path.root.getinfo(path.at)
        return f"{entry.CRC} {entry.file_size}"
    stat = path.stat()
    # ctime too: a program can set mtime back.
    return f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def _write(path: Path, vectors: Vectors) -> None:
    with path.open("wb") as file:
        np.savez(file, embeddings=vectors)


def _read(path: Path, shape: tuple[int, int]) -> Vectors | None:
    """The cached embeddings of this shape, or None if the file is missing or damaged (a zip has checksums)."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            vectors: Vectors = arrays["embeddings"]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    if vectors.shape != shape or vectors.dtype != np.float32:
        return None
    with contextlib.suppress(OSError):  # a read-only folder
        os.utime(path)
    return vectors


def _delete_longest_unused(folder: Path) -> None:
    """Deletes the longest unused files beyond MAX_CACHE_BYTES."""
    bytes_left = MAX_CACHE_BYTES
    files = sorted(((path, path.stat()) for path in folder.iterdir()), key=lambda file: -file[1].st_mtime_ns)
    for path, stat in files:
        bytes_left -= stat.st_size
        if bytes_left < 0:
            path.unlink(missing_ok=True)
