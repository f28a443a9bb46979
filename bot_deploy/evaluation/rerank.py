"""k-reciprocal re-ranking (Zhong et al., CVPR 2017) in memory that grows with the images, not with their square.

The released implementation holds several [Q + G, Q + G] matrices. Here every distance is computed once, in
strips of which only the nearest neighbours, the largest distances and the returned part are kept; and an
image's encoding, of some dozens of entries among Q + G, is a list of those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bot_deploy.errors import InputError
from bot_deploy.progress import show_progress

if TYPE_CHECKING:
    from collections.abc import Iterator

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]

_STRIP = 1024  # rows of distances held at once: 79 MB at the size of Market-1501
_BLOCK = 256  # rows encoded at once
_PAIRS = 1024  # vectors gathered at once: few enough for a CPU's cache


def k_reciprocal(
    query: npt.ArrayLike, gallery: npt.ArrayLike, k1: int = 20, k2: int = 6, lambda_value: float = 0.3
) -> Floats:
    """Distances float32 [Q, G] in [0, 1], smaller is closer, of query [Q, D] and gallery [G, D].

    They rank as those of the released implementation do: Jaccard distance of the k-reciprocal encodings, and
    squared Euclidean distance (2 - 2 cos for unit vectors) over the largest of its row. An image is its own
    first neighbour; among equally near ones the lower index comes first, queries before gallery.

    Args:
        query: unit vectors.
        gallery: unit vectors of the same model; none is left out for its camera, as none is by the authors.
        k1: neighbours that have to be mutual; more than there are images is all of them.
        k2: neighbours whose encodings are averaged, oneself included; 1 for no such expansion.
        lambda_value: weight of the original distance, 0 to 1.

    Raises:
        InputError: arrays that do not fit or are empty or not finite; k1, k2 or lambda_value out of range.
    """
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise InputError(
            f"k1={k1}, k2={k2}, lambda_value={lambda_value}: choose k1 and k2 from 1 on (the authors' are 20 and 6) "
            "and lambda_value from 0 (only Jaccard distance) to 1 (no re-ranking)"
        )
    features, queries = _features(query, gallery)
    distances, nearest, farthest = _neighbours(features, queries, max(k1 + 1, k2))
    encodings = _expanded(_encodings(features, nearest, farthest, k1), nearest[:, :k2])
    distances *= np.float32(lambda_value) / farthest[:queries, None]
    for row, jaccard in enumerate(_jaccard(encodings, queries)):
        distances[row] += np.float32(1 - lambda_value) * jaccard
    return distances


def _features(query: npt.ArrayLike, gallery: npt.ArrayLike) -> tuple[Floats, int]:
    """Both as one [N, D], and how many of them are queries."""
    parts = [np.asarray(part, dtype=np.float32) for part in (query, gallery)]
    shapes = " and ".join(str(part.shape) for part in parts)
    if any(part.ndim != 2 or not part.size for part in parts) or parts[0].shape[1] != parts[1].shape[1]:  # noqa: PLR2004
        raise InputError(f"query and gallery are {shapes}; give [Q, D] and [G, D] by one model, none of them empty")
    features = np.concatenate(parts)
    if not np.isfinite(features).all():
        raise InputError("a vector of query or gallery is not finite; an embedding must have failed")
    return features, len(parts[0])


# ---- neighbours ----


def _neighbours(features: Floats, queries: int, count: int) -> tuple[Floats, Indices, Floats]:
    """Squared distances [Q, G], the `count` nearest [N, count] of each, oneself first, and the largest distances [N].

    The strip of rows a:b holds the columns from a on: by its rows it serves a:b, by its columns all later ones.
    """
    total = len(features)
    squares = np.einsum("nd,nd->n", features, features)
    distances = np.empty((queries, total - queries), np.float32)
    others = np.full((total, min(count, total) - 1), _keys(np.float32(np.inf), total))
    farthest = np.full(total, np.finfo(np.float32).tiny)  # by 0 nothing could be divided
    for start in show_progress(range(0, total, _STRIP), "re-ranking" if total > _STRIP else None):
        stop = min(start + _STRIP, total)
        strip = features[start:stop] @ features[start:].T
        strip *= -2
        strip += squares[start:stop, None]
        strip += squares[start:]
        np.maximum(strip, 0, out=strip)
        if start < queries:
            distances[start:stop] = strip[: queries - start, queries - start :]
        farthest[start:stop] = np.maximum(farthest[start:stop], strip.max(axis=1))
        farthest[stop:] = np.maximum(farthest[stop:], strip[:, stop - start :].max(axis=0, initial=0))
        np.fill_diagonal(strip, np.inf)
        _merge(others[start:stop], strip, start)
        _merge(others[stop:], strip[:, stop - start :].T, start)
    nearest = np.hstack([np.arange(total)[:, None], _indices(others)])
    return distances, nearest, farthest


def _keys(distances: Floats | np.float32, columns: Indices | int) -> Keys:
    """Numbers that sort by distance, then by column: floats that are not negative sort as their bits do."""
    bits = np.asarray(distances + np.float32(0)).view(np.uint32).astype(np.uint64)  # + 0 for -0.0
    return np.asarray(bits << np.uint64(32) | np.asarray(columns, np.uint64))


def _indices(keys: Keys) -> Indices:
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _merge(keys: Keys, distances: Floats, first: int) -> None:
    """Puts into `keys` [R, K], ascending, the nearest of `distances` [R, C]; their columns are `first` and after."""
    rows, count = keys.shape
    if not keys.size:
        return
    limit = (keys[:, -1] >> np.uint64(32)).astype(np.uint32).view(np.float32)
    if np.isinf(limit).any() and distances.shape[1] > count:
        own = np.partition(distances, count - 1, axis=1)[:, count - 1]
        limit = np.minimum(limit, np.nextafter(own, np.float32(np.inf)))
    # Less, not equal: columns come in ascending order, so an equal one is behind those that are there.
    closer = distances < limit[:, None]
    row, column = _true(closer) if closer.flags.c_contiguous else _true(closer.T)[::-1]
    order = np.argsort(row, kind="stable")
    row, column = row[order], column[order]
    found = np.bincount(row, minlength=rows)
    wide = np.full((rows, count + found.max()), _keys(np.float32(np.inf), first))
    wide[:, :count] = keys
    wide[row, count + _within(found)] = _keys(distances[row, column], column + first)
    wide.sort(axis=1)
    keys[:] = wide[:, :count]


def _true(mask: Mask) -> tuple[Indices, Indices]:
    """np.nonzero of a matrix, many times faster where little is true."""
    row, column = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return row, column


def _within(counts: Indices) -> Indices:
    """0, 1, ... for each of `counts`: [2, 3] gives 0 1 0 1 2."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1]) - np.repeat(ends - counts, counts)


