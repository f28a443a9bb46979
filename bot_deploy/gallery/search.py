"""Exact search: the most similar of many float16 vectors in a memory-mapped file, by NumPy or FAISS."""

from __future__ import annotations

import mmap
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .database import DamagedError
from .vector_file import HEADER_BYTES, file_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.embedder import Vectors

Float16Vectors = npt.NDArray[np.float16]
Slots = npt.NDArray[np.int64]

MAX_LENGTH_ERROR = 0.02  # of a stored vector: that of the model, and rounding to float16
SCORE_MARGIN = 1e-3  # more than rounding changes a score; slots this close to the last place are candidates too
# FAISS reads float16 without conversion: a million vectors of 512 take 0.15 s, and 0.35 s with NumPy. But the import of
# FAISS takes 0.35 s.
FAISS_MIN_VECTORS = 200_000
EXTRA_CANDIDATES = 32  # that FAISS returns beyond the wanted ones, because scores may be equal
CANDIDATE_GROWTH = 4  # factor to the next search, while the last candidate is as good as the last wanted one
BLOCK_VECTORS = 1024  # compared at once, so that they stay in the CPU's cache


class MappedVectors:
    """The first `length` vectors of `dim` numbers in the file `path`; see vector_file.py."""

    def __init__(self, path: Path, length: int, dim: int) -> None:
        if length:
            with path.open("rb") as file:
                # Pages are copied when they are written to. Only faiss_index() writes, to the page of the header.
                mapping = mmap.mmap(file.fileno(), file_bytes(length, dim), access=mmap.ACCESS_COPY)
            self.bytes = np.frombuffer(mapping, np.uint8)
        else:
            self.bytes = np.empty(HEADER_BYTES, np.uint8)
        self.vectors: Float16Vectors = self.bytes[HEADER_BYTES:].view(np.float16).reshape(length, dim)
        self._path = path
        self._faiss: Any = None

    def candidates(self, query: Vectors, top: int, allowed: npt.NDArray[np.bool_] | None) -> Slots:
        """Every slot that may be among the `top` most similar to `query` [D].

        `allowed` is a mask [N] of the slots to search; None: all.
        """
        if len(self.vectors) >= FAISS_MIN_VECTORS and find_spec("faiss"):
            if self._faiss is None:
                self._faiss = faiss_index(self.bytes, *self.vectors.shape)
            return candidates_faiss(self._faiss, query, top, allowed)
        return candidates_numpy(self.vectors, query, top, allowed)

    def scores(self, slots: Slots, query: Vectors) -> Vectors:
        """Cosines [N] of `query` [D] with the vectors in `slots` [N]; the same for each way of searching."""
        # Not `@`: BLAS sums the last rows in another order, and equal vectors would get unequal scores.
        return np.asarray(np.clip(np.einsum("nd,d->n", self.unit_vectors(slots), query), -1, 1), np.float32)

    def unit_vectors(self, slots: Slots) -> Vectors:
        """The vectors [N, D] in `slots` [N] as float32 of unit length.

        Raises:
            DamagedError: one is far from unit length, or not finite.
        """
        vectors = self.vectors[slots].astype(np.float32)
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))  # rounding to float16 makes them differ from 1
        usable = np.abs(lengths - 1) <= MAX_LENGTH_ERROR
        if not usable.all():
            raise DamagedError(str(self._path), f"a vector of length {lengths[~usable][0]:.3g} instead of 1")
        return np.asarray(vectors / lengths[:, None], np.float32)


def candidates_numpy(vectors: Float16Vectors, query: Vectors, top: int, allowed: npt.NDArray[np.bool_] | None) -> Slots:
    """See `MappedVectors.candidates`."""
    scores = dot_products_float16(vectors, query)
    if allowed is not None:
        scores[~allowed] = -np.inf
    lowest = np.partition(scores, -top)[-top] - SCORE_MARGIN if top < len(scores) else -np.inf
    return np.flatnonzero((scores >= lowest) & (scores > -np.inf))


def dot_products_float16(vectors: Float16Vectors, query: Vectors) -> Vectors:
    """Dot products [N] of `vectors` [N, D] with `query` [D].

    A float16 whose bits are moved up by 13 is a float32 that is too small by 2**112. NumPy moves bits four times as
    fast as it converts numbers.
    """
    bits, scaled = vectors.view(np.int16), query.astype(np.float32) * np.float32(2.0**112)
    scores, block = np.empty(len(vectors), np.float32), np.empty((BLOCK_VECTORS, vectors.shape[1]), np.int32)
    sign_and_value = np.int32(~0x70000000)  # clears the copies of the sign bit, which widening makes
    for start in range(0, len(vectors), BLOCK_VECTORS):
        rows = block[: len(vectors) - start]
        np.left_shift(bits[start : start + BLOCK_VECTORS], 13, out=rows, dtype=np.int32)
        np.bitwise_and(rows, sign_and_value, out=rows)
        # Not BLAS: its threads wait for each other at every block, which took ten times as long on a busy machine.
        np.einsum("nd,d->n", rows.view(np.float32), scaled, out=scores[start : start + BLOCK_VECTORS])
    return scores


def faiss_index(data: npt.NDArray[np.uint8], length: int, dim: int) -> Any:
    """FAISS's exact index over the vectors in `data`, which are not copied and must live as long as the index.

    FAISS writes a header of its own before the vectors of an index. That header is put before the vectors here, at the
    end of the page of our header, in memory only.
    """
    import faiss

    empty = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    empty.ntotal = length
    header = faiss.serialize_index(empty)
    header[-8:].view("<u8")[0] = length * dim * 2  # number of bytes that follow
    data[HEADER_BYTES - len(header) : HEADER_BYTES] = header
    whole = data[HEADER_BYTES - len(header) :]
    return faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(whole), whole.nbytes))


def candidates_faiss(index: Any, query: Vectors, top: int, allowed: npt.NDArray[np.bool_] | None) -> Slots:
    """See `MappedVectors.candidates`."""
    import faiss

    parameters = None
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")
        parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
    count = top + EXTRA_CANDIDATES
    while True:
        scores, slots = index.search(query[None].astype(np.float32), min(count, index.ntotal), params=parameters)
        candidates: Slots = slots[0][slots[0] >= 0]
        if count >= index.ntotal or len(candidates) < count or scores[0, -1] < scores[0, top - 1] - SCORE_MARGIN:
            return candidates
        count *= CANDIDATE_GROWTH
