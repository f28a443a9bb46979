"""Makes an index mirror a folder of crops: only new and changed files are embedded."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy import images
from bot_deploy.datasets import describe_names
from bot_deploy.datasets.names import CropMetadata, parse_names
from bot_deploy.errors import InputError
from bot_deploy.progress import progress_counter, show_progress

from .interface import GalleryItem
from .parts import find_part, is_outside
from .scan import file_digest, file_state, scan_images

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bot_deploy.embedder import Embedder

    from .interface import Index
    from .parts import Part
    from .scan import FileState, ScanResult

logger = logging.getLogger(__name__)

METADATA_REMEDY = "give the identities of these images in a table, or move them"
FILES_PER_COMMIT = 1024  # files embedded between two commits; a killed process loses at most these


@dataclass(frozen=True)
class IndexUpdate:
    """Numbers of files that `index_folder` embedded, removed and left as they were."""

    new: int
    changed: int
    removed: int
    unchanged: int


def index_folder(
    index: Index,
    folder: str | Path,
    embedder: Embedder,
    metadata: Mapping[str, CropMetadata] | None = None,
    *,
    add: bool = False,
    replace: bool = False,
    verify: bool = False,
    scanned: ScanResult | None = None,
    refuse_contradictions: bool = True,
) -> IndexUpdate:
    """Makes `index` hold the images below `folder`, with their present content, and no others of that folder.

    A file counts as unchanged if its size, times and inode are the same, or if its content is. A broken file is not
    decoded again until it changes.

    Args:
        index: the index to update. Images of other folders that were added to it stay.
        folder: the folder of the images. It may be the index's own, a part of it, or the same after a move.
        embedder: the model of the index.
        metadata: by path below `folder`; it has precedence over names, and is kept until it is given again.
        add: adds another folder to those in the index.
        replace: removes everything that is not below `folder`.
        verify: reads every file again, even if size, times and inode are the same; broken ones are tried again.
        scanned: what `scan_images` found in `folder`; None: it is scanned now.
        refuse_contradictions: whether names that contradict each other are an error. If not, they are a warning, and
            these crops have no identity.

    Raises:
        InputError: no such folder, not one usable image in it, `metadata` about none of its files, an index of
            another folder without `add` or `replace`, or names of new files that contradict each other.
    """
    folder = Path(folder)
    items = list(index.items())
    scanned = scanned or scan_images(folder)
    if not scanned.files:  # perhaps an empty mount: the index is kept
        raise _unusable(folder, 0)
    metadata = metadata or {}
    _check_metadata(metadata, scanned.files, folder)
    part = find_part(index, folder, items, scanned.files, add=add, replace=replace)
    base = folder if part.root == folder.absolute() else part.root  # paths in messages begin as `folder` does
    known = part.items
    states = scanned.files
    if part.prefix:
        states = {part.prefix + path: state for path, state in states.items()}
    metadata = {part.prefix + path: info for path, info in metadata.items()}
    names = _parse_new_names(states, known, part)
    if contradiction := names.contradiction(known, metadata):
        if refuse_contradictions:
            raise InputError(f"{folder}: {contradiction}; {METADATA_REMEDY}", parameter="metadata")
        logger.warning(f"{folder}: {contradiction}; their crops have no identity")
    changes = _compare(known, states, base, names.infos, metadata, verify=verify)
    unreadable = {
        part.prefix + path: GalleryItem(part.prefix + path, error=error) for path, error in scanned.unreadable.items()
    }
    removed = _removed_paths(known, states, unreadable, base)
    if part.root != index.root or replace:
        removed += [item.path for item in items if item.path not in known and (replace or not is_outside(item.path))]
    if changes.updated:
        index.update_metadata(changes.updated)
    if removed:
        index.remove(removed)
    index.set_root(part.root)  # before the new files, which a killed process must not leave below the old root
    if newly_unreadable := [item for path, item in unreadable.items() if known.get(path) != item]:
        index.add(newly_unreadable, np.zeros((len(newly_unreadable), index.dim), np.float32))
    _embed(changes.embed, states, index, base, embedder)
    if not len(index):
        raise _unusable(folder, len(states))
    new = sum(item.path not in known for item in changes.embed)
    changed = len(changes.embed) - new - changes.retried
    return IndexUpdate(new, changed, len(removed), len(states) - new - changed)


def describe_images(scanned: ScanResult, metadata: Mapping[str, CropMetadata] | None = None) -> list[str]:
    """Lines about what the names of the images in `scanned`, and `metadata`, say."""
    paths = list(scanned.files)
    parsed = parse_names(paths)
    infos = {path: _merge(info, (metadata or {}).get(path)) for path, info in zip(paths, parsed.infos, strict=True)}
    return describe_names(infos) + ([parsed.session_note] if parsed.session_note else [])


@dataclass(frozen=True)
class _Names:
    """What the names of the files of an update say."""

    infos: Mapping[str, CropMetadata]
    contradiction_reason: str = ""  # see `ParsedNames`
    contradictory: frozenset[str] = frozenset()  # the paths in it

    def contradiction(self, known: Mapping[str, object], metadata: Mapping[str, CropMetadata]) -> str:
        """Why the identities of new files are not clear; "" if they are, or if `metadata` has them."""
        unclear = any(
            path not in known and metadata.get(path, CropMetadata()).identity is None for path in self.contradictory
        )
        return self.contradiction_reason if unclear else ""


@dataclass(frozen=True)
class _Changes:
    """The items of an index that an update writes."""

    embed: list[GalleryItem]  # new files, changed ones, and broken ones that are tried again
    updated: list[GalleryItem]  # files with other metadata or another stamp, but the same content
    retried: int  # broken files among `embed`


def _compare(
    known: Mapping[str, GalleryItem],
    states: Mapping[str, FileState],
    base: Path,
    names: Mapping[str, CropMetadata],
    metadata: Mapping[str, CropMetadata],
    *,
    verify: bool,
) -> _Changes:
    """The changes from the `known` items to the files `states` below `base`; `names` is the metadata in new paths."""
    embed: list[GalleryItem] = []
    updated: list[GalleryItem] = []
    retried = 0
    for path, state in show_progress(states.items(), "reading", len(states)) if verify else states.items():
        previous = known.get(path)
        is_same = (
            previous is not None and previous.stamp == state.stamp != 0 and previous.size == state.size and not verify
        )
        if is_same and path not in metadata:
            continue
        stamp = state.stamp if state.is_settled else 0
        item = GalleryItem(path, state.size, stamp, **_merge(previous or names[path], metadata.get(path))._asdict())
        if previous is None or not (is_same or _has_content_of(previous, item, base)):
            embed.append(item)
        elif verify and previous.error:
            embed.append(item)
            retried += 1
        else:
            item = item._replace(digest=previous.digest, stamp=stamp if previous.digest else 0, error=previous.error)
            if item != previous:
                updated.append(item)
    return _Changes(embed, updated, retried)


def _removed_paths(
    known: Mapping[str, object], states: Mapping[str, object], unreadable: Mapping[str, object], base: Path
) -> list[str]:
    """Those of the `known` paths that have no file any more; files below `unreadable` folders may still be there."""
    below = tuple(f"{path}/" for path in unreadable)
    missing = [path for path in known if path not in states and path not in unreadable and not path.startswith(below)]
    # Another process may have added a file after the scan.
    return [path for path in missing if not os.path.isfile(base / path)]  # noqa: PTH113 - Path.is_file may raise


def _embed(
    items: list[GalleryItem], states: Mapping[str, FileState], index: Index, base: Path, embedder: Embedder
) -> None:
    with progress_counter("indexing") as progress:
        for start in range(0, len(items), FILES_PER_COMMIT):
            progress(start, len(items))
            _embed_batch(items[start : start + FILES_PER_COMMIT], states, index, base, embedder)
        progress(len(items), max(1, len(items)))


def _embed_batch(
    items: list[GalleryItem], states: Mapping[str, FileState], index: Index, base: Path, embedder: Embedder
) -> None:
    paths = [base / item.path for item in items]
    digests = [file_digest(path) for path in paths]
    vectors, errors = embedder.embed_files(paths, None)
    embedded = []
    for item, path, digest, error in zip(items, paths, digests, errors, strict=True):
        # A file that changed while it was read may have been another one in between: the next update embeds it again.
        # The same holds for a file that could not be read.
        is_steady = digest and file_state(path)[:2] == states[item.path][:2]
        embedded.append(
            item._replace(
                stamp=item.stamp if is_steady else 0,
                digest=digest if is_steady else b"",
                error=str(error or "").removeprefix(f"{path}: "),
            )
        )
    index.add(embedded, vectors)


def _has_content_of(previous: GalleryItem, item: GalleryItem, base: Path) -> bool:
    if item.size != previous.size:
        return False
    digest = file_digest(base / item.path)
    return digest == previous.digest and bool(digest or previous.error)


def _parse_new_names(states: Mapping[str, object], known: Mapping[str, object], part: Part) -> _Names:
    """Identity, camera and time by path, if any path is new: each name is read in view of all the others."""
    if states.keys() <= known.keys():
        return _Names({})
    # The names of folders above an added folder mean nothing.
    parsed = parse_names([path.removeprefix(part.prefix) if is_outside(path) else path for path in states])
    contradictory = [path for path, is_one in zip(states, parsed.contradictory, strict=True) if is_one]
    infos = dict(zip(states, parsed.infos, strict=True))
    return _Names(infos, parsed.contradiction_reason, frozenset(contradictory))


def _merge(source: CropMetadata | GalleryItem, from_table: CropMetadata | None) -> CropMetadata:
    """The metadata of `source`, a name or an older item; each value in `from_table` replaces its own."""
    merged = CropMetadata(source.identity, source.camera, source.time)
    given = {} if from_table is None else from_table._asdict()
    return merged._replace(**{name: value for name, value in given.items() if value is not None})


def _check_metadata(metadata: Mapping[str, CropMetadata], files: Mapping[str, object], folder: Path) -> None:
    unknown = [path for path in metadata if path not in files]
    if metadata and len(unknown) == len(metadata):
        raise InputError(f"{folder}: the metadata are about none of its files; their first path is {unknown[0]}")
    if unknown:
        logger.warning(f"metadata about {len(unknown)} files that are not below {folder}, such as {unknown[0]}")


def _unusable(folder: Path, number: int) -> InputError:
    ends = ", ".join(sorted(images.SUFFIXES))
    return InputError(f"{folder}: {number} image files, none usable; crops end in {ends}")
