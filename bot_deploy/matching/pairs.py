"""Scores of pairs of crops: how alike are two crops of one person, and two crops of different people?

As in biometrics (ISO/IEC 19795-1), a genuine pair shows one identity and an impostor pair two. A genuine pair must come
from two cameras: crops of one camera are neighbouring frames, more alike than crops of two cameras ever are.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bot_deploy.datasets import DISTRACTOR, JUNK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bot_deploy.embedder import Vectors

BINS = 20_000  # bins of a histogram, for the cosines from -1 to 1
_ROWS_AT_ONCE = 256  # rows of cosines in memory at once


@dataclass(frozen=True)
class PairScores:
    """Histograms of the cosines of genuine and of impostor pairs, each with BINS bins from -1 to 1."""

    genuine_counts: npt.NDArray[np.int64]
    impostor_counts: npt.NDArray[np.int64]

    def error_rates(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The false-accept and the false-reject rate of each bin's lower edge as the threshold, each [BINS]."""
        false_accepts = np.cumsum(self.impostor_counts[::-1])[::-1] / max(1, self.impostor_counts.sum())
        false_rejects = (np.cumsum(self.genuine_counts) - self.genuine_counts) / max(1, self.genuine_counts.sum())
        return false_accepts, false_rejects


def bin_edges() -> npt.NDArray[np.float64]:
    """The lower edges of the bins: cosines [BINS]."""
    return np.arange(BINS, dtype=np.float64) * (2 / BINS) - 1


def count_bins(cosines: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """The histogram of `cosines`: counts [BINS]."""
    bins = ((cosines + 1) * (BINS / 2)).astype(np.int32).clip(0, BINS - 1)
    return np.bincount(bins.ravel(), minlength=BINS)


def score_pairs(vectors: Vectors, identities: Sequence[int], cameras: Sequence[int]) -> PairScores:
    """The scores of all pairs among the unit `vectors` [N, D].

    Junk (identity -1) is left out. Two distractors (identity 0) are no pair, as they may show one person.
    """
    ids, cams = np.asarray(identities), np.asarray(cameras)
    usable = ids != JUNK
    vectors, ids, cams = vectors[usable], ids[usable], cams[usable]
    genuine, impostor = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        cosines = vectors[rows] @ vectors[start:].T
        later = np.arange(cosines.shape[1]) > np.arange(cosines.shape[0])[:, None]  # each pair once
        same_id = ids[rows, None] == ids[start:]
        other_camera = cams[rows, None] != cams[start:]
        no_distractor = ids[rows, None] != DISTRACTOR
        genuine += count_bins(cosines[later & same_id & other_camera & no_distractor])
        impostor += count_bins(cosines[later & ~same_id])
    return PairScores(genuine, impostor)


def count_pairs(identities: Sequence[int], cameras: Sequence[int]) -> tuple[int, int]:
    """The numbers of genuine and of impostor pairs that `score_pairs` scores. It needs no embeddings."""
    crops = Counter(label for label in zip(identities, cameras, strict=True) if label[0] != JUNK)
    crops_of: Counter[int] = Counter()
    for (identity, _), count in crops.items():
        crops_of[identity] += count
    impostor = math.comb(crops_of.total(), 2) - sum(math.comb(count, 2) for count in crops_of.values())
    same_id = sum(math.comb(count, 2) for identity, count in crops_of.items() if identity != DISTRACTOR)
    same_camera = sum(math.comb(count, 2) for (identity, _), count in crops.items() if identity != DISTRACTOR)
    return same_id - same_camera, impostor
