"""CMC, mAP and mINP by the Market-1501 protocol (Zheng et al., ICCV 2015; mINP: Ye et al., TPAMI 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bot_deploy.datasets import JUNK
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]

MAX_RANK = 50
_QUERIES_AT_ONCE = 1024  # rows of similarities held in memory: 1,024 x 15,913 float32 is 65 MB


@dataclass(frozen=True)
class RankingScores:
    """CMC, mAP and mINP of rankings, as fractions from 0 to 1."""

    cmc: npt.NDArray[np.float64]  # [max_rank]; cmc[0] is rank-1
    mAP: float  # noqa: N815 - the field's spelling
    mINP: float  # noqa: N815
    scored_queries: int  # number of queries that have a true match; the others do not count


@dataclass(frozen=True)
class DotProducts:
    """The similarities [Q, G] of query [Q, D] and gallery [G, D], computed when a slice of their rows is read.

    For unit vectors they are cosines. The whole matrix is never in memory.
    """

    query: Floats
    gallery: Floats

    def __post_init__(self) -> None:
        if self.query.shape[1:] != self.gallery.shape[1:]:
            raise InputError(
                f"query embeddings are {self.query.shape}, gallery embeddings {self.gallery.shape}; "
                "both must come from one model"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(Q, G)."""
        return len(self.query), len(self.gallery)

    def __getitem__(self, rows: slice) -> Floats:
        return self.query[rows] @ self.gallery.T


def evaluate(
    similarity: npt.ArrayLike | DotProducts,
    query_ids: npt.ArrayLike,
    gallery_ids: npt.ArrayLike,
    query_cams: npt.ArrayLike,
    gallery_cams: npt.ArrayLike,
    *,
    max_rank: int = MAX_RANK,
    single_shot: bool = False,
) -> RankingScores:
    """CMC, mAP and mINP of the rankings by `similarity` [Q, G]: larger is closer.

    For a distance matrix, as torchreid has, pass `-distances`.

    For each query the protocol ignores gallery images of the same identity and camera, and junk (identity -1). A
    distractor (identity 0) counts as an ordinary wrong answer. AP is the mean of the precisions at the hits; it is
    not interpolated. Among equal similarities the lower gallery index comes first.

    Args:
        similarity: an array [Q, G], or the `DotProducts` of query and gallery embeddings.
        query_ids: identities [Q].
        gallery_ids: identities [G].
        query_cams: camera IDs [Q].
        gallery_cams: camera IDs [G].
        max_rank: length of the CMC curve; at most G.
        single_shot: score CMC by CUHK03's first protocol: one image of each gallery identity is drawn for a query.
            The curve is the exact mean over all draws, where other programs average 10 or 100 random ones. mAP and
            mINP are still those of the whole gallery.

    Raises:
        InputError: shapes do not fit, a similarity is not a number, or no query has a true match.
    """
    rows = similarity if isinstance(similarity, DotProducts) else np.asarray(similarity)
    query_ids, gallery_ids, query_cams, gallery_cams = (
        np.asarray(labels, dtype=np.int64).reshape(-1) for labels in (query_ids, gallery_ids, query_cams, gallery_cams)
    )
    _check_shapes(rows.shape, query_ids, gallery_ids, query_cams, gallery_cams)
    max_rank = min(max_rank, len(gallery_ids))
    curve = np.zeros(max_rank)  # curve[r]: number of queries whose first hit has a rank up to r + 1
    precisions, inverse_penalties = [], []
    columns_of, identity_numbers = _columns_by_identity(gallery_ids)
    no_columns = np.empty(0, dtype=np.int64)
    junk = columns_of.pop(JUNK, no_columns)
    for query, row in enumerate(_read_rows(rows)):
        same_id = columns_of.get(int(query_ids[query]), no_columns)
        same_camera = gallery_cams[same_id] == query_cams[query]
        hits, ignored = same_id[~same_camera], np.concatenate([same_id[same_camera], junk])
        if not len(hits):
            continue
        ranks = _ranks(row, hits, ignored)
        precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
        inverse_penalties.append(len(ranks) / ranks[-1])
        if single_shot:
            curve += _single_shot(row, hits, np.concatenate([same_id, junk]), identity_numbers, max_rank)
        else:
            curve[ranks[0] - 1 :] += 1
    if not precisions:
        raise InputError(
            "no query has a true match from another camera, so nothing can be scored; "
            "score data of a single camera without the camera filter",
            parameter="no_camera_filter",
        )
    scored = len(precisions)
    return RankingScores(curve / scored, float(np.mean(precisions)), float(np.mean(inverse_penalties)), scored)


