"""Brings an index to a later model, piece by piece: it can be searched all the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot_deploy.progress import progress_counter

from .indexing import FILES_PER_COMMIT

if TYPE_CHECKING:
    from bot_deploy.embedder import Embedder

    from .interface import Index


def renew_vectors(index: Index, embedder: Embedder) -> int:
    """Embeds the outdated items of `index` again from their files; returns the number of new vectors.

    Each commit has some of them, so a killed process loses only its last ones. An item whose file is gone, or no usable
    image any more, keeps its vector and stays outdated.

    Args:
        index: an index that `open_or_create_index` has made one of the model of `embedder`.
        embedder: the later model.
    """
    paths = index.outdated()
    if not paths:
        return 0
    renewed = 0
    with progress_counter("embedding again") as progress:
        for start in range(0, len(paths), FILES_PER_COMMIT):
            progress(start, len(paths))
            piece = paths[start : start + FILES_PER_COMMIT]
            vectors, errors = embedder.embed_files([index.root / path for path in piece], None)
            usable = [row for row, error in enumerate(errors) if error is None]
            renewed += index.replace_outdated([piece[row] for row in usable], vectors[usable])
        progress(len(paths), len(paths))
    return renewed
