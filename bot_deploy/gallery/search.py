"""The most similar of many fp16 vectors that lie in a mapped file, exactly, without reading them into memory."""

from __future__ import annotations

import mmap
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.embedder import Vectors

Halves = npt.NDArray[np.float16]
Slots = npt.NDArray[np.int64]

HEADER = 4096  # bytes before the first vector
MARGIN = 1e-3  # more than rounding can change a score: whatever is this close to the last place is scored again
# FAISS reads fp16 as it is and takes 0.15 s for a million vectors of 512, NumPy 0.35 s; but importing it takes 0.35 s.
FAISS_FROM = 200_000
BLOCK = 1024  # vectors, so that a block stays in the cache


class Mapped:
    """`length` vectors of `dim` halves in the file at `path`, after HEADER bytes."""

    def __init__(self, path: Path, length: int, dim: int) -> None:
        if length:
            with path.open("rb") as file:
                # Pages are copied when written to, and only faiss_index() writes, in the header's.
                mapping = mmap.mmap(file.fileno(), HEADER + length * dim * 2, access=mmap.ACCESS_COPY)
            self.bytes = np.frombuffer(mapping, np.uint8)
        else:
            self.bytes = np.empty(HEADER, np.uint8)
        self.vectors: Halves = self.bytes[HEADER:].view(np.float16).reshape(length, dim)
        self._faiss: Any = None

    def candidates(self, query: Vectors, top: int, allowed: npt.NDArray[np.bool_] | None) -> Slots:
        """Every slot that may be among the `top` most similar of those `allowed` [N] (None: all)."""
        if len(self.vectors) >= FAISS_FROM and find_spec("faiss"):
            if self._faiss is None:
                self._faiss = faiss_index(self.bytes, *self.vectors.shape)
            return by_faiss(self._faiss, query, top, allowed)
        return by_numpy(self.vectors, query, top, allowed)

    def scores(self, slots: Slots, query: Vectors) -> Vectors:
        """Cosines [N] of `query` with the vectors in `slots`, whoever found them."""
        vectors = self.vectors[slots].astype(np.float32)
        # Not `@`: BLAS sums the last rows in another order, so that equal vectors would differ in the last digit.
        dots = np.einsum("nd,d->n", vectors, query)
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))  # not quite 1: rounded to fp16
        return np.asarray(np.clip(dots / lengths, -1, 1), np.float32)


def by_numpy(vectors: Halves, query: Vectors, top: int, allowed: npt.NDArray[np.bool_] | None) -> Slots:
    """See `Mapped.candidates`."""
    scores = dots(vectors, query)
    if allowed is not None:
        scores[~allowed] = -np.inf
    edge = np.partition(scores, -top)[-top] - MARGIN if top < len(scores) else -np.inf
    return np.flatnonzero((scores >= edge) & (scores > -np.inf))


def dots(vectors: Halves, query: Vectors) -> Vectors:
    """Dot products [N] of `vectors` [N, D] with `query` [D].

    A half moved 13 bits up is a float 2**112 too small. NumPy moves bits four times as fast as it converts halves.
    """
    bits, scaled = vectors.view(np.int16), query.astype(np.float32) * np.float32(2.0**112)
    scores, block = np.empty(len(vectors), np.float32), np.empty((BLOCK, vectors.shape[1]), np.int32)
    sign_and_value = np.int32(~0x70000000)  # without the copies of the sign that widening made
    for start in range(0, len(vectors), BLOCK):
        part = block[: len(vectors) - start]
        np.left_shift(bits[start : start + BLOCK], 13, out=part, dtype=np.int32)
        np.bitwise_and(part, sign_and_value, out=part)
        # Not BLAS, whose threads meet at every block: on a busy machine that took ten times as long.
        np.einsum("nd,d->n", part.view(np.float32), scaled, out=scores[start : start + BLOCK])
    return scores


def faiss_index(data: npt.NDArray[np.uint8], length: int, dim: int) -> Any:
    """FAISS's exact index over the vectors in `data`, which must live as long: they are not copied.

    What FAISS would write before them in a file of its own is put before them in the header's page.
    """
    import faiss

    empty = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    empty.ntotal = length
    head = faiss.serialize_index(empty)
    head[-8:].view("<u8")[0] = length * dim * 2  # bytes that follow
    data[HEADER - len(head) : HEADER] = head
    whole = data[HEADER - len(head) :]
    return faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(whole), whole.nbytes))


def by_faiss(index: Any, query: Vectors, top: int, allowed: npt.NDArray[np.bool_] | None) -> Slots:
    """See `Mapped.candidates`."""
    import faiss

    parameters = None
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")
        parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
    count = top + 32
    while True:
        scores, slots = index.search(query[None].astype(np.float32), min(count, index.ntotal), params=parameters)
        found: Slots = slots[0][slots[0] >= 0]
        if count >= index.ntotal or len(found) < count or scores[0, -1] < scores[0, top - 1] - MARGIN:
            return found
        count *= 4


def build_hnsw(vectors: Halves, path: Path) -> None:
    """Writes the graph over `vectors` to `path`, without the vectors."""
    import faiss

    index = faiss.IndexHNSWSQ(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, 32, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:1].astype(np.float32))
    index.hnsw.efConstruction = 100
    for start in range(0, len(vectors), 100 * BLOCK):
        index.add(vectors[start : start + 100 * BLOCK].astype(np.float32))
    faiss.write_index(index, str(path), faiss.IO_FLAG_SKIP_STORAGE)


class Hnsw:
    """A graph from `build_hnsw` over the first vectors of `mapped`."""

    def __init__(self, path: Path, mapped: Mapped) -> None:
        import faiss

        self._index = faiss.read_index(str(path), faiss.IO_FLAG_SKIP_STORAGE)
        self._mapped = mapped
        self._storage = faiss_index(mapped.bytes, *mapped.vectors.shape)
        self._index.storage, self._index.own_fields = self._storage, False
        self.size: int = self._index.ntotal  # vectors that the graph knows

    def candidates(self, query: Vectors, top: int) -> Slots:
        """Slots that are likely among the `top` most similar."""
        import faiss

        count = min(top + 32, self._index.ntotal)
        parameters = faiss.SearchParametersHNSW(efSearch=max(128, 2 * count))
        _, slots = self._index.search(query[None].astype(np.float32), count, params=parameters)
        near: Slots = slots[0][slots[0] >= 0]
        rest = self._mapped.vectors[self._index.ntotal :]  # added since, compared one by one
        return np.concatenate([near, self._index.ntotal + by_numpy(rest, query, top, None)]) if len(rest) else near