def _check_shapes(
    shape: tuple[int, ...], query_ids: Indices, gallery_ids: Indices, query_cams: Indices, gallery_cams: Indices
) -> None:
    """Raises InputError unless each image has a camera, and similarities of the given `shape` are [Q, G]."""
    expected = len(query_ids), len(gallery_ids)
    if (len(query_cams), len(gallery_cams)) != expected:
        raise InputError("identities and cameras differ in number")
    if shape != expected:
        raise InputError(f"similarity is {shape}, but there are {expected} query and gallery identities")


def _columns_by_identity(gallery_ids: Indices) -> tuple[dict[int, Indices], Indices]:
    """The gallery columns of each identity, ascending; and for each column a number [G] of its identity, from 0."""
    identities, identity_numbers = np.unique(gallery_ids, return_inverse=True)
    counts = np.bincount(identity_numbers)
    columns = np.split(np.argsort(identity_numbers, kind="stable"), np.cumsum(counts)[:-1])
    return dict(zip(identities.tolist(), columns, strict=False)), identity_numbers


def _read_rows(similarity: Floats | DotProducts) -> Iterator[Floats]:
    """The rows of `similarity` [Q, G], of which _QUERIES_AT_ONCE are in memory.

    Raises:
        InputError: a similarity is not a number.
    """
    queries = similarity.shape[0]
    for start in range(0, queries, _QUERIES_AT_ONCE):
        block = similarity[start : min(start + _QUERIES_AT_ONCE, queries)]
        if np.isnan(block).any():
            raise InputError("a similarity is not a number; an embedding must have failed")
        yield from block


def _ranks(row: Floats, hits: Indices, ignored: Indices) -> Indices:
    """The ranks of the columns `hits`, from 1 and ascending, when the columns `ignored` are left out.

    A hit's rank is one more than the number of images ahead of it. Sorting the values is enough to count those, and
    costs far less than sorting indices too.
    """
    values = row[hits]
    ordered = np.sort(row)
    end = np.searchsorted(ordered, values, side="right")
    ahead = len(row) - end
    tied = end - np.searchsorted(ordered, values, side="left") > 1
    for index in np.flatnonzero(tied):
        ahead[index] += np.count_nonzero(row[: hits[index]] == values[index])
    ignored_ahead = _ahead(row[ignored], ignored, values[:, None], hits[:, None]).sum(axis=1)
    return np.sort(ahead - ignored_ahead) + 1


def _ahead(values: Floats, columns: Indices, value: Floats, column: Indices) -> npt.NDArray[np.bool_]:
    """Which of `columns` with the similarities `values` rank before `column` with the similarity `value`."""
    return np.asarray((values > value) | ((values == value) & (columns < column)))


def _single_shot(
    row: Floats, hits: Indices, left_out: Indices, identities: Indices, max_rank: int
) -> npt.NDArray[np.float64]:
    """The probabilities [max_rank] that the drawn hit has a rank up to 1, 2, ... among one drawn image per identity.

    `identities` [G] numbers the identity of each column; `left_out` are the columns of junk and of the query's own
    identity. The drawn image of another identity is ahead of the hit with a probability equal to the share of its
    images that are. The number of identities ahead then has a Poisson binomial distribution.
    """
    others = np.delete(np.arange(len(row)), left_out)
    images = np.bincount(identities[others], minlength=identities.max() + 1)
    probabilities = np.zeros(max_rank)
    for hit in hits.tolist():
        ahead = identities[others[_ahead(row[others], others, row[hit], hit)]]
        shares = np.bincount(ahead, minlength=len(images)) / np.maximum(images, 1)
        identities_ahead = np.zeros(max_rank)  # [r]: the probability that r identities are ahead
        identities_ahead[0] = 1
        for share in shares[shares > 0]:
            identities_ahead[1:] = identities_ahead[1:] * (1 - share) + identities_ahead[:-1] * share
            identities_ahead[0] *= 1 - share
        probabilities += np.cumsum(identities_ahead)
    return probabilities / len(hits)
