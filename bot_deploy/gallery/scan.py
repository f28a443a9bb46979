"""The image files below a folder, and what shows that the content of a file has changed."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import Counter
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from bot_deploy import images
from bot_deploy.choices import VIDEO_SUFFIXES
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

CLOCK_GRAIN_NS = 2_000_000_000  # the coarsest clock of a file system, that of FAT
BLOCK_BYTES = 1 << 20
WINDOWS = os.name == "nt"


class FileState(NamedTuple):
    """Size and stamp of a file, as the file system reports them."""

    size: int = 0  # bytes
    stamp: int = 0  # see `file_stamp`; 0: unknown
    is_settled: bool = False  # a later change of the content changes the stamp


@dataclass(frozen=True)
class ScanResult:
    """The image files below a folder, and the folders there that cannot be read, with the reason; by path."""

    files: dict[str, FileState]
    unreadable: dict[str, str]


def check_folder(folder: Path) -> None:
    """Raises InputError when there is no such folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; the gallery is a folder of crops, one person on each")


def scan_images(folder: Path) -> ScanResult:
    """Every image file below `folder`, in the order of their paths; logs how many videos there are beside them.

    Raises:
        InputError: no such folder, or it cannot be read.
    """
    check_folder(folder)
    unreadable: dict[str, str] = {}

    def keep(path: str, error: OSError) -> None:
        unreadable[path] = f"cannot be read ({error.strerror or error})"

    # Within one tick of its clock, a file system gives two contents the same time.
    settled_before = time.time_ns() - CLOCK_GRAIN_NS
    others: Counter[str] = Counter()
    entries = sorted(images.walk_images(folder, on_error=keep, others=others), key=itemgetter(0))
    videos = sum(count for suffix, count in others.items() if suffix in VIDEO_SUFFIXES)
    if entries and videos:
        logger.warning(f"{videos} videos in {folder} are not read, because it also holds images; name them")
    return ScanResult({path: file_state(entry, settled_before) for path, entry in entries}, unreadable)


def file_state(file: os.DirEntry[str] | Path, settled_before: int = 0) -> FileState:
    """The state of `file`, or of what it links to; `settled_before` is a time in nanoseconds."""
    try:
        stat = file.stat()
    except OSError:  # a broken link, which `read_image` reports
        return FileState()
    # POSIX changes ctime with every change of the file, and no program can set it. That of Windows is the creation.
    newest = stat.st_mtime_ns if WINDOWS else stat.st_ctime_ns
    return FileState(stat.st_size, file_stamp(stat), newest < settled_before)


def file_stamp(stat: os.stat_result) -> int:
    """A number that changes when a file is written, replaced, or gets back its old time; never 0."""
    inode = 0 if WINDOWS else stat.st_ino  # listings of Windows do not give it
    return hash((stat.st_mtime_ns, stat.st_ctime_ns, inode)) or 1  # of numbers, the same in every process


def file_digest(path: Path) -> bytes:
    """A hash of the content, 8 bytes; empty when the file cannot be read."""
    try:
        digest = hashlib.blake2b(digest_size=8)
        with images.open_regular(path) as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
            return digest.digest()
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return b""
