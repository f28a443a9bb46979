"""Writes files atomically, checks output paths, and gives the folders of the user's cache."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import stat
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator


# Names of temporary files, with the process ID of their program.
LEFTOVER = re.compile(r"\.unverified\.(\d+)\..+|\..+\.(\d+)\.tmp", re.DOTALL)
MAX_WRITE_S = 24 * 3600  # nothing writes one file for longer


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


def write_atomically(path: Path, write: Callable[[Path], object], temporary_folder: Path | None = None) -> None:
    """Writes a file atomically: `write` fills a temporary file beside `path`, which replaces `path` once it is on disk.

    The temporary files of programs that were killed are deleted first. They are in `temporary_folder`,
    on the same file system; default: the folder of `path`.

    Raises:
        RunError: the file cannot be written.
    """
    folder = temporary_folder or path.parent
    temporary = folder / f".{path.name}.{os.getpid()}.tmp"
    delete_leftovers(folder)
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


@contextlib.contextmanager
def lock(path: Path, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Holds a lock on the file `path`, which is created, so that one process at a time is in the `with` block.

    The system frees the lock of a process that ends, however it ends. On file systems without locks there is none.

    Args:
        path: a file in a folder that exists.
        waiting: called once if another process holds the lock.

    Raises:
        OSError: the file cannot be created.
    """
    with path.open("ab") as file:
        try:
            _take_lock(file.fileno(), wait=False)
        except BlockingIOError:
            if waiting:
                waiting()
            _take_lock(file.fileno(), wait=True)
        yield


def _take_lock(descriptor: int, *, wait: bool) -> None:
    """Locks an open file. Raises BlockingIOError if another process holds the lock and `wait` is False."""
    if sys.platform == "win32":
        import msvcrt

        while True:
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            except OSError:
                if not wait:
                    raise BlockingIOError from None
                time.sleep(0.1)
            else:
                return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:
        pass  # no locks here; files appear complete all the same


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The content of the regular file `path`; a pipe or device is not opened, because it could block.

    Raises:
        OSError: it cannot be read, is no regular file, or has more than `max_bytes`.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file")
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > max_bytes:
            raise OSError(errno.EFBIG, f"larger than {max_bytes >> 20} MiB")
        return file.read(max_bytes)


def delete_leftovers(folder: Path) -> None:
    """Deletes the temporary files that killed programs left in `folder`: of `write_atomically` and of exports."""
    for path in folder.glob(".*") if folder.is_dir() else ():
        match = LEFTOVER.fullmatch(path.name)
        if match and path.is_file() and not _may_run(int(match[1] or match[2]), path):
            with contextlib.suppress(OSError):
                path.unlink()


def _may_run(process: int, path: Path) -> bool:
    """Whether the program with this process ID may still write `path`."""
    with contextlib.suppress(OSError):
        if path.stat().st_mtime < time.time() - MAX_WRITE_S:  # another program has this ID by now
            return False
    if os.name != "posix":  # no harmless way to ask
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def require_path(path: Path, kind: str) -> None:
    """Raises an InputError unless `path` is a file or a folder; `kind` says in the message what it should be."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null byte in the name
        raise InputError(f"{path}: no such {kind}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a pipe or device could block
        raise InputError(f"{path}: neither a file nor a folder")


def unused_path(path: Path) -> Path:
    """`path`, or `path` with a number after its stem if it exists already."""
    return next(one for one in numbered_paths(path) if not one.exists())


def numbered_paths(path: Path) -> Iterator[Path]:
    """`path`, and then `path` with the numbers 2, 3 and so on after its stem, without end."""
    yield path
    for number in itertools.count(2):
        yield path.with_stem(f"{path.stem}_{number}")


def prepare_output(path: Path, kind: str, suffixes: Collection[str], inputs: Iterable[Path] = ()) -> None:
    """Creates the folder of the output file `path`, and checks early that the file can be written.

    Raises:
        InputError: `path` does not end in one of `suffixes`, where `kind` names the file in the message; or it is one
            of `inputs`, which it would replace.
        RunError: the file cannot be written.
    """
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: {kind} ends in {', '.join(sorted(suffixes))}")
    check_no_input(path, inputs)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from None
    check_writable(path)


def check_no_input(path: Path, inputs: Iterable[Path]) -> None:
    """Raises an InputError if the output file `path` is one of `inputs`."""
    if any(path.exists() and one.exists() and path.samefile(one) for one in inputs):
        raise InputError(f"{path}: is read by this command, and would be replaced; name another file")


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
