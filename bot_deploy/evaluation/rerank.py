"""k-reciprocal re-ranking (Zhong et al., CVPR 2017) in memory that grows linearly with the number of images.

The released implementation holds several matrices [N, N] for the N = Q + G images. Here each distance is computed
once, in strips. Of a strip only three things are kept: the nearest neighbours, the largest distances, and the part
[Q, G] that is returned. An image's encoding has some dozens of non-zero entries among N, so encodings are sparse.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bot_deploy.errors import InputError
from bot_deploy.progress import show_progress

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]

MIN_PICTURES = 4.0  # of a person that are re-ranked together; benchmarks/rerank_pictures.py
_STRIP_ROWS = 1024  # rows of distances in memory at once: 79 MB for Market-1501
_BLOCK_IMAGES = 256  # images encoded at once
_PAIRS_AT_ONCE = 1024  # pairs of vectors gathered at once, so that they fit in a CPU's cache


def pictures_per_person(identities: Iterable[Hashable]) -> float:
    """The mean number of pictures of one person; `identities` are those of the pictures of known people."""
    counts = Counter(identities)
    return counts.total() / len(counts) if counts else math.nan


def describe_few_pictures(pictures: float) -> str:
    """Why re-ranking should not be trusted with so many `pictures` per person; "" if they are enough or unknown."""
    if not pictures < MIN_PICTURES:
        return ""
    return (
        f"re-ranking makes ranks worse where people have few pictures: {pictures:.1f} per person here, and fewer than "
        f"{MIN_PICTURES:g} cost rank-1 in all measured cases"
    )


def k_reciprocal(
    query: npt.ArrayLike, gallery: npt.ArrayLike, k1: int = 20, k2: int = 6, lambda_value: float = 0.3
) -> Floats:
    """Re-ranked distances float32 [Q, G] from 0 to 1 of query [Q, D] and gallery [G, D]; smaller is closer.

    The result is the paper's final distance (section 3): (1 - lambda) times the Jaccard distance of the k-reciprocal
    encodings, plus lambda times the original distance. The original distance is squared Euclidean (2 - 2 cos for
    unit vectors), divided by the largest of its row, as in the released code. It ranks as that code does. An image is
    its own first neighbour. Among equally near images the lower index comes first, queries before gallery.

    Args:
        query: unit vectors.
        gallery: unit vectors of the same model. Vectors of the query's own camera are included, as in the
            released code.
        k1: neighbours among which two images must find each other; a number above N means all images.
        k2: neighbours whose encodings are averaged (local query expansion), the image itself included; 1 for none.
        lambda_value: weight of the original distance, 0 to 1.

    Raises:
        InputError: arrays do not fit, are empty or not finite; k1, k2 or lambda_value is out of range.
    """
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise InputError(
            f"k1={k1}, k2={k2}, lambda_value={lambda_value}: k1 and k2 must be at least 1 (the authors use 20 and 6), "
            "lambda_value from 0 (only the Jaccard distance) to 1 (no re-ranking)"
        )
    features, num_queries = _features(query, gallery)
    distances, nearest, farthest = _neighbours(features, num_queries, max(k1 + 1, k2))
    encodings = _average_neighbours(_encode(features, nearest, farthest, k1), nearest[:, :k2])
    distances *= np.float32(lambda_value) / farthest[:num_queries, None]
    for row, jaccard in enumerate(_jaccard(encodings, num_queries, num_queries)):
        distances[row] += np.float32(1 - lambda_value) * jaccard
    return distances


def jaccard_neighbours(
    vectors: Floats, max_distance: float, k1: int = 20, k2: int = 6
) -> tuple[Indices, Indices, Floats]:
    """The images near to each image by the Jaccard distance of `k_reciprocal`, as a sparse matrix in compressed rows.

    Args:
        vectors: unit vectors float32 [N, D].
        max_distance: below 1; farther images are left out.
        k1: as in `k_reciprocal`.
        k2: as in `k_reciprocal`.

    Returns:
        starts [N + 1], columns and distances: the neighbours of image i are at starts[i] : starts[i + 1], in ascending
        order of their columns, with the image itself at distance 0.
    """
    _, nearest, farthest = _neighbours(vectors, 0, max(k1 + 1, k2))
    encodings = _average_neighbours(_encode(vectors, nearest, farthest, k1), nearest[:, :k2])
    columns, distances = [], []
    rows = _jaccard(encodings, len(vectors), 0)
    for image, row in enumerate(show_progress(rows, "comparing", len(vectors))):
        row[image] = 0
        near = np.flatnonzero(row <= max_distance)
        columns.append(near)
        distances.append(np.maximum(row[near], 0).astype(np.float32))
    starts = np.concatenate([[0], np.cumsum([len(near) for near in columns])])
    return starts, np.concatenate(columns), np.concatenate(distances)


def _features(query: npt.ArrayLike, gallery: npt.ArrayLike) -> tuple[Floats, int]:
    """The vectors [N, D] of query and gallery, and the number of queries."""
    arrays = [np.asarray(vectors, dtype=np.float32) for vectors in (query, gallery)]
    shapes = " and ".join(str(array.shape) for array in arrays)
    if any(array.ndim != 2 or not array.size for array in arrays) or arrays[0].shape[1] != arrays[1].shape[1]:  # noqa: PLR2004
        raise InputError(f"query and gallery are {shapes}; give [Q, D] and [G, D] of one model, neither of them empty")
    features = np.concatenate(arrays)
    if not np.isfinite(features).all():
        raise InputError("a vector of query or gallery is not finite; an embedding must have failed")
    return features, len(arrays[0])


# ---- neighbours ----


def _neighbours(features: Floats, num_queries: int, count: int) -> tuple[Floats, Indices, Floats]:
    """Squared distances [Q, G]; each image's `count` nearest [N, count], itself first; each largest distance [N].

    The strip of the rows a:b has the columns from a on. Its rows give the neighbours of a:b, and its columns, as the
    distance is symmetric, those of all later images.
    """
    total = len(features)
    squares = np.einsum("nd,nd->n", features, features)
    distances = np.empty((num_queries, total - num_queries), np.float32)
    others = np.full((total, min(count, total) - 1), _sort_keys(np.float32(np.inf), total))
    farthest = np.full(total, np.finfo(np.float32).tiny)  # not 0: it is a divisor
    for start in show_progress(range(0, total, _STRIP_ROWS), "re-ranking" if total > _STRIP_ROWS else None):
        stop = min(start + _STRIP_ROWS, total)
        strip = features[start:stop] @ features[start:].T
        strip *= -2
        strip += squares[start:stop, None]
        strip += squares[start:]
        np.maximum(strip, 0, out=strip)
        if start < num_queries:
            distances[start:stop] = strip[: num_queries - start, num_queries - start :]
        farthest[start:stop] = np.maximum(farthest[start:stop], strip.max(axis=1))
        farthest[stop:] = np.maximum(farthest[stop:], strip[:, stop - start :].max(axis=0, initial=0))
        np.fill_diagonal(strip, np.inf)
        _merge(others[start:stop], strip, start)
        _merge(others[stop:], strip[:, stop - start :].T, start)
    nearest = np.hstack([np.arange(total)[:, None], _indices(others)])
    return distances, nearest, farthest


def _sort_keys(distances: Floats | np.float32, columns: Indices | int) -> Keys:
    """Integers that sort by distance, then by column. Non-negative floats sort in the order of their bits."""
    bits = np.asarray(distances + np.float32(0)).view(np.uint32).astype(np.uint64)  # + 0 turns -0.0 into 0.0
    return np.asarray(bits << np.uint64(32) | np.asarray(columns, np.uint64))


def _indices(keys: Keys) -> Indices:
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _merge(keys: Keys, distances: Floats, first: int) -> None:
    """Merges the nearest of `distances` [R, C], whose columns start at `first`, into the ascending `keys` [R, K]."""
    rows, count = keys.shape
    if not keys.size:
        return
    limit = (keys[:, -1] >> np.uint64(32)).astype(np.uint32).view(np.float32)
    if np.isinf(limit).any() and distances.shape[1] > count:
        kth = np.partition(distances, count - 1, axis=1)[:, count - 1]
        limit = np.minimum(limit, np.nextafter(kth, np.float32(np.inf)))
    # Less, not equal: columns arrive in ascending order, so an equal one ranks behind those already in `keys`.
    closer = distances < limit[:, None]
    row, column = _nonzero(closer) if closer.flags.c_contiguous else _nonzero(closer.T)[::-1]
    order = np.argsort(row, kind="stable")
    row, column = row[order], column[order]
    added = np.bincount(row, minlength=rows)
    merged = np.full((rows, count + added.max()), _sort_keys(np.float32(np.inf), first))
    merged[:, :count] = keys
    merged[row, count + _positions_in_groups(added)] = _sort_keys(distances[row, column], column + first)
    merged.sort(axis=1)
    keys[:] = merged[:, :count]


def _nonzero(mask: Mask) -> tuple[Indices, Indices]:
    """np.nonzero of a matrix, many times faster when few entries are true."""
    row, column = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return row, column


def _positions_in_groups(counts: Indices) -> Indices:
    """0, 1, ... for each of `counts`: [2, 3] gives 0 1 0 1 2."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1]) - np.repeat(ends - counts, counts)


