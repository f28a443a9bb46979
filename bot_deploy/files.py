"""Writes files atomically, checks output paths, and gives the folders of the user's cache."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from bot_deploy.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


MAX_INPUT_BYTES = 320_000_000  # of one file that is read whole, such as a picture


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a regular file of at most MAX_INPUT_BYTES for reading, without waiting for anybody.

    A FIFO would wait for a writer, a device may never end, and a sparse file of terabytes would fill the memory.

    Raises:
        OSError: anything else, or a file that cannot be opened.
    """
    # Of what is no regular file, only a link's target can be opened by accident: O_NONBLOCK returns at once.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_regular(os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    if status.st_size > MAX_INPUT_BYTES:
        raise OSError(errno.EFBIG, f"over {MAX_INPUT_BYTES // 1_000_000} MB")


def cache_folder(name: str) -> Path:
    """The folder `name` in this program's cache of the user; it may not exist yet.

    Raises:
        RunError: the user has no home folder.
    """
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise RunError("no home folder for the cache; set the variable XDG_CACHE_HOME to a folder") from None
    return home / "bot-deploy" / name


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file atomically: `write` fills a temporary file beside `path`, which replaces `path` once it is on disk.

    Raises:
        RunError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("r+b") as file:  # on Windows, fsync needs a file that is open for writing
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError on a full disk
        raise RunError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    finally:
        with contextlib.suppress(OSError):  # it was renamed, or never created
            temporary.unlink()


def unused_path(path: Path) -> Path:
    """`path`, or `path` with a number after its stem if it exists already."""
    number, unused = 1, path
    while unused.exists():
        number += 1
        unused = path.with_stem(f"{path.stem}_{number}")
    return unused


def prepare_output(path: Path, kind: str, suffixes: Collection[str]) -> None:
    """Creates the folder of the output file `path`, and checks early that the file can be written.

    Raises:
        InputError: `path` does not end in one of `suffixes`; `kind` names the file in the message.
        RunError: the file cannot be written.
    """
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: {kind} ends in {', '.join(sorted(suffixes))}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from None
    check_writable(path)


def check_writable(path: Path) -> None:
    """Raises a RunError if `write_atomically` cannot write `path`, or if `path` is a folder or write-protected."""
    reason = "it is a folder" if path.is_dir() else ""
    if path.is_file() and not os.access(path, os.W_OK):
        reason = "it is write-protected"
    try:
        tempfile.TemporaryFile(dir=path.parent).close()  # os.access is not reliable for root
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise RunError(f"{path}: cannot be written ({reason})")
