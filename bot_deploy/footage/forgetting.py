"""Removes a person from a gallery, with all that is kept of them."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bot_deploy.errors import InputError, RunError
from bot_deploy.gallery import LocalIndex

from .lookup import Footage
from .records import footage_folder, only_writer, read_records, write_record

if TYPE_CHECKING:
    from bot_deploy.gallery import MilvusIndex

MILVUS_CROPS = "people"  # folder for the pictures of people who are enrolled in a Milvus gallery
# What `demos.enrolment.crop_stem` gives a picture: date and time in UTC to the microsecond, and its camera.
ENROLLED_NAME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-\d{6}(_c\d+)?(_\d+)?\.png")


@dataclass(frozen=True)
class Forgotten:
    """What was removed, and what was not."""

    crops: int  # from the index
    appearances: int
    left_files: tuple[Path, ...]  # pictures outside the gallery's folder: the user's own


def forget_person(index: LocalIndex | MilvusIndex, name: str) -> Forgotten:
    """Removes the person `name`: vectors, names, pictures in the gallery's folder, and times in view.

    The index comes last: a run that was killed is simply started again.

    Raises:
        InputError: nobody has this name.
        RunError: a file cannot be removed.
    """
    folder = footage_folder(index.address)
    # A run that reads videos meanwhile would write the appearances again.
    with only_writer(folder) if folder.is_dir() else contextlib.nullcontext():
        return _forget(index, name, folder)


def _forget(index: LocalIndex | MilvusIndex, name: str, folder: Path) -> Forgotten:
    items = [item for item in index.items() if item.identity == name]
    if not items:
        raise InputError(f"{index.address}: nobody is called {name}")
    footage = Footage(index)
    appearances = {found.short_key for item in items if (found := footage.find(item.path))}
    left = []
    for item in items:
        path = index.root / item.path
        if _is_ours(path, index, folder):
            _remove(path)
        elif path.exists():
            left.append(path)
    for video, record in list(read_records(folder)):
        kept = tuple(one for one in record.appearances if f"{video.name}/{one.number:04d}" not in appearances)
        if len(kept) < len(record.appearances):
            write_record(video, msgspec.structs.replace(record, appearances=kept))
    index.remove([item.path for item in items])
    if isinstance(index, LocalIndex):
        index.purge()
    return Forgotten(len(items), len(appearances), tuple(left))


def _is_ours(path: Path, index: LocalIndex | MilvusIndex, footage: Path) -> bool:
    """Whether the picture at `path` was written by us: it lies in the folder of the index, or of its footage.

    Of a Milvus index, it may also be a picture with a name of ours in the folder for those who are enrolled.
    """
    folders = [footage, Path(index.address)] if isinstance(index, LocalIndex) else [footage]
    if any(path.resolve().is_relative_to(folder.resolve()) for folder in folders):
        return True
    is_enrolled = index.root.name == MILVUS_CROPS and ENROLLED_NAME.fullmatch(path.name) is not None
    return is_enrolled and not isinstance(index, LocalIndex)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be removed ({error.strerror or error})") from None
    with contextlib.suppress(OSError):  # not empty yet
        path.parent.rmdir()
