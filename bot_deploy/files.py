"""Files that are never seen half written, and the folders of what is kept between runs."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


def cache_folder(name: str) -> Path:
    """The folder `name`, which need not exist, in the user's cache of this program.

    Raises:
        RunError: this user has no home folder.
    """
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise RunError("no home folder to keep files in; name a folder in the variable XDG_CACHE_HOME") from None
    return home / "bot-deploy" / name


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`write` fills a neighbour of `path`, which takes its place only when it is safely on disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("r+b") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save on a full disk raises the latter
        raise RunError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    finally:
        with contextlib.suppress(OSError):  # gone by now, or never begun
            temporary.unlink()


def unused_path(path: Path) -> Path:
    """`path`, or with a number behind its stem if there is something already."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}_{number}")
    return free


def prepare_output(path: Path, kind: str, suffixes: Collection[str]) -> None:
    """Makes the folder of `path`, so that what takes long is not begun where its result cannot be kept.

    Raises:
        InputError: `path` does not end in one of `suffixes`, as `kind` does.
        RunError: it cannot be written.
    """
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: {kind} ends in {', '.join(sorted(suffixes))}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from None
    check_writable(path)


def check_writable(path: Path) -> None:
    """Raises a RunError where `write_atomically` could not write `path`, or should not."""
    reason = "it is a folder" if path.is_dir() else ""
    if path.is_file() and not os.access(path, os.W_OK):
        reason = "it is write-protected"
    try:
        tempfile.TemporaryFile(dir=path.parent).close()  # which root may even where os.access says otherwise
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise RunError(f"{path}: cannot be written ({reason})")
