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
Indices = npt.NDArray[np.int64]

MAX_RANK = 50
_CHUNK = 1024  # queries whose similarities are held at once: 1,024 x 15,913 float32 is 65 MB


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
    single_shot: bool = False,
) -> Evaluation:
    """Scores the rankings that `similarity` [Q, G] gives; larger is closer.

    A gallery image of the query's own identity and camera is left out, as is identity -1 (junk); 0 is
    an ordinary wrong answer (distractor). AP is the mean precision at each hit, not interpolated. Among
    equal similarities the lower gallery index comes first.

    With `single_shot`, CMC is that of CUHK03's first protocol: of each gallery identity one image is drawn for
    a query. The curve is the exact mean over all draws, where others average 10 or 100 random ones; mAP and mINP
    are of the whole gallery.

    Raises:
        InputError: shapes that do not fit, a similarity that is not a number, or no query with a true match.
    """
    similarity = np.asarray(similarity)
    labels = _Labels.of(query_ids, gallery_ids, query_cams, gallery_cams)
    if similarity.shape != labels.shape:
        raise InputError(f"similarity is {similarity.shape}, but there are {labels.shape} query and gallery identities")
    return _evaluate(lambda start, stop: similarity[start:stop], labels, max_rank, single_shot=single_shot)


def evaluate_embeddings(
    query: Floats,
    gallery: Floats,
    query_ids: npt.ArrayLike,
    gallery_ids: npt.ArrayLike,
    query_cams: npt.ArrayLike,
    gallery_cams: npt.ArrayLike,
    *,
    max_rank: int = MAX_RANK,
    single_shot: bool = False,
) -> Evaluation:
    """`evaluate` by cosine of unit vectors query [Q, D] and gallery [G, D], without holding all of [Q, G]."""
    labels = _Labels.of(query_ids, gallery_ids, query_cams, gallery_cams)
    if (len(query), len(gallery)) != labels.shape:
        raise InputError(f"{len(query)} x {len(gallery)} embeddings, but {labels.shape} identities")
    if query.shape[1:] != gallery.shape[1:]:
        raise InputError(
            f"query embeddings are {query.shape}, gallery embeddings {gallery.shape}; one model makes both"
        )
    return _evaluate(lambda start, stop: query[start:stop] @ gallery.T, labels, max_rank, single_shot=single_shot)


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


def _evaluate(rows: Callable[[int, int], Floats], labels: _Labels, max_rank: int, *, single_shot: bool) -> Evaluation:
    queries, gallery = labels.shape
    max_rank = min(max_rank, gallery)
    curve = np.zeros(max_rank)  # curve[r]: queries whose first hit has a rank up to r + 1
    precisions, inverse_penalties = [], []
    people, numbers = np.unique(labels.gallery_ids, return_inverse=True)
    columns = np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
    of_person = dict(zip(people.tolist(), columns, strict=False))  # the columns of each, ascending
    nothing = np.empty(0, dtype=np.int64)
    junk = of_person.pop(JUNK, nothing)
    for start in range(0, queries, _CHUNK):
        chunk = rows(start, min(start + _CHUNK, queries))
        if np.isnan(chunk).any():
            raise InputError("a similarity is not a number; an embedding must have failed")
        for query, row in enumerate(chunk, start):
            own = of_person.get(int(labels.query_ids[query]), nothing)
            seen = labels.gallery_cams[own] == labels.query_cams[query]
            hits, out = own[~seen], np.concatenate([own[seen], junk])
            if not len(hits):
                continue
            ranks = _ranks(row, hits, out)
            matches = np.arange(1, len(ranks) + 1)
            precisions.append(np.mean(matches / ranks))
            inverse_penalties.append(len(ranks) / ranks[-1])
            if single_shot:
                curve += _single_shot(row, hits, np.concatenate([own, junk]), numbers, max_rank)
            else:
                curve[ranks[0] - 1 :] += 1
    if not precisions:
        raise InputError(
            "no query has a true match in the gallery that another camera took; nothing can be scored "
            "(where there is only one camera, use --no-camera-filter)"
        )
    scored = len(precisions)
    return Evaluation(curve / scored, float(np.mean(precisions)), float(np.mean(inverse_penalties)), scored)


def _ranks(row: Floats, hits: Indices, out: Indices) -> Indices:
    """1-based ranks of the columns `hits` among all but the columns `out`, ascending.

    A hit's rank is one more than the number of images ahead of it. To count those, the values are sorted,
    which costs far less than sorting their indices, too.
    """
    values = row[hits]
    ordered = np.sort(row)
    end = np.searchsorted(ordered, values, side="right")
    ahead = len(row) - end
    tied = end - np.searchsorted(ordered, values, side="left") > 1
    for index in np.flatnonzero(tied):
        ahead[index] += np.count_nonzero(row[: hits[index]] == values[index])
    left_out = _ahead(row[out], out, values[:, None], hits[:, None]).sum(axis=1)
    return np.sort(ahead - left_out) + 1


def _ahead(values: Floats, columns: Indices, value: Floats, column: Indices) -> npt.NDArray[np.bool_]:
    return np.asarray((values > value) | ((values == value) & (columns < column)))


def _single_shot(row: Floats, hits: Indices, out: Indices, people: Indices, max_rank: int) -> npt.NDArray[np.float64]:
    """The chances [max_rank] that the one drawn hit is among the first 1, 2, ... of one drawn image per person.

    `people` [G] numbers the columns' identities; `out` are the columns of the query's own and of junk. A person
    is ahead of the hit with the share of his images that are: how many are, is a Poisson binomial distribution.
    """
    others = np.delete(np.arange(len(row)), out)
    images = np.bincount(people[others], minlength=people.max() + 1)
    chances = np.zeros(max_rank)
    for hit in hits.tolist():
        ahead = people[others[_ahead(row[others], others, row[hit], hit)]]
        shares = np.bincount(ahead, minlength=len(images)) / np.maximum(images, 1)
        places = np.zeros(max_rank)  # places[r]: the chance that r people are ahead
        places[0] = 1
        for share in shares[shares > 0]:
            places[1:] = places[1:] * (1 - share) + places[:-1] * share
            places[0] *= 1 - share
        chances += np.cumsum(places)
    return chances / len(hits)