# ---- encodings ----


@dataclass(frozen=True)
class _Sparse:
    """A sparse matrix in compressed rows: the entries of row i are at starts[i] : starts[i + 1]."""

    starts: Indices  # [rows + 1]
    columns: Indices
    values: Floats

    @classmethod
    def from_entries(cls, rows: Indices, columns: Indices, values: Floats, height: int) -> _Sparse:
        """The matrix of the given entries, which are sorted by row."""
        return cls(np.searchsorted(rows, np.arange(height + 1)), columns, values)

    def entries_of(self, rows: Indices) -> tuple[Indices, Indices]:
        """The positions of the entries of `rows`, one row after the other, and the number of entries of each row."""
        counts = self.starts[rows + 1] - self.starts[rows]
        return np.repeat(self.starts[rows], counts) + _positions_in_groups(counts), counts


def _reciprocal(nearest: Indices) -> Mask:
    """Which of the neighbours `nearest` [N, K] are k-reciprocal: they have the row's image among their own K."""
    blocks = [slice(start, start + _BLOCK_IMAGES) for start in range(0, len(nearest), _BLOCK_IMAGES)]
    rows = np.arange(len(nearest))[:, None, None]
    return np.concatenate([(nearest[nearest[block]] == rows[block]).any(axis=2) for block in blocks])


