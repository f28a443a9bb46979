"""Cosines between embeddings [N, D] in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Embeddings = npt.NDArray[np.float64]


def l2_normalize(embeddings: Embeddings) -> Embeddings:
    """Each embedding divided by its length."""
    length: Embeddings = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(length, 1e-12)


def rowwise_cosines(first: Embeddings, second: Embeddings) -> Embeddings:
    """The cosine between each row of `first` and the same row of `second`, [N]."""
    cosines: Embeddings = (l2_normalize(first) * l2_normalize(second)).sum(1)
    return cosines


def pairwise_cosines(embeddings: Embeddings) -> Embeddings:
    """The cosines of all pairs of different crops, [N (N - 1) / 2]."""
    unit = l2_normalize(embeddings)
    pairs: Embeddings = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
    return pairs


def nearest_crops(embeddings: Embeddings) -> npt.NDArray[np.intp]:
    """The index of the nearest other crop of each crop by cosine, [N]."""
    unit = l2_normalize(embeddings)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return np.asarray(similarity.argmax(1))
