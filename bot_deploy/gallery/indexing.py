"""Makes a gallery mirror a folder of crops: only new and changed files are embedded."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from bot_deploy import images
from bot_deploy.datasets.names import CropInfo, parse_names
from bot_deploy.errors import InputError
from bot_deploy.progress import progress_counter

from .interface import GalleryItem

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

    from bot_deploy.embedder import Embedder

    from .interface import Gallery

logger = logging.getLogger(__name__)

BATCH = 1024  # files embedded between two commits; a killed process loses at most these


@dataclass(frozen=True)
class IndexUpdate:
    """Numbers of files that `index_folder` embedded, removed and left as they were."""

    new: int
    changed: int
    vanished: int
    unchanged: int


def index_folder(
    gallery: Gallery, folder: Path, embedder: Embedder, metadata: Mapping[str, CropInfo] | None = None
) -> IndexUpdate:
    """Makes `gallery` hold the images below `folder` and nothing else.

    A file is unchanged if its size and modification time are, or its content is. A broken file is not decoded again
    until it changes. `metadata` by path has precedence over names, and is kept until it is given again.

    Raises:
        InputError: no such folder, not one usable image in it, or `metadata` about none of its files.
    """
    # Items first: a file that another process adds in between must not look as if it had vanished.
    known = {row.path: row for row in gallery.items()}
    found = scan(folder)
    if not found:  # perhaps an empty mount: the gallery is kept
        raise _unusable(folder, 0)
    metadata = metadata or {}
    _check_metadata(metadata, found, folder)
    vanished = [path for path in known if path not in found]
    names = _parse_new_names(found, known)
    embed: list[GalleryItem] = []
    updated: list[GalleryItem] = []
    for path, (size, mtime) in found.items():
        row = known.get(path)
        if row and (row.size, row.mtime) == (size, mtime) and path not in metadata:
            continue
        now = GalleryItem(path, size, mtime, **_info(path, row or names[path], metadata)._asdict())
        if row is None or _changed(now, row, folder):
            embed.append(now)
        elif (now := now._replace(digest=row.digest, error=row.error)) != row:
            updated.append(now)
    new = sum(row.path not in known for row in embed)
    if updated:
        gallery.update_metadata(updated)
    if vanished:
        gallery.remove(vanished)
    with progress_counter("indexing") as progress:
        for start in range(0, len(embed), BATCH):
            progress(start, len(embed))
            _embed(embed[start : start + BATCH], gallery, folder, embedder)
        progress(len(embed), max(1, len(embed)))
    gallery.set_root(folder.absolute())
    if not len(gallery):
        raise _unusable(folder, len(found))
    return IndexUpdate(new, len(embed) - new, len(vanished), len(found) - len(embed))


def _embed(rows: list[GalleryItem], gallery: Gallery, folder: Path, embedder: Embedder) -> None:
    paths = [folder / row.path for row in rows]
    # The digest comes before the embedding: if the file changes in between, the next update notices.
    digests = [file_digest(path) for path in paths]
    vectors, errors = embedder.embed_files(paths, None)
    items = [
        row._replace(digest=content, error=str(error or "").removeprefix(f"{path}: "))
        for row, path, content, error in zip(rows, paths, digests, errors, strict=True)
    ]
    gallery.add(items, vectors)


def _changed(now: GalleryItem, before: GalleryItem, folder: Path) -> bool:
    return now.size != before.size or (now.mtime != before.mtime and file_digest(folder / now.path) != before.digest)


def _parse_new_names(found: Mapping[str, object], known: Mapping[str, object]) -> Mapping[str, CropInfo]:
    """Identity, camera and time by path, if any path is new: each name is read in view of all the others."""
    if found.keys() <= known.keys():
        return {}
    return dict(zip(found, parse_names(list(found)).infos, strict=True))


def _info(path: str, before: CropInfo | GalleryItem, metadata: Mapping[str, CropInfo]) -> CropInfo:
    otherwise = CropInfo(before.identity, before.camera, before.time)
    given = metadata.get(path, CropInfo())._asdict()
    return otherwise._replace(**{name: value for name, value in given.items() if value is not None})


def _check_metadata(metadata: Mapping[str, CropInfo], found: Mapping[str, object], folder: Path) -> None:
    unknown = [path for path in metadata if path not in found]
    if metadata and len(unknown) == len(metadata):
        raise InputError(f"{folder}: the metadata are about none of its files; their first path is {unknown[0]}")
    if unknown:
        logger.warning(f"metadata about {len(unknown)} files that are not below {folder}, such as {unknown[0]}")


def _unusable(folder: Path, number: int) -> InputError:
    ends = ", ".join(sorted(images.SUFFIXES))
    return InputError(f"{folder}: {number} image files, none usable; crops end in {ends}")


def check_folder(folder: Path) -> None:
    """Raises InputError when there is no such folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; the gallery is a folder of crops, one person on each")


def scan(folder: Path) -> dict[str, tuple[int, int]]:
    """Size (bytes) and modification time (ns) of every image file below `folder`, by path, in order.

    Raises:
        InputError: no such folder, or one that cannot be read.
    """
    check_folder(folder)
    return {path: _size_and_mtime(entry) for path, entry in sorted(images.walk_images(folder), key=itemgetter(0))}


def _size_and_mtime(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        stat = entry.stat()
    except OSError:  # a broken link, which `read_image` reports
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def file_digest(path: Path) -> bytes:
    """A hash of the content, 8 bytes; empty when the file cannot be read."""
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=8).digest()
    except OSError:
        return b""
