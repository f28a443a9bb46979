"""The items of an index in SQLite: tables, transactions, filters, and SQLite's errors as ours."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import msgspec

from bot_deploy.errors import BotError, InputError, RunError

from .interface import STORED_NAMES, GalleryItem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .interface import Filters

T = TypeVar("T")
DATABASE = "gallery.sqlite"
INDEX_FORMAT = 1
LOCK_TIMEOUT_S = 60  # how long a writer waits for another; each locks the index for one batch only

REMEDIES = {
    sqlite3.SQLITE_FULL: "; nothing was lost: make room and try again",
    sqlite3.SQLITE_READONLY: "; nothing was lost: look at the permissions of the folder and its files",
    sqlite3.SQLITE_PERM: "; look at the permissions of the folder and its files",
    sqlite3.SQLITE_CANTOPEN: "; look at the permissions of the folder and its files",
}

PATH, *DETAILS = STORED_NAMES  # the columns, in this order
COLUMNS = ", ".join((PATH, *DETAILS))
SCHEMA = (
    # `space` is the embedding space; `alive` is the number of vectors that an item refers to.
    "CREATE TABLE gallery (format, space, dim, root, generation, length, alive)",
    # The slot of a vector; negative for files that are no image.
    f"CREATE TABLE rows (slot INTEGER PRIMARY KEY, {PATH} UNIQUE, {', '.join(DETAILS)})",
)
INSERT = f"INSERT INTO rows (slot, {COLUMNS}) VALUES (?, {', '.join('?' * len(GalleryItem._fields))})"  # noqa: S608 - our own names
UPDATE = f"UPDATE rows SET {', '.join(f'{name} = ?' for name in DETAILS)} WHERE {PATH} = ?"  # noqa: S608


class DamagedError(InputError):
    """An index whose content is proven to be damaged."""

    def __init__(self, address: str, reason: object) -> None:
        # Not "delete it": the crops of enrolled people lie in the same folder.
        super().__init__(f"{address}: damaged ({reason}); index its crops into a new gallery")


class Connections:
    """A connection to a database for each thread, because SQLite's transactions belong to a connection."""

    def __init__(self, path: Path, *, create: bool) -> None:
        self._path = path
        self._create = create
        self._of_thread = threading.local()
        self._opened: list[tuple[threading.Thread, sqlite3.Connection]] = []
        self._lock = threading.Lock()
        self._closed = False
        # Python 3.13 warns of connections that nobody closed; a gallery that is just dropped is no error.
        weakref.finalize(self, _close_connections, self._opened)

    def get(self) -> sqlite3.Connection:
        """The connection of this thread."""
        connection: sqlite3.Connection | None = getattr(self._of_thread, "connection", None)
        if connection is None:
            with self._lock:
                if self._closed:
                    raise sqlite3.ProgrammingError("the gallery was closed")
                self._close(lambda thread: not thread.is_alive())
                connection = connect(self._path, create=self._create)
                self._opened.append((threading.current_thread(), connection))
            self._of_thread.connection = connection
        return connection

    def close(self) -> None:
        """Closes the connections of all threads."""
        with self._lock:
            self._closed = True
            self._close(lambda _: True)

    def _close(self, condition: Callable[[threading.Thread], bool]) -> None:
        for thread, connection in [opened for opened in self._opened if condition(opened[0])]:
            connection.close()
            self._opened.remove((thread, connection))


def _close_connections(opened: list[tuple[threading.Thread, sqlite3.Connection]]) -> None:
    for _, connection in opened:
        connection.close()


def connect(path: Path, *, create: bool) -> sqlite3.Connection:
    """Opens the database at `path`, or a new one with `create`; without a lock where the folder is read-only."""
    mode = "mode=rwc" if create else "mode=rw"
    if path.exists() and not os.access(path.parent, os.W_OK):
        # A reader's lock is a file in the folder. Without a pending log no process writes, and no lock is needed.
        log = path.with_name(f"{path.name}-wal")
        mode = "mode=ro" if log.exists() and log.stat().st_size else "mode=ro&immutable=1"
    uri = f"{path.absolute().as_uri()}?{mode}"
    # Each thread has a connection of its own; only `Connections.close` uses those of others.
    return sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False)


