"""The root of a gallery's crops, after the gallery was moved."""

from __future__ import annotations

import os
from pathlib import Path


def current_root(root: Path, written_at: str | None, address: Path) -> Path:
    """Where the crops of the index at `address` lie now.

    `root` is the folder of the crops as it was when the index was at `written_at`; None if that is unknown. If they lay
    beside the index or in it, they were perhaps moved or copied together.
    """
    if written_at and root.is_relative_to(Path(written_at).parent):
        moved = Path(os.path.normpath(address.absolute() / os.path.relpath(root, written_at)))
        if moved.is_dir():
            return moved
    return root