def _encode(features: Floats, nearest: Indices, farthest: Floats, k1: int) -> _Sparse:
    """The k-reciprocal encodings [N, N]: for each image a weight on every image of its expanded k-reciprocal set.

    The paper's terms, for an image p (sections 3.2 and 3.3):

    - R(p, k): the k-reciprocal neighbours of p, those of its k nearest that have p among their own k nearest;
    - R*(p, k1): the expanded set, R(p, k1) and also R(q, k1 / 2) of each q in R(p, k1) if more than two thirds of
      R(q, k1 / 2) are in R(p, k1). This adds images of one person that differ too much to be neighbours of p;
    - the encoding of p: exp(-distance) for each image in R*(p, k1) and 0 for all others.

    The rest is as in the released code. The distance is divided by the largest of its row. A row's weights are scaled
    to the sum of 1. k1 / 2 is rounded. An image counts besides its k neighbours.
    """
    total = len(features)
    k1_nearest, half_nearest = nearest[:, : k1 + 1], nearest[:, : int(np.around(k1 / 2)) + 1]
    k1_reciprocal, half_reciprocal = _reciprocal(k1_nearest), _reciprocal(half_nearest)
    rows, columns = [], []
    # A block of images at a time: its members are a mask [B, N], small enough to index at random.
    for start in range(0, total, _BLOCK_IMAGES):
        block = k1_nearest[start : start + _BLOCK_IMAGES]
        row, place = np.nonzero(k1_reciprocal[start : start + _BLOCK_IMAGES])
        neighbour = block[row, place]  # each q in R(p, k1), with p's row of the block in `row`
        members = np.zeros((len(block), total), np.bool_)
        members[row, neighbour] = True
        candidates, in_half = half_nearest[neighbour], half_reciprocal[neighbour]  # R(q, k1 / 2), by a mask
        shared = (members[row[:, None], candidates] & in_half).sum(axis=1)
        joins = in_half & (3 * shared > 2 * in_half.sum(axis=1))[:, None]
        pair, place = np.nonzero(joins)
        members[row[pair], candidates[pair, place]] = True
        row, column = _nonzero(members)
        rows.append(row + start)
        columns.append(column)
    row, column = np.concatenate(rows), np.concatenate(columns)
    weights = np.exp(-_pair_distances(features, row, column) / farthest[row])
    weights /= np.bincount(row, weights, minlength=total)[row]
    return _Sparse.from_entries(row, column, weights.astype(np.float32), total)


