"""Which part of an index mirrors a folder: all of it, a folder in it, or a folder that was added to it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy.errors import InputError

from .scan import file_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .interface import GalleryItem, Index
    from .scan import FileState

MOVED_SAMPLE = 100  # files that are read to see whether a folder was moved


@dataclass(frozen=True)
class Part:
    """The part of an index that mirrors one folder."""

    root: Path  # of the index
    prefix: str  # of the paths of the folder's files below `root`
    items: dict[str, GalleryItem]  # by path below `root`


def find_part(
    index: Index,
    folder: Path,
    items: list[GalleryItem],
    files: Mapping[str, FileState],
    *,
    add: bool,
    replace: bool,
) -> Part:
    """The part of `index` that mirrors `folder` from now on.

    Raises:
        InputError: all images of the index are in another folder, and neither `add` nor `replace` is given.
    """
    root, target = index.root.resolve(), folder.resolve()
    own = {item.path: item for item in items if not is_outside(item.path)}
    if not items or replace or root == target:
        return Part(folder.absolute(), "", own)
    try:
        prefix = Path(os.path.relpath(target, root)).as_posix() + "/"
    except ValueError:  # another drive of Windows
        prefix = target.as_posix() + "/"
    part = {item.path: item for item in items if item.path.startswith(prefix)}
    if part or add:
        return Part(index.root, prefix, part)
    if root.is_relative_to(target) and len(own) == len(items):  # its crops are there, under longer paths
        return Part(folder.absolute(), "", {})
    if _was_moved(own, files, folder):
        return Part(folder.absolute(), "", own)
    raise InputError(
        f"{index.address}: holds {len(items)} images of {index.root}, and they are not below {folder}; name "
        "another index, or choose: `bot index --add` keeps them and adds the folder, `bot index --replace` drops them"
    )


def _was_moved(items: Mapping[str, GalleryItem], files: Mapping[str, FileState], folder: Path) -> bool:
    """Whether at least half of `items` are below `folder`, with the same paths and content."""
    in_place = [item for path, item in items.items() if path in files and files[path].size == item.size and item.digest]
    if 2 * len(in_place) < len(items):
        return False
    sample = in_place[:: -(-len(in_place) // MOVED_SAMPLE)] if in_place else []
    return 2 * sum(file_digest(folder / item.path) == item.digest for item in sample) > len(sample)


def is_outside(path: str) -> bool:
    """Whether the file at `path` was added from a folder that is not below the index's root."""
    return path.startswith(("../", "/")) or path[1:3] == ":/"  # Path is slow for a million names
