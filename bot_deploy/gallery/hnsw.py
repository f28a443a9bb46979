"""Approximate search: an HNSW graph of FAISS (Malkov & Yashunin, 2018) over the vectors of an index."""

from __future__ import annotations

import hashlib
import mmap
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.sampling import evenly_spread

from .search import BLOCK_VECTORS, candidates_numpy, faiss_index

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.embedder import Vectors

    from .search import Float16Vectors, MappedVectors, Slots

GRAPH_NEIGHBOURS = 32  # of each vector ("M" in FAISS)
EF_CONSTRUCTION = 100  # candidates compared for each new vector; more: better recall, slower build
MIN_EF_SEARCH = 128  # candidates that a search compares; more: better recall, slower search
EXTRA_CANDIDATES = 32  # beyond the wanted ones, because some may have been removed
RECALL_QUERIES = 200
DIGEST_BYTES = 32  # of the SHA-256 at the end of the file


class DamagedGraphError(Exception):
    """A graph whose checksum is missing or wrong. FAISS would follow its edges out of the memory."""


def build_graph(vectors: Float16Vectors, path: Path) -> None:
    """Writes the graph over `vectors` [N, D] to `path`, without the vectors, and a checksum behind it."""
    import faiss

    dim = vectors.shape[1]
    index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_fp16, GRAPH_NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:1].astype(np.float32))
    index.hnsw.efConstruction = EF_CONSTRUCTION
    step = 100 * BLOCK_VECTORS
    for start in range(0, len(vectors), step):
        index.add(vectors[start : start + step].astype(np.float32))
    faiss.write_index(index, str(path), faiss.IO_FLAG_SKIP_STORAGE)
    digest = _digest(path, path.stat().st_size)
    with path.open("ab") as file:
        file.write(digest)


class HnswGraph:
    """A graph from `build_graph` over the first `size` vectors of `mapped`."""

    def __init__(self, path: Path, mapped: MappedVectors) -> None:
        """Reads the graph.

        Raises:
            DamagedGraphError: it is damaged, or an older version wrote it without a checksum.
        """
        import faiss

        size = path.stat().st_size - DIGEST_BYTES
        with path.open("rb") as file:
            file.seek(max(0, size))
            if size <= 0 or file.read() != _digest(path, size):
                raise DamagedGraphError(path)
        self._index = faiss.read_index(str(path), faiss.IO_FLAG_SKIP_STORAGE)
        self._mapped = mapped
        self._storage = faiss_index(mapped.bytes, *mapped.vectors.shape)
        self._index.storage, self._index.own_fields = self._storage, False
        self.size: int = self._index.ntotal

    def candidates(self, query: Vectors, top: int) -> Slots:
        """Slots that are likely among the `top` most similar to `query` [D]."""
        import faiss

        count = min(top + EXTRA_CANDIDATES, self.size)
        parameters = faiss.SearchParametersHNSW(efSearch=max(MIN_EF_SEARCH, 2 * count))
        _, slots = self._index.search(query[None].astype(np.float32), count, params=parameters)
        near: Slots = slots[0][slots[0] >= 0]
        later = self._mapped.vectors[self.size :]  # added after the graph was built: compared one by one
        return np.concatenate([near, self.size + candidates_numpy(later, query, top, None)]) if len(later) else near


def recall_at_10(graph: HnswGraph, mapped: MappedVectors) -> float:
    """The share of the true ten nearest neighbours that `graph` returns, for up to RECALL_QUERIES of its vectors."""
    queries = evenly_spread(len(mapped.vectors), RECALL_QUERIES)
    hits, total = 0, 0
    for slot in queries:
        query = mapped.vectors[slot].astype(np.float32)
        near, exact = (
            [other for other in slots[np.argsort(-mapped.scores(slots, query), kind="stable")] if other != slot][:10]
            for slots in (graph.candidates(query, 11), mapped.candidates(query, 11, None))
        )
        hits, total = hits + len(set(near) & set(exact)), total + len(exact)
    return hits / total if total else 1.0


def _digest(path: Path, size: int) -> bytes:
    """The SHA-256 of the first `size` bytes of `path`, which has more than none."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
        return hashlib.sha256(content).digest()