def _pair_distances(features: Floats, rows: Indices, columns: Indices) -> Floats:
    """The squared distances [P] of the pairs (rows[i], columns[i])."""
    distances = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _PAIRS_AT_ONCE):
        pairs = slice(start, start + _PAIRS_AT_ONCE)
        difference = features[rows[pairs]] - features[columns[pairs]]
        distances[pairs] = np.einsum("pd,pd->p", difference, difference)
    return distances


def _average_neighbours(encodings: _Sparse, nearest: Indices) -> _Sparse:
    """Local query expansion (section 3.4): the mean encoding [N, N] of each image's `nearest` [N, K]."""
    total, count = nearest.shape
    rows, columns, values = [], [], []
    for start in range(0, total, _BLOCK_IMAGES):
        block = nearest[start : start + _BLOCK_IMAGES]
        sums = np.zeros((len(block), total), np.float32)
        for neighbours in block.T:
            entries, counts = encodings.entries_of(neighbours)
            # One neighbour for each row of `sums`, so no entry of it is added to twice in one step.
            sums[np.repeat(np.arange(len(block)), counts), encodings.columns[entries]] += encodings.values[entries]
        row, column = _nonzero(sums != 0)
        rows.append(row + start)
        columns.append(column)
        values.append(sums[row, column] / np.float32(count))
    return _Sparse.from_entries(np.concatenate(rows), np.concatenate(columns), np.concatenate(values), total)


def _jaccard(encodings: _Sparse, num_queries: int, first_image: int) -> Iterator[npt.NDArray[np.float64]]:
    """The Jaccard distances of each of the first queries to the images from `first_image` on.

    It is 1 - sum of minima / sum of maxima of two encodings. A minimum is 0 unless both encodings have the entry, so
    only such pairs are visited, by an inverted index.
    """
    total = len(encodings.starts) - 1
    count, first = total - first_image, encodings.starts[first_image]
    images = np.repeat(np.arange(count), np.diff(encodings.starts[first_image:]))
    order = np.argsort(encodings.columns[first:], kind="stable")
    # Row j of the index: the images whose encodings have an entry in column j.
    index = _Sparse.from_entries(
        encodings.columns[first:][order], images[order], encodings.values[first:][order], total
    )
    for query in range(num_queries):
        row = slice(encodings.starts[query], encodings.starts[query + 1])
        entries, counts = index.entries_of(encodings.columns[row])
        smaller = np.minimum(np.repeat(encodings.values[row], counts), index.values[entries])
        minima = np.bincount(index.columns[entries], smaller, minlength=count)
        yield 1 - minima / (2 - minima)  # both encodings have the sum 1, so the maxima sum to 2 - minima
