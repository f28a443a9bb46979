"""The items of a store in SQLite: tables, transactions, filters, and SQLite's errors as ours."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING, Any

from bot_deploy.errors import InputError, RunError

from .interface import GalleryItem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .interface import Filters

DATABASE = "gallery.sqlite"
FORMAT = 1
LOCK_TIMEOUT_S = 60  # how long a writer waits for another; each locks the store for one batch only

PATH, *DETAILS = GalleryItem._fields  # the columns, in this order
COLUMNS = ", ".join((PATH, *DETAILS))
SCHEMA = (
    "CREATE TABLE gallery (format, space, dim, root, generation, length, alive)",
    # The slot of a vector; negative for files that are no image.
    f"CREATE TABLE rows (slot INTEGER PRIMARY KEY, {PATH} UNIQUE, {', '.join(DETAILS)})",
)
INSERT = f"INSERT INTO rows (slot, {COLUMNS}) VALUES (?, {', '.join('?' * len(GalleryItem._fields))})"  # noqa: S608 - our own names
UPDATE = f"UPDATE rows SET {', '.join(f'{name} = ?' for name in DETAILS)} WHERE {PATH} = ?"  # noqa: S608


def connect(path: Path, *, create: bool) -> sqlite3.Connection:
    """Opens the database at `path`, or a new one with `create`; without a lock where the folder is read-only."""
    mode = "mode=rwc" if create else "mode=rw"
    if path.exists() and not os.access(path.parent, os.W_OK):
        # A reader's lock is a file in the folder. Without a pending log nobody writes, and no lock is needed.
        log = path.with_name(f"{path.name}-wal")
        mode = "mode=ro" if log.exists() and log.stat().st_size else "mode=ro&immutable=1"
    uri = f"{path.absolute().as_uri()}?{mode}"
    return sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT_S, isolation_level=None)


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


def item_of(values: Sequence[Any]) -> GalleryItem:
    """The item with these values of COLUMNS."""
    return GalleryItem(os.fsdecode(values[0]), *values[1:])


def insert_values(slot: int, item: GalleryItem) -> tuple[Any, ...]:
    """The values for INSERT."""
    return slot, encode_path(item.path), *item[1:]


def update_values(item: GalleryItem) -> tuple[Any, ...]:
    """The values for UPDATE."""
    return *item[1:], encode_path(item.path)


def encode_path(path: str) -> bytes:
    """`path` as the database holds it: as bytes, because a file name need not be text."""
    return os.fsencode(path)


def where(filters: Filters) -> tuple[str, list[float]]:
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
def explained(address: str) -> Iterator[None]:
    """Turns errors of SQLite and the disk into InputError or RunError about the gallery at `address`."""
    try:
        yield
    except sqlite3.OperationalError as error:
        reason = str(error)
        if "locked" in reason:
            reason = f"another process has been writing to it for {LOCK_TIMEOUT_S} s; wait for it and try again"
        elif "no such table" in reason or "unable to open" in reason:
            raise InputError(f"{address}: no gallery there; `bot index` makes one") from None
        raise RunError(f"{address}: {reason}") from None
    except sqlite3.DatabaseError as error:
        raise InputError(f"{address}: damaged ({error}); delete it and index again") from None
    except OSError as error:
        raise RunError(f"{address}: {error.strerror or error}") from None
