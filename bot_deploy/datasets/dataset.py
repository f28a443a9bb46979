"""What every reader returns: crops with identity and camera, in three splits."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bot_deploy.errors import InputError

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Callable, Sequence
    from pathlib import Path

JUNK = -1  # identity of crops that count neither as right nor as wrong
DISTRACTOR = 0  # identity of crops that are never right
UNKNOWN_CAMERAS = 1_000_000  # numbers from here on stand for "nobody says": a camera of its own for each crop
MERGE_SEPARATOR = " + "  # between the names of merged sets
SPLITS = ("train", "query", "gallery")

EXPECTED = """expected one of
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


@dataclass(frozen=True)
class Crop:
    """One picture of one person."""

    path: Path | zipfile.Path
    identity: int
    camera: int


# A file as its folders' and its own names below the root, and where to read it.
File = tuple[tuple[str, ...], "Path | zipfile.Path"]


@dataclass(frozen=True)
class Dataset:
    """The three splits of a ReID benchmark; a split that is not there is empty."""

    name: str
    train: tuple[Crop, ...]
    query: tuple[Crop, ...]
    gallery: tuple[Crop, ...]

    def require_splits(self, *splits: str) -> None:
        """Raises InputError when one of `splits` has no crops."""
        for split in splits:
            if not getattr(self, split):
                raise InputError(f"{self.name}: no {split} crops found; {EXPECTED}")


def crops_fingerprint(crops: Sequence[Crop]) -> str:
    """16 hex digits over names, identities and cameras, in their order."""
    names = "\n".join(f"{crop.path.name} {crop.identity} {crop.camera}" for crop in crops)
    return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()[:16]


def build_dataset(name: str, splits: dict[str, list[Crop]]) -> Dataset:
    """A Dataset of lists; by the protocol junk is dropped, and distractors teach nothing."""
    train = tuple(crop for crop in splits["train"] if crop.identity > DISTRACTOR)
    gallery = tuple(crop for crop in splits["gallery"] if crop.identity != JUNK)
    return Dataset(name, train, tuple(splits["query"]), gallery)


def merge(sets: Sequence[Dataset]) -> Dataset:
    """All of `sets` as one: identities and cameras of different sets never coincide."""
    if len(sets) == 1:
        return sets[0]
    merged: dict[str, list[Crop]] = {split: [] for split in SPLITS}
    identities, cameras = 0, 0
    for one in sets:
        everyone = [*one.train, *one.query, *one.gallery]
        for split in SPLITS:
            merged[split] += [_shifted(crop, identities, cameras) for crop in getattr(one, split)]
        identities += max((crop.identity for crop in everyone), default=0)
        cameras += 1 + max((crop.camera for crop in everyone), default=0)
    return Dataset(MERGE_SEPARATOR.join(one.name for one in sets), *(tuple(merged[split]) for split in SPLITS))


def _shifted(crop: Crop, identities: int, cameras: int) -> Crop:
    # Distractors stay distractors.
    identity = crop.identity + identities if crop.identity > DISTRACTOR else crop.identity
    return dataclasses.replace(crop, identity=identity, camera=crop.camera + cameras)


def number_identities(names: Sequence[str]) -> Callable[[str], int]:
    """Identities from 1 for names, in the order of the names."""
    numbers = {name: number for number, name in enumerate(sorted(set(names)), start=1)}
    return numbers.__getitem__
