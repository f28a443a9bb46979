"""CMC, mAP and mINP by the Market-1501 protocol (Zheng et al., ICCV 2015; mINP: Ye et al., TPAMI 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bot_deploy.datasets import JUNK
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

Floats = npt.NDArray[np.floating]

MAX_RANK = 50
_CHUNK = 256  # queries whose similarities are held at once: 256 x 15,913 float32 is 16 MB


@dataclass(frozen=True)
class Evaluation:
    """Fractions in [0, 1]."""

    cmc: npt.NDArray[np.float64]  # [max_rank]; cmc[0] is rank-1
    mAP: float  # noqa: N815 - the field's spelling
    mINP: float  # noqa: N815
    queries: int  # that had a true match; the others do not count


def evaluate(
    similarity: Floats,
    query_ids: npt.ArrayLike,
    gallery_ids: npt.ArrayLike,
    query_cams: npt.ArrayLike,
    gallery_cams: npt.ArrayLike,
    *,
    max_rank: int = MAX_RANK,
) -> Evaluation:
    """Scores the rankings that `similarity` [Q, G] gives; larger is closer.

    A gallery image of the query's own identity and camera is left out, as is identity -1 (junk); 0 is
    an ordinary wrong answer (distractor). AP is the mean precision at each hit, not interpolated. Among
    equal similarities the lower gallery index comes first.

    Raises:
        InputError: shapes that do not fit, a similarity that is not a number, or no query with a true match.
    """
    similarity = np.asarray(similarity)
    labels = _Labels.of(query_ids, gallery_ids, query_cams, gallery_cams)
    if similarity.shape != labels.shape:
        raise InputError(f"similarity is {similarity.shape}, but there are {labels.shape} query and gallery identities")
    return _evaluate(lambda start, stop: similarity[start:stop], labels, max_rank)


def evaluate_embeddings(
    query: Floats,
    gallery: Floats,
    query_ids: npt.ArrayLike,
    gallery_ids: npt.ArrayLike,
    query_cams: npt.ArrayLike,
    gallery_cams: npt.ArrayLike,
    *,
    max_rank: int = MAX_RANK,
) -> Evaluation:
    """`evaluate` by cosine of unit vectors query [Q, D] and gallery [G, D], without holding all of [Q, G]."""
    labels = _Labels.of(query_ids, gallery_ids, query_cams, gallery_cams)
    if (len(query), len(gallery)) != labels.shape:
        raise InputError(f"{len(query)} x {len(gallery)} embeddings, but {labels.shape} identities")
    if query.shape[1:] != gallery.shape[1:]:
        raise InputError(
            f"query embeddings are {query.shape}, gallery embeddings {gallery.shape}; one model makes both"
        )
    return _evaluate(lambda start, stop: query[start:stop] @ gallery.T, labels, max_rank)


@dataclass(frozen=True)
class _Labels:
    query_ids: npt.NDArray[np.int64]
    gallery_ids: npt.NDArray[np.int64]
    query_cams: npt.NDArray[np.int64]
    gallery_cams: npt.NDArray[np.int64]

    @classmethod
    def of(cls, *arrays: npt.ArrayLike) -> _Labels:
        labels = cls(*(np.asarray(array, dtype=np.int64).reshape(-1) for array in arrays))
        if len(labels.query_ids) != len(labels.query_cams) or len(labels.gallery_ids) != len(labels.gallery_cams):
            raise InputError("identities and cameras differ in number")
        return labels

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.query_ids), len(self.gallery_ids)


def _evaluate(rows: Callable[[int, int], Floats], labels: _Labels, max_rank: int) -> Evaluation:
    queries, gallery = labels.shape
    max_rank = min(max_rank, gallery)
    first_hits = np.zeros(max_rank, dtype=np.int64)  # first_hits[r]: queries whose first hit has rank r + 1
    precisions, inverse_penalties = [], []
    for start in range(0, queries, _CHUNK):
        for offset, row in enumerate(rows(start, min(start + _CHUNK, queries))):
            ranks = _hit_ranks(row, start + offset, labels)
            if not len(ranks):
                continue
            hits = np.arange(1, len(ranks) + 1)
            precisions.append(np.mean(hits / ranks))
            inverse_penalties.append(len(ranks) / ranks[-1])
            if ranks[0] <= max_rank:
                first_hits[ranks[0] - 1] += 1
    if not precisions:
        raise InputError("no query has a true match in the gallery from another camera; nothing can be scored")
    scored = len(precisions)
    return Evaluation(
        np.cumsum(first_hits) / scored, float(np.mean(precisions)), float(np.mean(inverse_penalties)), scored
    )


def _hit_ranks(row: Floats, query: int, labels: _Labels) -> npt.NDArray[np.int64]:
    """1-based ranks of the true matches among the images that count, ascending.

    A hit's rank is one more than the number of images ahead of it: counting them for the few hits of
    a query costs far less than sorting its whole row.
    """
    if np.isnan(row).any():
        raise InputError("a similarity is not a number; an embedding must have failed")
    same_id = labels.gallery_ids == labels.query_ids[query]
    junk = (same_id & (labels.gallery_cams == labels.query_cams[query])) | (labels.gallery_ids == JUNK)
    counted = row[~junk]
    hits = np.flatnonzero(same_id[~junk])
    ahead = [(counted > counted[hit]).sum() + (counted[:hit] == counted[hit]).sum() for hit in hits]
    return np.sort(np.asarray(ahead, dtype=np.int64)) + 1
