"""What took minutes to compute and is kept in the user's cache: engines, kernels and timings of TensorRT."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

from bot_deploy import files
from bot_deploy.errors import InputError

from . import engine_file

if TYPE_CHECKING:
    from pathlib import Path

    from .engine_file import Sidecar

MAX_CACHE_BYTES = 4 << 30  # in all; what was not used for longest is deleted
MAX_FILE_BYTES = 1 << 30  # of kernels or timings


def folder() -> Path:
    """The folder of all files; the name of an engine is its `Sidecar.key`."""
    return files.cache_folder("engines-1")


def file_name(text: str) -> str:
    """`text` without the characters that file names may lack."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text)


def read_engine(description: Sidecar) -> tuple[bytes, Sidecar] | None:
    """The engine that was built as `description` says, which has no hash yet; None if there is none, or it is damaged.

    Raises:
        RunError: the user has no home folder.
    """
    path = _engine_path(description)
    try:
        data, sidecar = engine_file.read(path)
    except InputError:
        return None
    if description.key() != sidecar.key() or description.contract != sidecar.contract:
        return None
    _mark_used(path)
    return data, sidecar


def write_engine(data: bytes, sidecar: Sidecar) -> None:
    """Keeps an engine.

    Raises:
        OSError, RunError: the cache cannot be written.
    """
    path = _engine_path(sidecar)
    path.parent.mkdir(parents=True, exist_ok=True)
    engine_file.write(path, data, sidecar)
    _delete_oldest()


def read(name: str) -> bytes:
    """The kept file `name`; empty if there is none."""
    try:
        path = folder() / name
        data = files.read_bounded(path, MAX_FILE_BYTES)
    except OSError:
        return b""
    _mark_used(path)
    return data


def write(name: str, data: bytes) -> None:
    """Keeps `data` as the file `name`.

    Raises:
        OSError, RunError: the cache cannot be written.
    """
    folder().mkdir(parents=True, exist_ok=True)
    files.write_atomically(folder() / name, lambda temporary: temporary.write_bytes(data))
    _delete_oldest()


def _engine_path(sidecar: Sidecar) -> Path:
    return folder() / f"{sidecar.key()}.engine"


def _mark_used(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(path)


def _delete_oldest() -> None:
    """Deletes what was not used for longest, until the rest has at most MAX_CACHE_BYTES; an engine with its sidecar."""
    groups: dict[str, list[tuple[float, int, Path]]] = {}
    for path in folder().iterdir():
        with contextlib.suppress(OSError):  # another process deletes, too
            status = path.stat()
            groups.setdefault(path.name.partition(".engine")[0], []).append((status.st_mtime, status.st_size, path))
    total = 0
    for group in sorted(groups.values(), key=lambda group: -max(used for used, _, _ in group)):
        total += sum(size for _, size, _ in group)
        if total > MAX_CACHE_BYTES:
            for _, _, path in group:
                with contextlib.suppress(OSError):
                    path.unlink()