@contextlib.contextmanager
def transaction(database: sqlite3.Connection, kind: str = "DEFERRED") -> Iterator[None]:
    """A transaction, rolled back when the block raises; `kind` "IMMEDIATE" waits for other writers at its start."""
    database.execute(f"BEGIN {kind}")
    try:
        yield
        database.execute("COMMIT")
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")


class StoredItem(NamedTuple):
    """The values of COLUMNS; see `GalleryItem`."""

    path: bytes
    size: Annotated[int, msgspec.Meta(ge=0)]
    mtime: int
    digest: bytes
    identity: str | None
    camera: int | None
    time: Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)] | None
    error: str


def decode_rows(rows: object, cls: type[T]) -> T:
    """`rows` of the database as `cls`, a type of tuples and lists.

    Raises:
        msgspec.ValidationError: a value has another type or is out of range; `convert_errors` calls that damaged.
    """
    return msgspec.convert(rows, cls, builtin_types=(bytes,))


def decode_items(rows: Sequence[Sequence[Any]]) -> list[GalleryItem]:
    """The items with these values of COLUMNS; see `decode_rows`."""
    return [GalleryItem(decode_path(row[0]), *row[1:]) for row in decode_rows(rows, list[StoredItem])]


def decode_path(path: bytes) -> str:
    """The path that `encode_path` encoded."""
    if b"\0" in path:
        raise msgspec.ValidationError("a path with a null byte")
    return os.fsdecode(path)


def insert_values(slot: int, item: GalleryItem) -> tuple[Any, ...]:
    """The values for INSERT."""
    return slot, encode_path(item.path), *item[1:]


def update_values(item: GalleryItem) -> tuple[Any, ...]:
    """The values for UPDATE."""
    return *item[1:], encode_path(item.path)


def encode_path(path: str) -> bytes:
    """`path` as the database holds it: as bytes, because a file name need not be text."""
    return os.fsencode(path)


def filter_condition(filters: Filters) -> tuple[str, list[float]]:
    """An SQL condition that begins with AND (empty without filters), and its values."""
    condition = ""
    values: list[float] = []
    for form, cameras in (
        ("camera IN ({})", filters.get("cameras")),
        ("(camera IS NULL OR camera NOT IN ({}))", filters.get("exclude_cameras")),
    ):
        if cameras is not None:
            condition += f" AND {form.format(', '.join('?' * len(cameras)))}"
            values += cameras
    for form, time in (("time >= ?", filters.get("since")), ("time <= ?", filters.get("until"))):
        if time is not None:
            condition += f" AND {form}"
            values.append(time)
    return condition, values


@contextlib.contextmanager
def convert_errors(address: str) -> Iterator[None]:
    """Turns errors of SQLite, of `decode_rows` and of the disk into errors about the gallery at `address`."""
    try:
        yield
    except sqlite3.Error as error:
        raise _convert_error(address, error) from None
    except (msgspec.ValidationError, UnicodeDecodeError) as error:  # sqlite3 raises the latter for a damaged schema
        raise DamagedError(address, error) from None
    except OSError as error:
        raise RunError(f"{address}: {error.strerror or error}") from None


def _convert_error(address: str, error: sqlite3.Error) -> BotError:
    """The error of this package for one of SQLite; only what SQLite itself calls corrupt is called damaged."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the other bits are details
    reason = str(error)
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return DamagedError(address, reason)
    is_missing = code == sqlite3.SQLITE_CANTOPEN and not (Path(address) / DATABASE).exists()
    if is_missing or "no such table" in reason:
        return InputError(f"{address}: no gallery there; `bot index` makes one")
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        reason = f"another process has been writing to it for {LOCK_TIMEOUT_S} s; wait for it and try again"
    return RunError(f"{address}: {reason}{REMEDIES.get(code, '')}")
