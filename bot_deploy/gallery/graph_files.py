"""The files of a local index's graphs: hnsw-N.faiss belongs to vectors-N.f16."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from bot_deploy.files import delete_leftovers

from .hnsw import DamagedGraphError, HnswGraph, build_graph

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .search import MappedVectors

logger = logging.getLogger(__name__)


class GraphFiles:
    """The graphs in the folder of an index; the last one that was opened stays in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opened: tuple[tuple[int, int], HnswGraph] | None = None
        self._damaged: set[Path] = set()  # those that were warned of

    def path(self, generation: int) -> Path:
        return self._folder / f"hnsw-{generation}.faiss"

    def files(self) -> Iterator[Path]:
        """The graphs of all generations."""
        return self._folder.glob("hnsw-*.faiss")

    def open(self, generation: int, mapped: MappedVectors) -> HnswGraph | None:
        """The graph over `mapped`, the vectors of this `generation`; None if there is none, or not for them."""
        path = self.path(generation)
        if not path.exists() or not find_spec("faiss"):
            return None
        length = len(mapped.vectors)
        opened = self._opened  # another thread may replace it
        if opened is None or opened[0] != (generation, length):
            try:
                opened = (generation, length), HnswGraph(path, mapped)
            except DamagedGraphError:
                if path not in self._damaged:
                    self._damaged.add(path)
                    logger.warning(f"{path}: a damaged graph; searches are exact until `bot index` builds it again")
                return None
            self._opened = opened
        # A writer may have built a graph over more vectors than this transaction sees; its slots would be out of range.
        return opened[1] if opened[1].size <= length else None

    def build(self, generation: int, mapped: MappedVectors) -> HnswGraph:
        """Builds the graph over `mapped`, and opens it."""
        path, temporary = self.path(generation), self._folder / f".hnsw.{os.getpid()}.tmp"
        delete_leftovers(self._folder)
        try:
            build_graph(mapped.vectors, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self.close()
        self._damaged.discard(path)
        graph = self.open(generation, mapped)
        assert graph is not None
        return graph

    def delete(self) -> None:
        """Deletes all graphs."""
        self.close()
        for file in self.files():
            file.unlink()

    def close(self) -> None:
        self._opened = None
