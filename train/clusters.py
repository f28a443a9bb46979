"""Who is on crops without labels: people are clusters of embeddings.

DBSCAN of scikit-learn on the Jaccard distances of k-reciprocal neighbours, as Cluster Contrast has it (Dai et al., ACCV
2022). Crops of one camera are alike for more reasons than the person, so the mean of each camera is taken out first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.camera_means import fit_camera_means
from bot_deploy.evaluation.rerank import jaccard_neighbours

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from bot_deploy.embedder import Vectors

    Labels = npt.NDArray[np.int64]

NOBODY = -1  # label of a crop that belongs to no cluster
NEIGHBOURS = (6, 30)  # least and greatest k1 of the k-reciprocal neighbours
NEIGHBOUR_SHARE = 1 / 20  # of all crops, between these
MIN_CROPS = 4  # near a crop, itself included, that make it the core of a person


def find_people(vectors: Vectors, cameras: Sequence[int | None], max_distance: float) -> Labels:
    """A label [N] for each of the unit `vectors` [N, D]: people are numbered from 0, crops of nobody are NOBODY.

    Args:
        vectors: embeddings.
        cameras: camera IDs [N]; None for an unknown camera.
        max_distance: Jaccard distance, from 0 to 1, of two crops that may show one person.
    """
    from scipy.sparse import csr_matrix
    from sklearn.cluster import DBSCAN

    if len({camera for camera in cameras if camera is not None}) > 1:
        vectors = fit_camera_means(vectors, cameras).center(vectors, cameras)
    starts, columns, distances = jaccard_neighbours(vectors, max_distance, neighbours_of(len(vectors)))
    near = csr_matrix((distances, columns, starts), shape=(len(vectors), len(vectors)))
    labels = DBSCAN(eps=max_distance, min_samples=MIN_CROPS, metric="precomputed").fit(near).labels_
    return np.asarray(labels, np.int64)


def neighbours_of(crops: int) -> int:
    """k1 for so many `crops`: among few crops, the 30 of Cluster Contrast would be other people."""
    least, greatest = NEIGHBOURS
    return int(min(greatest, max(least, crops * NEIGHBOUR_SHARE)))


def agreement(before: Labels, after: Labels) -> float:
    """How alike two clusterings of the same crops are: 1 for the same and about 0 for chance.

    The adjusted Rand index of the crops that both have given to somebody, times their share of those that at least
    one has: crops that have just become somebody's are a difference.
    """
    from sklearn.metrics import adjusted_rand_score

    both, either = (before != NOBODY) & (after != NOBODY), (before != NOBODY) | (after != NOBODY)
    return float(adjusted_rand_score(before[both], after[both])) * both.sum() / either.sum() if both.any() else 0.0
