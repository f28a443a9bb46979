"""Crops on disk or in a zip to train, query and gallery splits: who is on which picture, from which camera.

Only names are read here; pixels come later, through images.py.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from bot_deploy import images, synthetic
from bot_deploy.errors import InputError

JUNK = -1  # identity of crops that count neither as right nor as wrong
DISTRACTOR = 0  # identity of crops that are never right
SYNTHETIC = "synthetic"

MARKET_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
IDENTITY_FOLDERS = ("train", "query", "gallery")
_MARKET_NAME = re.compile(r"(-?\d+)_c(\d+)")
_CAMERA = re.compile(r"(?:^|[_-])c(?:am)?(\d+)")
_UNKNOWN_CAMERAS = 1_000_000  # numbers from here on stand for "not in the file's name"
_HELD_OUT = 5  # every fifth identity is for evaluation where the folders do not say which

EXPECTED = """expected one of
  Market-1501, a folder or a .zip:          a folder for each identity:
    bounding_box_train/0002_c1s1_000451_03.jpg   alice/c1_001.jpg
    query/0001_c1s1_001051_00.jpg                alice/c2_007.jpg
    bounding_box_test/0001_c2s1_000301_00.jpg    bob/c1_003.jpg
                                             (or train/alice/..., query/alice/..., gallery/alice/...)
or the word `synthetic`"""


@dataclass(frozen=True)
class Crop:
    """One picture of one person."""

    path: Path | zipfile.Path
    identity: int
    camera: int


@dataclass(frozen=True)
class Dataset:
    """The three parts of a ReID benchmark; a part that is not there is empty."""

    name: str
    train: tuple[Crop, ...]
    query: tuple[Crop, ...]
    gallery: tuple[Crop, ...]

    def need(self, *parts: str) -> None:
        """Raises InputError when one of `parts` has no crops."""
        for part in parts:
            if not getattr(self, part):
                raise InputError(f"{self.name}: no {part} crops found; {EXPECTED}")


def open_dataset(source: str | Path) -> Dataset:
    """The data set at `source`: a folder, a .zip, or the word `synthetic` for the built-in one.

    Raises:
        InputError: nothing there, or none of the known layouts; the message shows them.
    """
    name = str(source)
    root = synthetic.cached() if name == SYNTHETIC else Path(source)
    if not root.exists():
        raise InputError(f"{root}: no such folder or file; {EXPECTED}")
    files = _files(root)
    dataset = _market(name, files) or _folder_per_identity(name, files)
    if dataset is None:
        raise InputError(f"{root}: {len(files)} images, but no known layout; {EXPECTED}")
    return dataset


def identity_in(name: str) -> int | None:
    """The identity in a Market-1501 file name such as 0001_c1s1_001051_00.jpg; None in any other."""
    found = _MARKET_NAME.match(name)
    return int(found[1]) if found else None


# A file as its folders' and its own names below the root, and where to read it.
_File = tuple[tuple[str, ...], Path | zipfile.Path]


def _files(root: Path) -> list[_File]:
    if root.is_dir():
        return [(path.relative_to(root).parts, path) for path in images.find(root)]
    try:
        archive = zipfile.ZipFile(root)
    except (OSError, zipfile.BadZipFile):
        raise InputError(f"{root}: neither a folder nor a readable .zip; {EXPECTED}") from None
    # Shared by every zipfile.Path below, so the directory of the archive is read once.
    top = zipfile.Path(archive)
    found = sorted(tuple(name.split("/")) for name in archive.namelist() if not name.endswith("/"))
    return [
        (names, top.joinpath("/".join(names)))
        for names in found
        if Path(names[-1]).suffix.lower() in images.SUFFIXES and not any(name.startswith(".") for name in names)
    ]


def _market(name: str, files: list[_File]) -> Dataset | None:
    parts: dict[str, list[Crop]] = {part: [] for part in MARKET_FOLDERS}
    part_of = {folder: part for part, folder in MARKET_FOLDERS.items()}
    for names, path in files:
        part = part_of.get(names[-2]) if len(names) > 1 else None
        parsed = _MARKET_NAME.match(names[-1])
        if part and parsed:
            parts[part].append(Crop(path, int(parsed[1]), int(parsed[2])))
    if not parts["train"] and not parts["gallery"]:
        return None
    # The protocol: junk is dropped from the gallery, and neither junk nor distractors teach anything.
    train = tuple(crop for crop in parts["train"] if crop.identity > DISTRACTOR)
    gallery = tuple(crop for crop in parts["gallery"] if crop.identity != JUNK)
    return Dataset(name, train, tuple(parts["query"]), gallery)


def _folder_per_identity(name: str, files: list[_File]) -> Dataset | None:
    files = [(names, path) for names, path in files if len(names) > 1]
    people = {person: number for number, person in enumerate(sorted({names[-2] for names, _ in files}), start=1)}
    parts: dict[str, list[Crop]] = {part: [] for part in IDENTITY_FOLDERS}
    asked: set[tuple[int, str | None]] = set()
    for number, (names, path) in enumerate(files):
        identity, found = people[names[-2]], _CAMERA.search(names[-1])
        # An unknown camera is a camera of its own, so that no true match is dropped as "same camera".
        crop = Crop(path, identity, int(found[1]) if found else _UNKNOWN_CAMERAS + number)
        part = next((name for name in names[:-2] if name in IDENTITY_FOLDERS), None)  # part/identity/file
        if part:
            parts[part].append(crop)
        elif identity % _HELD_OUT:
            parts["train"].append(crop)
        else:
            seen = (identity, found[1] if found else None)
            parts["gallery" if seen in asked else "query"].append(crop)
            asked.add(seen)
    if not people:
        return None
    return Dataset(name, **{part: tuple(crops) for part, crops in parts.items()})
