"""The embedded store: one folder with rows in SQLite and vectors in a mapped file beside it.

    people.gallery/
      gallery.sqlite      who is where; `length` says how many vectors are committed
      vectors-1.f16       HEADER bytes, then vectors; slot n at n * dim halves

A committed vector is never written again, so a reader needs no lock: its transaction names the file and the length.
Vectors reach the disk before the rows that point to them are committed; what a killed writer left behind the committed
length is written over. Removed rows leave holes; when over half are holes, the rest moves to vectors-2.f16, and so on.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from bot_deploy.errors import BotError, InputError

from .database import COLUMNS, DATABASE, FORMAT, SCHEMA, connect, explained, fields_of, row_of, transaction, where
from .interface import GalleryItem, SearchHit, changed, normalised, ranked
from .search import HEADER, Hnsw, Mapped, build_hnsw

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Unpack

    from bot_deploy.embedder import Vectors

    from .interface import Filters
    from .search import Slots

HNSW = 1  # in SQLite's user_version: searches are to go by a graph
MAGIC = b"bot-deploy gallery: float16 vectors from byte 4096\n"


@dataclass(frozen=True)
class StoreState:
    """What a transaction sees: `length` vectors in the file of this `generation`, `alive` of them with a row."""

    generation: int
    length: int
    alive: int

    @property
    def vectors(self) -> tuple[int, int]:
        """What a mapping of the vectors depends on."""
        return self.generation, self.length


class Store:
    """See `rows.Gallery`."""

    def __init__(self, folder: Path, embedding_space: str = "", dim: int = 0, root: Path | None = None) -> None:
        """Opens the store in `folder`, or makes one for `embedding_space` where none is and `root` is given.

        Raises:
            InputError: no store there, or a damaged one.
            RunError: it cannot be written or read.
        """
        self.address = str(folder)
        self._folder = folder
        self._mapped: tuple[tuple[int, int], Mapped] | None = None
        self._hnsw: tuple[tuple[int, int], Hnsw] | None = None
        with explained(self.address):
            if root is not None:
                folder.mkdir(parents=True, exist_ok=True)
            self._database = connect(folder / DATABASE, create=root is not None)
        try:
            with explained(self.address):
                self._load(embedding_space, dim, root)
        except BotError:
            self._database.close()
            raise

    def _load(self, embedding_space: str, dim: int, root: Path | None) -> None:
        known = "SELECT 1 FROM sqlite_master WHERE name = 'gallery'"
        if root is not None and not self._database.execute(known).fetchone():
            self._database.execute("PRAGMA journal_mode = WAL")
            with transaction(self._database, "IMMEDIATE"):
                if not self._database.execute(known).fetchone():  # nobody was faster
                    for statement in SCHEMA:
                        self._database.execute(statement)
                    fields = (FORMAT, embedding_space, dim, os.fsencode(root), 1, 0, 0)
                    self._database.execute("INSERT INTO gallery VALUES (?, ?, ?, ?, ?, ?, ?)", fields)
        row = self._database.execute("SELECT format, space, dim, root FROM gallery").fetchone()
        if row[0] != FORMAT:
            raise InputError(f"{self.address}: format {row[0]}, but this bot_deploy reads {FORMAT}; index again")
        self.embedding_space, self.dim, self.root = str(row[1]), int(row[2]), Path(os.fsdecode(row[3]))

    def __len__(self) -> int:
        with explained(self.address):
            return self._state().alive

    def count(self, **filters: Unpack[Filters]) -> int:
        condition, values = where(filters)
        with explained(self.address):
            find = f"SELECT count(*) FROM rows WHERE slot >= 0 {condition}"  # noqa: S608 - our own names
            return int(self._database.execute(find, values).fetchone()[0])

    def items(self) -> Iterator[GalleryItem]:
        with explained(self.address), transaction(self._database):
            found = self._database.execute(f"SELECT {COLUMNS} FROM rows").fetchall()  # noqa: S608 - our own names
        return map(row_of, found)

    def broken(self) -> list[GalleryItem]:
        with explained(self.address):
            found = self._database.execute(f"SELECT {COLUMNS} FROM rows WHERE slot < 0 ORDER BY path")  # noqa: S608
            return [row_of(fields) for fields in found]

    def add(self, rows: Sequence[GalleryItem], vectors: Vectors) -> None:
        good = [number for number, row in enumerate(rows) if not row.error]
        with self._writing() as state:
            self._append(state, vectors[good])
            removed = self._delete([row.path for row in rows])
            least = self._database.execute("SELECT min(0, min(slot)) FROM rows").fetchone()[0] or 0
            slots = iter(range(state.length, state.length + len(good)))
            broken = iter(range(least - 1, least - 1 - len(rows), -1))
            self._database.executemany(
                f"INSERT INTO rows (slot, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                [(next(broken) if row.error else next(slots), *fields_of(row)) for row in rows],
            )
            self._resize(state.length + len(good), state.alive + len(good) - removed)
        self._compact_if_sparse()

    def update_metadata(self, rows: Sequence[GalleryItem]) -> None:
        with self._writing():
            self._database.executemany(
                "UPDATE rows SET size = ?, mtime = ?, digest = ?, identity = ?, camera = ?, time = ?, error = ? "
                "WHERE path = ?",
                [(*fields_of(row)[1:], os.fsencode(row.path)) for row in rows],
            )

    def remove(self, paths: Sequence[str]) -> None:
        with self._writing() as state:
            self._resize(state.length, state.alive - self._delete(paths))
        self._compact_if_sparse()

    def search(self, query: Vectors, top: int, **filters: Unpack[Filters]) -> list[SearchHit]:
        if query.shape != (self.dim,):
            raise InputError(f"query {query.shape}: the vectors of {self.address} have {self.dim} numbers")
        condition, values = where(filters)
        with self._reading() as (state, mapped):
            if not state.alive or top < 1:
                return []
            graph = None if condition else self._graph(state, mapped)
            if graph:
                found = self._found(mapped, graph.candidates(query, top), query)
                if len(found) >= min(top, state.alive):  # otherwise it met too many holes
                    return ranked(found, top)
            allowed = None
            if condition or state.alive < state.length:
                allowed = np.zeros(state.length, bool)
                chosen = self._database.execute(f"SELECT slot FROM rows WHERE slot >= 0 {condition}", values)  # noqa: S608
                allowed[np.fromiter((slot for (slot,) in chosen), np.int64)] = True
            return ranked(self._found(mapped, mapped.candidates(query, top, allowed), query), top)

    def vectors(self, paths: Sequence[str]) -> Vectors:
        find = "SELECT slot FROM rows WHERE path = ? AND slot >= 0"
        with self._reading() as (_, mapped):
            slots = []
            for path in paths:
                found = self._database.execute(find, (os.fsencode(path),)).fetchone()
                if found is None:
                    raise changed(self.address, path)
                slots.append(found[0])
            return normalised(mapped.vectors[np.asarray(slots, np.int64)])

    def has_identity(self, identity: str) -> bool:
        with explained(self.address):
            find = "SELECT 1 FROM rows WHERE identity = ? AND slot >= 0 LIMIT 1"
            return self._database.execute(find, (identity,)).fetchone() is not None

    def set_root(self, root: Path) -> None:
        if root != self.root:
            with self._writing():
                self._database.execute("UPDATE gallery SET root = ?", (os.fsencode(root),))
            self.root = root

    def compact(self) -> None:
        """Moves the vectors that have a row to a file without holes."""
        with self._writing() as state:
            slots = self._slots()
            new = StoreState(state.generation + 1, len(slots), len(slots))
            if len(slots):
                old = Mapped(self._vectors(state), state.length, self.dim).vectors
                with self._vectors(new).open("wb") as file:
                    file.write(MAGIC.ljust(HEADER, b"\0"))
                    for start in range(0, len(slots), 4096):
                        file.write(old[slots[start : start + 4096]].tobytes())
                    _sync(file.fileno())
            # In rising order a slot's new number is free by the time it is given.
            moved = [(rank, int(slot)) for rank, slot in enumerate(slots) if rank != slot]
            self._database.executemany("UPDATE rows SET slot = ? WHERE slot = ?", moved)
            self._database.execute("UPDATE gallery SET generation = ?", (new.generation,))
            self._resize(new.length, new.alive)
        # Who still reads the old file keeps it until then; on Windows, the next compaction removes it.
        for old_file in (*self._folder.glob("vectors-*.f16"), *self._folder.glob("hnsw-*.faiss")):
            if old_file not in {self._vectors(new), self._graph_path(new)}:
                with contextlib.suppress(OSError):
                    old_file.unlink()

    @property
    def remembers_hnsw(self) -> bool:
        """Whether a graph was built and not dropped since; it may be out of date, or gone with a compaction."""
        with explained(self.address):
            return bool(self._database.execute("PRAGMA user_version").fetchone()[0] & HNSW)

    def hnsw_is_current(self) -> bool:
        """Whether the graph holds exactly the vectors that have a row; searches are right, but slower, when not."""
        with self._reading() as (state, mapped):
            graph = self._graph(state, mapped)
            return graph is not None and graph.size == state.length == state.alive

    def drop_hnsw(self) -> None:
        """From now on every search is exact, also after the next update."""
        with self._writing():
            self._database.execute("PRAGMA user_version = 0")
        self._hnsw = None
        with explained(self.address):
            for graph in self._folder.glob("hnsw-*.faiss"):
                graph.unlink()

    def build_hnsw(self) -> float:
        """Builds the graph that approximate searches take from now on; returns its recall@10, see `recall`.

        The store remembers that it has one, see `remembers_hnsw`; what is added after is compared one by one.
        """
        with self._reading() as (state, _):
            holes = state.alive < state.length
        if holes:
            self.compact()
        with self._reading() as (state, mapped):
            if not state.alive:
                raise InputError(f"{self.address}: empty, there is nothing to build a graph of")
            path, temporary = self._graph_path(state), self._folder / f".hnsw.{os.getpid()}.tmp"
            try:
                with explained(self.address):
                    build_hnsw(mapped.vectors, temporary)
                    temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            self._hnsw = None
            graph = self._graph(state, mapped)
            assert graph is not None
            found = recall(graph, mapped)
        with self._writing():
            self._database.execute(f"PRAGMA user_version = {HNSW}")
        return found

    def close(self) -> None:
        self._mapped = self._hnsw = None
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- what the above is made of ----

    def _state(self) -> StoreState:
        return StoreState(*self._database.execute("SELECT generation, length, alive FROM gallery").fetchone())

    def _slots(self) -> Slots:
        found = self._database.execute("SELECT slot FROM rows WHERE slot >= 0 ORDER BY slot")
        return np.fromiter((slot for (slot,) in found), np.int64)

    def _vectors(self, state: StoreState) -> Path:
        return self._folder / f"vectors-{state.generation}.f16"

    def _graph_path(self, state: StoreState) -> Path:
        return self._folder / f"hnsw-{state.generation}.faiss"

    def _graph(self, state: StoreState, mapped: Mapped) -> Hnsw | None:
        path = self._graph_path(state)
        if not path.exists() or not find_spec("faiss"):
            return None
        if self._hnsw is None or self._hnsw[0] != state.vectors:
            try:
                graph = Hnsw(path, mapped)
            except RuntimeError as error:  # FAISS's
                reason = str(error).rpartition("Error: ")[2]
                raise InputError(f"{path}: not a readable graph ({reason}); delete it and index again") from None
            self._hnsw = state.vectors, graph
        # One of more vectors than this transaction sees was put there meanwhile; it would point outside of them.
        return self._hnsw[1] if self._hnsw[1].size <= state.length else None

    @contextlib.contextmanager
    def _reading(self) -> Iterator[tuple[StoreState, Mapped]]:
        """A transaction, and the vectors that it sees."""
        with explained(self.address):
            for attempt in range(10):
                with transaction(self._database):
                    state = self._state()
                    try:
                        mapped = self._map(state)
                    except FileNotFoundError:  # compacted just now, so that the next transaction sees another file
                        if attempt == 9:  # noqa: PLR2004
                            raise
                        continue
                    yield state, mapped
                    return

    def _map(self, state: StoreState) -> Mapped:
        if self._mapped is None or self._mapped[0] != state.vectors:
            path = self._vectors(state)
            if state.length and path.stat().st_size < HEADER + state.length * self.dim * 2:
                raise InputError(
                    f"{path}: shorter than its rows say (half copied?); delete {self.address}, index again"
                )
            self._mapped = state.vectors, Mapped(path, state.length, self.dim)
        return self._mapped[1]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[StoreState]:
        """A transaction that no other writer interrupts: whatever it does is done at its end, or never."""
        with explained(self.address), transaction(self._database, "IMMEDIATE"):
            yield self._state()

    def _append(self, state: StoreState, vectors: Vectors) -> None:
        path = self._vectors(state)
        if not len(vectors):
            return
        with path.open("r+b" if path.exists() else "w+b") as file:
            if not state.length:
                file.write(MAGIC.ljust(HEADER, b"\0"))
            file.seek(HEADER + state.length * self.dim * 2)
            file.write(vectors.astype(np.float16).tobytes())
            file.flush()
            _sync(file.fileno())

    def _delete(self, paths: Sequence[str]) -> int:
        """Removes rows; how many of them had a vector."""
        keys = [(os.fsencode(path),) for path in paths]
        removed = self._database.executemany("DELETE FROM rows WHERE path = ? AND slot >= 0", keys).rowcount
        self._database.executemany("DELETE FROM rows WHERE path = ?", keys)
        return max(0, removed)

    def _resize(self, length: int, alive: int) -> None:
        self._database.execute("UPDATE gallery SET length = ?, alive = ?", (length, alive))

    def _compact_if_sparse(self) -> None:
        with explained(self.address):
            state = self._state()
        if state.alive < state.length / 2:
            self.compact()

    def _found(self, mapped: Mapped, slots: Slots, query: Vectors) -> list[SearchHit]:
        """Those of `slots` that have a row."""
        scores = dict(zip(slots.tolist(), mapped.scores(slots, query).tolist(), strict=True))
        rows = self._database.execute(
            f"SELECT slot, {COLUMNS} FROM rows WHERE slot IN (SELECT value FROM json_each(?))",  # noqa: S608
            (json.dumps(list(scores)),),
        )
        return [SearchHit(row_of(row), scores[slot]) for slot, *row in rows]


def is_store(path: Path) -> bool:
    """Whether there is a store in the folder `path`."""
    return (path / DATABASE).is_file()


def recall(graph: Hnsw, mapped: Mapped, queries: int = 200) -> float:
    """Recall@10 of `graph` against exact search: of the ten nearest others of up to 200 of its vectors, how many."""
    asked = np.unique(np.linspace(0, len(mapped.vectors) - 1, queries).astype(np.int64))
    hits, wanted = 0, 0
    for slot in asked:
        query = mapped.vectors[slot].astype(np.float32)
        near, exact = (
            [other for other in slots[np.argsort(-mapped.scores(slots, query), kind="stable")] if other != slot][:10]
            for slots in (graph.candidates(query, 11), mapped.candidates(query, 11, None))
        )
        hits, wanted = hits + len(set(near) & set(exact)), wanted + len(exact)
    return hits / wanted if wanted else 1.0


def _sync(file: int) -> None:
    getattr(os, "fdatasync", os.fsync)(file)
