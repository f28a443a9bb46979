"""The result of every reader: crops with identity and camera, in three splits."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bot_deploy.choices import MERGE_SEPARATOR
from bot_deploy.errors import InputError
from bot_deploy.images import SUFFIXES

from .names import SPLITS

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Callable, Sequence
    from pathlib import Path

JUNK = -1  # identity of crops that rankings ignore
DISTRACTOR = 0  # identity of people without a query; always a wrong match
FIRST_UNKNOWN_CAMERA = 1_000_000  # crops of unknown cameras are numbered from here

LAYOUTS_HELP = """expected one of
  Market-1501, DukeMTMC-reID, CUHK03-NP:           a folder for each identity:
    bounding_box_train/0002_c1s1_000451_03.jpg       alice/c1_001.jpg
    query/0001_c1s1_001051_00.jpg                    alice/c2_007.jpg
    bounding_box_test/0001_c2s1_000301_00.jpg        bob/c1_003.jpg
  MSMT17:                                            (or train/alice/..., query/alice/..., gallery/alice/...)
    list_train.txt, list_query.txt,                a table crops.csv:
    list_gallery.txt beside train/ and test/         path,identity,camera,split
  VIPeR:                                             shop/0001.jpg,alice,1,train
    cam_a/000_45.bmp, cam_b/000_0.bmp
a folder or a .zip of it, or the table itself; or the word `synthetic`"""


def layout_error(problem: str, *reasons: str) -> InputError:
    """An error that lists the layouts that can be read below `problem` and `reasons`, each line by itself."""
    expected, *layouts = LAYOUTS_HELP.split("\n")
    if reasons:
        return InputError(problem, details=[*reasons, expected, *layouts])
    return InputError(f"{problem}; {expected}", details=layouts)


class LayoutMismatch(Exception):  # noqa: N818 - not an error: the next layout is tried
    """The files do not have the layout of a reader; the message is the reason."""


class File(NamedTuple):
    """A file of a data set: the names of its folders below the root and its own name, and where to read it."""

    parts: tuple[str, ...]
    path: Path | zipfile.Path

    def __str__(self) -> str:
        return "/".join(self.parts)


def image_files(files: Sequence[File]) -> list[File]:
    """The images among `files`, by the ends of their names."""
    return [file for file in files if os.path.splitext(file.parts[-1])[1].lower() in SUFFIXES]  # noqa: PTH122 - faster


@dataclass(frozen=True)
class Crop:
    """One image of one person."""

    path: Path | zipfile.Path
    identity: int  # a number, for scores; in galleries and matches an identity is a name
    camera: int
    has_known_camera: bool = True  # if not, `camera` is a number of this crop alone
    identity_name: str = ""  # the identity as folders, file names or tables write it

    @property
    def known_camera(self) -> int | None:
        """The camera ID, or None."""
        return self.camera if self.has_known_camera else None


@dataclass(frozen=True)
class Dataset:
    """The three splits of a ReID benchmark; a missing split is empty."""

    sources: tuple[str, ...]  # what `open_dataset` takes; several in a merged set
    train: tuple[Crop, ...]
    query: tuple[Crop, ...]
    gallery: tuple[Crop, ...]

    @property
    def name(self) -> str:
        """The sources in one line, for people to read."""
        return MERGE_SEPARATOR.join(self.sources)

    def require_splits(self, *splits: str) -> None:
        """Raises InputError when one of `splits` has no crops."""
        for split in splits:
            if not getattr(self, split):
                raise layout_error(f"{self.name}: no {split} crops found")


def crops_fingerprint(crops: Sequence[Crop]) -> str:
    """16 hex digits over names, identities and cameras, in their order."""
    names = "\n".join(f"{crop.path.name} {crop.identity} {crop.camera}" for crop in crops)
    return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()[:16]


def build_crop(path: Path | zipfile.Path, identity: int, camera: int | None, index: int, name: str) -> Crop:
    """A crop; an unknown camera (None) gets a number from `index`, which no other crop of the set has.

    With a camera of its own, no true match of the crop is dropped as "same camera".
    """
    if camera is None:
        return Crop(path, identity, FIRST_UNKNOWN_CAMERA + index, has_known_camera=False, identity_name=name)
    return Crop(path, identity, camera, identity_name=name)


def empty_splits() -> dict[str, list[Crop]]:
    """The three splits, for a reader to fill."""
    return {split: [] for split in SPLITS}


def divide_test_crops(crops: Sequence[Crop], splits: dict[str, list[Crop]]) -> None:
    """Adds the first of `crops` of each identity and camera to the queries, and the others to the gallery."""
    queried: set[tuple[int, int | None]] = set()
    for crop in crops:
        key = (crop.identity, crop.camera if crop.has_known_camera else None)
        splits["gallery" if key in queried or crop.identity <= DISTRACTOR else "query"].append(crop)
        queried.add(key)


def build_dataset(source: str, splits: dict[str, list[Crop]]) -> Dataset:
    """A data set of `splits`, without junk and without distractors to train on, as the protocol has it."""
    train = tuple(crop for crop in splits["train"] if crop.identity > DISTRACTOR)
    gallery = tuple(crop for crop in splits["gallery"] if crop.identity != JUNK)
    return Dataset((source,), train, tuple(splits["query"]), gallery)


def merge(datasets: Sequence[Dataset]) -> Dataset:
    """All of `datasets` as one; identities and cameras of different sets never coincide."""
    if len(datasets) == 1:
        return datasets[0]
    merged = empty_splits()
    identities, cameras = 0, 0
    for dataset in datasets:
        crops = [*dataset.train, *dataset.query, *dataset.gallery]
        for split in SPLITS:
            merged[split] += [_with_offsets(crop, identities, cameras) for crop in getattr(dataset, split)]
        identities += max((crop.identity for crop in crops), default=0)
        cameras += 1 + max((crop.camera for crop in crops), default=0)
    sources = tuple(source for dataset in datasets for source in dataset.sources)
    return Dataset(sources, *(tuple(merged[split]) for split in SPLITS))


def _with_offsets(crop: Crop, identities: int, cameras: int) -> Crop:
    # Distractors stay distractors.
    identity = crop.identity + identities if crop.identity > DISTRACTOR else crop.identity
    return dataclasses.replace(crop, identity=identity, camera=crop.camera + cameras)


def number_identities(names: Sequence[str]) -> Callable[[str], int]:
    """A function from name to identity: 1, 2, ... in the sorted order of `names`."""
    numbers = {name: number for number, name in enumerate(sorted(set(names)), start=1)}
    return numbers.__getitem__
