"""The people of a gallery: who they are, and how one gets another name."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bot_deploy import gallery as galleries
from bot_deploy.demos.enrolment import check_name
from bot_deploy.errors import InputError, RunError
from bot_deploy.files import numbered_paths, write_atomically
from bot_deploy.footage.records import is_footage_crop
from bot_deploy.matching.identify import person_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bot_deploy.gallery import GalleryItem, Index


class UnknownPersonError(InputError):
    """The gallery has nobody of this name."""


class TakenNameError(InputError):
    """The gallery has somebody of this name already."""


@dataclass(frozen=True)
class Person:
    """A person of a gallery."""

    name: str
    images: int


def list_people(gallery: Index) -> list[Person]:
    """The people of `gallery` with the number of their images, by name."""
    names = Counter(name for item in gallery.items() if not item.error and (name := person_name(item)) is not None)
    return [Person(name, count) for name, count in sorted(names.items())]


def rename_person(gallery: Index, old: str, new: str) -> Person:
    """Gives the person `old` the name `new`: the crops move to its folder, and their vectors stay.

    A program that is killed meanwhile leaves the person under the old name, the new one, or both: do it again.

    Raises:
        UnknownPersonError, TakenNameError: nobody is called `old`; somebody is called `new`.
        InputError: `new` can be no name; or the names of the files say who it is.
        RunError: the crops or the gallery cannot be written.
    """
    items = [item for item in gallery.items() if item.identity == old]
    if not items:
        raise UnknownPersonError(f"{old}: the gallery has nobody of this name")
    check_name(new)
    if new == old:
        return Person(new, len(items))
    in_videos = [item for item in items if is_footage_crop(item.path)]  # their names are in the index alone
    in_folder = [item for item in items if not is_footage_crop(item.path)]
    if any(item.path.split("/")[0] != old for item in in_folder):
        raise InputError(f"{old}: the names of these files say who it is; rename the files and index them again")
    moves = {item.path: _new_path(gallery, item, new) for item in in_folder}
    # An earlier try that was killed has left the same crops under both names.
    if any(item.identity == new and item.path not in moves.values() for item in gallery.items()):
        raise TakenNameError(f"{new}: somebody has this name already")
    _move(gallery, in_folder, moves)
    gallery.update_metadata([item._replace(identity=new) for item in in_videos])
    return Person(new, len(items))


def _new_path(gallery: Index, item: GalleryItem, new: str) -> str:
    """The path of `item` in the folder `new`; no other file is there, only perhaps its copy of an earlier try."""
    source = gallery.root / item.path
    wanted = gallery.root / "/".join([new, *item.path.split("/")[1:]])
    with _convert_errors(source):
        digest = galleries.file_digest(source) if source.is_file() else item.digest
        for path in numbered_paths(wanted):
            if not path.exists() or path.samefile(source) or galleries.file_digest(path) == digest:
                return path.relative_to(gallery.root).as_posix()
    raise AssertionError  # the numbers do not end


def _move(gallery: Index, items: list[GalleryItem], moves: dict[str, str]) -> None:
    """Moves the files of `items` and their places in the index; each is at one of its two paths at any moment."""
    if not items:
        return
    vectors = gallery.vectors([item.path for item in items])
    moved = []
    stay = set()  # on a disk that does not tell "ada" from "Ada"
    for item in items:
        path, source = moves[item.path], gallery.root / item.path
        with _convert_errors(gallery.root / path):
            if (gallery.root / path).exists() and (gallery.root / path).samefile(source):
                stay.add(item.path)
            else:
                (gallery.root / path).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(gallery.root / path, partial(shutil.copyfile, source))
        metadata = galleries.parse_name(path)._replace(camera=item.camera)  # a name cannot hold every camera
        moved.append(item._replace(path=path, stamp=0, **metadata._asdict()))
    gallery.add(moved, vectors)
    gallery.remove(list(moves))
    for item in items:
        source = gallery.root / item.path
        if item.path in stay:
            continue
        with _convert_errors(source):
            source.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            source.parent.rmdir()


@contextlib.contextmanager
def _convert_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from None
