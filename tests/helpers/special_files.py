"""Entries of a folder that are named as images and are no regular files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("fifo", "folder", "loop", "none", "sparse", "to_fifo", "zero")


def make_special_files(folder: Path, prefix: str = "") -> None:
    """Makes an entry `prefix`NAME.jpg in `folder` for each of NAMES."""
    paths = {name: folder / f"{prefix}{name}.jpg" for name in NAMES}
    os.mkfifo(paths["fifo"])
    paths["to_fifo"].symlink_to(paths["fifo"].name)
    paths["loop"].symlink_to(paths["loop"].name)
    paths["none"].symlink_to("nothing")
    paths["zero"].symlink_to("/dev/zero")
    paths["folder"].mkdir()
    with paths["sparse"].open("wb") as file:
        file.truncate(1 << 40)