# ---- encodings ----


@dataclass(frozen=True)
class _Sparse:
    """A matrix by its entries, row after row: those of row i are at starts[i] : starts[i + 1]."""

    starts: Indices  # [rows + 1]
    columns: Indices
    values: Floats

    @classmethod
    def of(cls, rows: Indices, columns: Indices, values: Floats, height: int) -> _Sparse:
        """Of entries that are sorted by row."""
        return cls(np.searchsorted(rows, np.arange(height + 1)), columns, values)

    def places(self, rows: Indices) -> tuple[Indices, Indices]:
        """Where the entries of `rows` are, one row after the other, and how many each has."""
        counts = self.starts[rows + 1] - self.starts[rows]
        return np.repeat(self.starts[rows], counts) + _within(counts), counts


def _mutual(nearest: Indices) -> Mask:
    """Which of `nearest` [N, K] have the row's own image among theirs."""
    blocks = range(0, len(nearest), _BLOCK)
    rows = np.arange(len(nearest))[:, None, None]
    return np.concatenate(
        [(nearest[nearest[start : start + _BLOCK]] == rows[start : start + _BLOCK]).any(axis=2) for start in blocks]
    )


def _encodings(features: Floats, nearest: Indices, farthest: Floats, k1: int) -> _Sparse:
    """Each image's k-reciprocal neighbours [N, N], weighted by exp(-distance over the largest) to the sum of 1."""
    total = len(features)
    near, half = nearest[:, : k1 + 1], nearest[:, : int(np.around(k1 / 2)) + 1]
    near_mutual, half_mutual = _mutual(near), _mutual(half)
    rows, columns = [], []
    for start in range(0, total, _BLOCK):
        block = near[start : start + _BLOCK]
        row, place = np.nonzero(near_mutual[start : start + _BLOCK])
        candidate = block[row, place]
        chosen = np.zeros((len(block), total), np.bool_)
        chosen[row, candidate] = True
        # A neighbour brings its own ones along when more than two thirds of them are ours already.
        theirs, valid = half[candidate], half_mutual[candidate]
        shared = (chosen[row[:, None], theirs] & valid).sum(axis=1)
        welcome = valid & (3 * shared > 2 * valid.sum(axis=1))[:, None]
        guest, place = np.nonzero(welcome)
        chosen[row[guest], theirs[guest, place]] = True
        row, column = _true(chosen)
        rows.append(row + start)
        columns.append(column)
    row, column = np.concatenate(rows), np.concatenate(columns)
    weights = np.exp(-_pair_distances(features, row, column) / farthest[row])
    weights /= np.bincount(row, weights, minlength=total)[row]
    return _Sparse.of(row, column, weights.astype(np.float32), total)


