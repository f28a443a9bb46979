"""The gallery: everyone a query can be matched with, as unit vectors beside their files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy import images
from bot_deploy.errors import ImageError, InputError

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.embedder import Embedder, Vectors


@dataclass(frozen=True)
class Gallery:
    """`vectors` [N, D] of `paths`; `broken` are the files that are no images."""

    paths: tuple[Path, ...]
    vectors: Vectors
    broken: tuple[tuple[Path, ImageError], ...]

    def search(self, query: Vectors, top: int) -> list[tuple[Path, float]]:
        """The `top` most similar of all, best first: (path, cosine); equal ones in order of path."""
        # Not `@`: BLAS sums the last rows in another order, so that equal vectors would differ in the last digit.
        similarity = np.einsum("nd,d->n", self.vectors, query)
        best = np.argsort(-similarity, kind="stable")[:top]
        return [(self.paths[row], float(similarity[row])) for row in best]


def embed_folder(folder: Path, embedder: Embedder) -> Gallery:
    """Embeds every image under `folder`, at any depth.

    Raises:
        InputError: no such folder, or not one usable image in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; the gallery is a folder of crops, one person on each")
    paths = images.find(folder)
    vectors, errors = embedder.embed_files(paths, "gallery")
    usable = [row for row, error in enumerate(errors) if error is None]
    if not usable:
        raise InputError(
            f"{folder}: {len(paths)} image files, none usable; crops end in {', '.join(sorted(images.SUFFIXES))}"
        )
    broken = tuple((path, error) for path, error in zip(paths, errors, strict=True) if error)
    return Gallery(tuple(paths[row] for row in usable), vectors[usable], broken)
