"""The store's rows in SQLite: tables, transactions, filters, and what its errors mean."""

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
COLUMNS = "path, size, mtime, digest, identity, camera, time, error"
SCHEMA = (
    "CREATE TABLE gallery (format, space, dim, root, generation, length, alive)",
    # The slot is the vector's; those of files that are no image are negative.
    f"CREATE TABLE rows (slot INTEGER PRIMARY KEY, {COLUMNS.replace('path', 'path UNIQUE', 1)})",
)


def connect(path: Path, *, create: bool) -> sqlite3.Connection:
    """The database at `path`, which `create` lets be new; where its folder may only be read, without a lock."""
    mode = "mode=rwc" if create else "mode=rw"
    if path.exists() and not os.access(path.parent, os.W_OK):
        # A folder that may only be read has no place for a reader's lock, which none needs that nobody writes to.
        written = path.with_name(f"{path.name}-wal")
        mode = "mode=ro" if written.exists() and written.stat().st_size else "mode=ro&immutable=1"
    return sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=LOCK_TIMEOUT_S, isolation_level=None)


@contextlib.contextmanager
def transaction(database: sqlite3.Connection, kind: str = "DEFERRED") -> Iterator[None]:
    """All of it or nothing; `kind` "IMMEDIATE" waits for other writers at its start."""
    database.execute(f"BEGIN {kind}")
    try:
        yield
        database.execute("COMMIT")
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")


def row_of(fields: Sequence[Any]) -> GalleryItem:
    """A row from its values by COLUMNS."""
    return GalleryItem(os.fsdecode(fields[0]), *fields[1:])


def fields_of(row: GalleryItem) -> tuple[Any, ...]:
    """The values of a row by COLUMNS."""
    return os.fsencode(row.path), *row[1:]  # as bytes: the name of a file need not be text


def where(filters: Filters) -> tuple[str, list[float]]:
    """A condition for SQL, empty without filters, and its values."""
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
    """What SQLite and the disk say, as our errors about the gallery at `address`."""
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