def _pair_distances(features: Floats, rows: Indices, columns: Indices) -> Floats:
    """Squared distances [P] of the pairs that `rows` [P] and `columns` [P] name."""
    distances = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _PAIRS):
        part = slice(start, start + _PAIRS)
        difference = features[rows[part]] - features[columns[part]]
        distances[part] = np.einsum("pd,pd->p", difference, difference)
    return distances


def _expanded(encodings: _Sparse, nearest: Indices) -> _Sparse:
    """The mean encoding [N, N] of each image's `nearest` [N, K]."""
    total, count = nearest.shape
    rows, columns, values = [], [], []
    for start in range(0, total, _BLOCK):
        block = nearest[start : start + _BLOCK]
        sums = np.zeros((len(block), total), np.float32)
        for neighbours in block.T:
            places, counts = encodings.places(neighbours)
            # One row of encodings for each of ours: no entry is named twice.
            sums[np.repeat(np.arange(len(block)), counts), encodings.columns[places]] += encodings.values[places]
        row, column = _true(sums != 0)
        rows.append(row + start)
        columns.append(column)
        values.append(sums[row, column] / np.float32(count))
    return _Sparse.of(np.concatenate(rows), np.concatenate(columns), np.concatenate(values), total)


def _jaccard(encodings: _Sparse, queries: int) -> Iterator[npt.NDArray[np.float64]]:
    """Jaccard distances [G] of one query after the other: 1 - sum of minima / sum of maxima of the encodings."""
    total = len(encodings.starts) - 1
    first = encodings.starts[queries]
    owners = np.repeat(np.arange(total - queries), np.diff(encodings.starts[queries:]))
    order = np.argsort(encodings.columns[first:], kind="stable")
    # Column by column: which gallery images have an entry there.
    holders = _Sparse.of(encodings.columns[first:][order], owners[order], encodings.values[first:][order], total)
    for query in range(queries):
        own = slice(encodings.starts[query], encodings.starts[query + 1])
        places, counts = holders.places(encodings.columns[own])
        smaller = np.minimum(np.repeat(encodings.values[own], counts), holders.values[places])
        minima = np.bincount(holders.columns[places], smaller, minlength=total - queries)
        yield 1 - minima / (2 - minima)  # each encoding's sum is 1
