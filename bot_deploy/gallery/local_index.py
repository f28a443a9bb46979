"""The local index: a folder with items in SQLite, and their vectors in a memory-mapped file.

    people.gallery/
      gallery.sqlite      the items; `length` is the number of committed vectors
      vectors-1.f16       the vectors, see vector_file.py; an item's slot is the place of its vector
      hnsw-1.faiss        a graph for approximate search, if `build_hnsw` was called, see graph_files.py

A committed vector is never written again, so a reader needs no lock: its transaction fixes the file and the length.
Vectors are on the disk before the items that refer to them are committed. Bytes behind the committed length, which a
killed writer left, are written over. Removed items leave holes. When over half of the slots are holes, the vectors
move to vectors-2.f16 without them, and so on.

After a change of the model, the table `outdated` has the paths of the items whose vectors are of an earlier one.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, Self

import msgspec
import numpy as np

from bot_deploy.errors import InputError

from .database import (
    COLUMNS,
    DATABASE,
    INDEX_FORMAT,
    INSERT,
    SCHEMA,
    UPDATE,
    Connections,
    DamagedError,
    convert_errors,
    decode_items,
    decode_path,
    decode_rows,
    encode_path,
    filter_condition,
    insert_values,
    transaction,
    update_values,
)
from .graph_files import GraphFiles
from .hnsw import recall_at_10
from .interface import GalleryItem, SearchHit, best_hits, removed_error
from .root import current_root
from .search import MappedVectors
from .vector_file import append_vectors, copy_vectors, file_bytes, has_header

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from typing import Unpack

    from bot_deploy.embedder import Vectors

    from .interface import Filters
    from .search import Slots

USES_HNSW = 1  # in SQLite's user_version: searches use a graph
OUTDATE = "INSERT OR IGNORE INTO outdated VALUES (?)"
READ_ATTEMPTS = 10  # each fails only if a writer compacts the index at that moment


Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class IndexState(NamedTuple):
    """What a transaction sees: `length` vectors in the file of this `generation`."""

    generation: Count
    length: Count
    live_vectors: Count  # vectors that an item refers to; the others are holes

    @property
    def mapping_key(self) -> tuple[int, int]:
        """The key of a mapping of the vectors: it stays valid while these stay the same."""
        return self.generation, self.length


class _Header(NamedTuple):
    """The columns of the table `gallery` that stay the same, apart from `format`."""

    space: Annotated[str, msgspec.Meta(max_length=400)]
    dim: Annotated[int, msgspec.Meta(ge=1, le=65_536)]
    root: bytes


class LocalIndex:
    """The embedded store; see `interface.Index` for its methods. Several threads may use it at once."""

    def __init__(self, folder: Path, embedding_space: str = "", dim: int = 0, root: Path | None = None) -> None:
        """Opens the index in `folder`. With `root`, a missing one is made for `embedding_space`.

        Raises:
            InputError: no index there, or a damaged one.
            RunError: it cannot be written or read.
        """
        self.address = str(folder)
        self._folder = folder
        self._mapped: tuple[tuple[int, int], MappedVectors] | None = None
        self._graphs = GraphFiles(folder)
        with convert_errors(self.address):
            if root is not None:
                folder.mkdir(parents=True, exist_ok=True)
            self._connections = Connections(folder / DATABASE, create=root is not None)
        try:
            with convert_errors(self.address):
                self._load(embedding_space, dim, root)
        except BaseException:  # also Ctrl-C
            self._connections.close()
            raise

    @property
    def _database(self) -> sqlite3.Connection:
        """The connection of this thread."""
        return self._connections.get()

    def _load(self, embedding_space: str, dim: int, root: Path | None) -> None:
        has_table = "SELECT 1 FROM sqlite_master WHERE name = 'gallery'"
        # Vectors and crops are written after the table; another process may be at it just now.
        if (
            not self._database.execute(has_table).fetchone()
            and any(not path.name.startswith((".", DATABASE)) for path in self._folder.iterdir())
            and not self._database.execute(has_table).fetchone()
        ):
            raise DamagedError(self.address, f"{DATABASE} is empty, but its vectors or crops are there")
        if root is not None and not self._database.execute(has_table).fetchone():
            self._database.execute("PRAGMA journal_mode = WAL")
            with transaction(self._database, "IMMEDIATE"):
                if not self._database.execute(has_table).fetchone():  # no other process was faster
                    for statement in SCHEMA:
                        self._database.execute(statement)
                    fields = (INDEX_FORMAT, embedding_space, dim, os.fsencode(root), 1, 0, 0)
                    self._database.execute("INSERT INTO gallery VALUES (?, ?, ?, ?, ?, ?, ?)", fields)
                    self._write_place()
        row = self._database.execute("SELECT format FROM gallery").fetchone()
        (version,) = decode_rows(row, tuple[int])
        if version != INDEX_FORMAT:
            raise InputError(
                f"{self.address}: format {version}, but this bot_deploy reads {INDEX_FORMAT}; use the version that "
                "made it, or index its crops into a new gallery"
            )
        row = self._database.execute("SELECT space, dim, root FROM gallery").fetchone()
        self.embedding_space, self.dim, stored_root = decode_rows(row, _Header)
        self._stored_root = Path(decode_path(stored_root))
        self._place = self._read_place()
        self.root = current_root(self._stored_root, self._place, self._folder)
        with self._reading():  # damaged vectors are found before any work begins
            pass

    def _read_place(self) -> str | None:
        """Where the index was when its root was written; None if an older version wrote it."""
        if not self._database.execute("SELECT 1 FROM sqlite_master WHERE name = 'place'").fetchone():
            return None
        row = self._database.execute("SELECT address FROM place").fetchone()
        return decode_path(decode_rows(row, tuple[bytes])[0]) if row else None

    def _write_place(self) -> None:
        self._database.execute("CREATE TABLE IF NOT EXISTS place (address)")  # older versions do not read it
        self._database.execute("DELETE FROM place")
        self._database.execute("INSERT INTO place VALUES (?)", (os.fsencode(self._folder.absolute()),))

    def __len__(self) -> int:
        with convert_errors(self.address):
            return self._state().live_vectors

    def count(self, **filters: Unpack[Filters]) -> int:
        condition, values = filter_condition(filters)
        with convert_errors(self.address):
            query = f"SELECT count(*) FROM rows WHERE slot >= 0 {condition}"  # noqa: S608 - our own names
            return int(self._database.execute(query, values).fetchone()[0])

    def items(self) -> Iterator[GalleryItem]:
        with convert_errors(self.address), transaction(self._database):
            rows = self._database.execute(f"SELECT {COLUMNS} FROM rows").fetchall()  # noqa: S608 - our own names
            return iter(decode_items(rows))

    def broken(self) -> list[GalleryItem]:
        with convert_errors(self.address):
            rows = self._database.execute(f"SELECT {COLUMNS} FROM rows WHERE slot < 0 ORDER BY path")  # noqa: S608
            return decode_items(rows.fetchall())

    def add(self, items: Sequence[GalleryItem], vectors: Vectors) -> None:
        usable = [index for index, item in enumerate(items) if not item.error]
        with self._writing() as state:
            append_vectors(self._vector_path(state), vectors[usable], state.length)
            removed = self._delete([item.path for item in items])
            min_slot = self._database.execute("SELECT min(0, min(slot)) FROM rows").fetchone()[0] or 0
            slots = iter(range(state.length, state.length + len(usable)))
            broken_slots = iter(range(min_slot - 1, min_slot - 1 - len(items), -1))
            self._database.executemany(
                INSERT, [insert_values(next(broken_slots) if item.error else next(slots), item) for item in items]
            )
            self._resize(state.length + len(usable), state.live_vectors + len(usable) - removed)
            if self._stored_space() != self.embedding_space:  # another process has made it an index of a later model
                self._database.executemany(OUTDATE, [(encode_path(items[index].path),) for index in usable])
        self._compact_if_sparse()

    def update_metadata(self, items: Sequence[GalleryItem]) -> None:
        with self._writing():
            self._database.executemany(UPDATE, map(update_values, items))

    def remove(self, paths: Sequence[str]) -> None:
        with self._writing() as state:
            self._resize(state.length, state.live_vectors - self._delete(paths))
        self._compact_if_sparse()

    def search(self, query: Vectors, top: int, **filters: Unpack[Filters]) -> list[SearchHit]:
        if query.shape != (self.dim,):
            raise InputError(f"query {query.shape}: the vectors of {self.address} have {self.dim} numbers")
        condition, values = filter_condition(filters)
        with self._reading() as (state, mapped):
            if not state.live_vectors or top < 1:
                return []
            graph = None if condition else self._graphs.open(state.generation, mapped)
            if graph:
                hits = self._hits(mapped, graph.candidates(query, top), query)
                if len(hits) >= min(top, state.live_vectors):  # otherwise too many of the candidates were removed
                    return best_hits(hits, top)
            allowed = None
            if condition or state.live_vectors < state.length:
                allowed = np.zeros(state.length, bool)
                allowed[self._slots(state, condition, values)] = True
            return best_hits(self._hits(mapped, mapped.candidates(query, top, allowed), query), top)

    def vectors(self, paths: Sequence[str]) -> Vectors:
        query = "SELECT slot FROM rows WHERE path = ? AND slot >= 0"
        with self._reading() as (state, mapped):
            slots = []
            for path in paths:
                row = self._database.execute(query, (encode_path(path),)).fetchone()
                if row is None:
                    raise removed_error(self.address, path)
                if row[0] >= state.length:
                    raise DamagedError(self.address, f"slot {row[0]} of {state.length} vectors")
                slots.append(row[0])
            return mapped.unit_vectors(np.asarray(slots, np.int64))

    def has_identity(self, identity: str) -> bool:
        with convert_errors(self.address):
            query = "SELECT 1 FROM rows WHERE identity = ? AND slot >= 0 LIMIT 1"
            return self._database.execute(query, (identity,)).fetchone() is not None

    def count_identity(self, identity: str) -> int:
        with convert_errors(self.address):
            query = "SELECT count(*) FROM rows WHERE identity = ? AND slot >= 0"
            return int(self._database.execute(query, (identity,)).fetchone()[0])

    def set_embedding_space(self, space: str) -> None:
        with self._writing():
            if self._stored_space() != space:
                self._database.execute("CREATE TABLE IF NOT EXISTS outdated (path PRIMARY KEY)")
                self._database.execute("INSERT OR IGNORE INTO outdated SELECT path FROM rows WHERE slot >= 0")
                self._database.execute("UPDATE gallery SET space = ?", (space,))
        self.embedding_space = space

    def outdated(self) -> list[str]:
        with convert_errors(self.address), transaction(self._database):
            if not self._has_outdated():
                return []
            rows = self._database.execute("SELECT path FROM outdated ORDER BY path").fetchall()
            return [decode_path(path) for (path,) in decode_rows(rows, list[tuple[bytes]])]

    def replace_outdated(self, paths: Sequence[str], vectors: Vectors) -> int:
        with self._writing() as state:
            keys = [encode_path(path) for path in paths]
            query = "SELECT 1 FROM outdated WHERE path = ?"
            has_table = self._has_outdated()  # other processes may have upgraded or removed some
            rows = [
                row for row, key in enumerate(keys) if has_table and self._database.execute(query, (key,)).fetchone()
            ]
            append_vectors(self._vector_path(state), vectors[rows], state.length)
            slots = range(state.length, state.length + len(rows))
            found = [keys[row] for row in rows]
            self._database.executemany("UPDATE rows SET slot = ? WHERE path = ?", zip(slots, found, strict=True))
            if rows:
                self._database.executemany("DELETE FROM outdated WHERE path = ?", [(key,) for key in found])
            self._resize(state.length + len(rows), state.live_vectors)
        self._compact_if_sparse()
        return len(rows)

    def set_root(self, root: Path) -> None:
        place = str(self._folder.absolute())
        if (root, place) != (self._stored_root, self._place):
            with self._writing():
                self._database.execute("UPDATE gallery SET root = ?", (os.fsencode(root),))
                self._write_place()
            self._stored_root, self._place = root, place
        self.root = root

    def compact(self) -> None:
        """Moves the vectors that have an item to a file without holes."""
        with self._writing() as state:
            slots = self._slots(state)
            new = IndexState(state.generation + 1, len(slots), len(slots))
            if len(slots):
                mapped = MappedVectors(self._vector_path(state), state.length, self.dim)
                copy_vectors(mapped.vectors, slots, self._vector_path(new))
            # In rising order, so that each new slot is free.
            moves = [(rank, int(slot)) for rank, slot in enumerate(slots) if rank != slot]
            self._database.executemany("UPDATE rows SET slot = ? WHERE slot = ?", moves)
            self._database.execute("UPDATE gallery SET generation = ?", (new.generation,))
            self._resize(new.length, new.live_vectors)
        # A reader that has the old file open can go on. On Windows, the next compaction removes that file.
        for old_file in (*self._folder.glob("vectors-*.f16"), *self._graphs.files()):
            if old_file not in {self._vector_path(new), self._graphs.path(new.generation)}:
                with contextlib.suppress(OSError):
                    old_file.unlink()

    def purge(self) -> None:
        """Rewrites all files, so that nothing of a removed item is left in them."""
        self.compact()
        with convert_errors(self.address):
            self._graphs.delete()  # they hold vectors; `bot index` builds one again
            self._mapped = None
            self._database.execute("VACUUM")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @property
    def uses_hnsw(self) -> bool:
        """Whether a graph was built and not dropped since; it may be out of date, or removed by a compaction."""
        with convert_errors(self.address):
            return bool(self._database.execute("PRAGMA user_version").fetchone()[0] & USES_HNSW)

    def hnsw_is_current(self) -> bool:
        """Whether the graph holds exactly the vectors with an item; if not, searches are right but slower."""
        with self._reading() as (state, mapped):
            graph = self._graphs.open(state.generation, mapped)
            return graph is not None and graph.size == state.length == state.live_vectors

    def drop_hnsw(self) -> None:
        """Removes the graph: every search is exact from now on, also after the next `bot index`."""
        with self._writing():
            self._database.execute("PRAGMA user_version = 0")
        with convert_errors(self.address):
            self._graphs.delete()

    def build_hnsw(self) -> float:
        """Builds the graph for approximate search and returns its recall@10, see `hnsw.recall_at_10`.

        `uses_hnsw` is true afterwards. Vectors that are added later are compared one by one.
        """
        with self._reading() as (state, _):
            holes = state.live_vectors < state.length
        if holes:
            self.compact()
        with self._reading() as (state, mapped):
            if not state.live_vectors:
                raise InputError(f"{self.address}: empty; a graph needs vectors")
            recall = recall_at_10(self._graphs.build(state.generation, mapped), mapped)
        with self._writing():
            self._database.execute(f"PRAGMA user_version = {USES_HNSW}")
        return recall

    def close(self) -> None:
        self._mapped = None
        self._graphs.close()
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- helpers ----

    def _state(self) -> IndexState:
        row = self._database.execute("SELECT generation, length, alive FROM gallery").fetchone()
        state = decode_rows(row, IndexState)
        if state.live_vectors > state.length:
            raise DamagedError(self.address, f"{state.live_vectors} items for {state.length} vectors")
        return state

    def _stored_space(self) -> str:
        row = self._database.execute("SELECT space FROM gallery").fetchone()
        return decode_rows(row, tuple[str])[0]

    def _has_outdated(self) -> bool:
        return bool(self._database.execute("SELECT 1 FROM sqlite_master WHERE name = 'outdated'").fetchone())

    def _slots(self, state: IndexState, condition: str = "", values: Sequence[float] = ()) -> Slots:
        """The slots of the items that fulfil `condition`, in rising order."""
        query = f"SELECT slot FROM rows WHERE slot >= 0 {condition} ORDER BY slot"  # noqa: S608 - our own names
        slots = np.fromiter((slot for (slot,) in self._database.execute(query, values)), np.int64)
        if len(slots) and slots[-1] >= state.length:
            raise DamagedError(self.address, f"slot {slots[-1]} of {state.length} vectors")
        return slots

    def _vector_path(self, state: IndexState) -> Path:
        return self._folder / f"vectors-{state.generation}.f16"

    @contextlib.contextmanager
    def _reading(self) -> Iterator[tuple[IndexState, MappedVectors]]:
        """A transaction, with the vectors that it sees."""
        with convert_errors(self.address):
            for attempt in range(READ_ATTEMPTS):
                with transaction(self._database):
                    state = self._state()
                    try:
                        mapped = self._map(state)
                    except FileNotFoundError:  # compacted just now: the next transaction sees another file
                        if attempt == READ_ATTEMPTS - 1:
                            raise
                        continue
                    yield state, mapped
                    return

    def _map(self, state: IndexState) -> MappedVectors:
        opened = self._mapped  # another thread may replace it
        if opened is None or opened[0] != state.mapping_key:
            path = self._vector_path(state)
            if state.length:
                self._check_vectors(path, state.length)
            opened = self._mapped = state.mapping_key, MappedVectors(path, state.length, self.dim)
        return opened[1]

    def _check_vectors(self, path: Path, length: int) -> None:
        """Raises DamagedError unless `path` can hold `length` vectors."""
        if path.stat().st_size < file_bytes(length, self.dim):
            raise DamagedError(str(path), "shorter than its rows say; half copied?")
        if not has_header(path):
            raise DamagedError(str(path), "it does not begin as a file of vectors does")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[IndexState]:
        """A transaction without other writers; all of its changes are made at its end, or none."""
        with convert_errors(self.address), transaction(self._database, "IMMEDIATE"):
            yield self._state()

    def _delete(self, paths: Sequence[str]) -> int:
        """Removes the items with these paths; returns how many of them had a vector."""
        keys = [(encode_path(path),) for path in paths]
        removed = self._database.executemany("DELETE FROM rows WHERE path = ? AND slot >= 0", keys).rowcount
        self._database.executemany("DELETE FROM rows WHERE path = ?", keys)
        if self._has_outdated():
            self._database.executemany("DELETE FROM outdated WHERE path = ?", keys)
        return max(0, removed)

    def _resize(self, length: int, live_vectors: int) -> None:
        self._database.execute("UPDATE gallery SET length = ?, alive = ?", (length, live_vectors))

    def _compact_if_sparse(self) -> None:
        with convert_errors(self.address):
            state = self._state()
        if state.live_vectors < state.length / 2:
            self.compact()

    def _hits(self, mapped: MappedVectors, slots: Slots, query: Vectors) -> list[SearchHit]:
        """The hits of those `slots` that have an item."""
        scores = dict(zip(slots.tolist(), mapped.scores(slots, query).tolist(), strict=True))
        rows = self._database.execute(
            f"SELECT slot, {COLUMNS} FROM rows WHERE slot IN (SELECT value FROM json_each(?))",  # noqa: S608
            (json.dumps(list(scores)),),
        ).fetchall()
        items = decode_items([values for _, *values in rows])
        return [SearchHit(item, scores[row[0]]) for item, row in zip(items, rows, strict=True)]


def is_local_index(path: Path) -> bool:
    """Whether the folder `path` is an index."""
    return (path / DATABASE).is_file()
