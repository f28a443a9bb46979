"""Market-1501 and all that share its folders: DukeMTMC-reID, CUHK03-NP, the synthetic people."""

from __future__ import annotations

import re

from bot_deploy.errors import InputError

from .dataset import SPLITS, Crop, Dataset, File, build_dataset

FOLDERS = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}
NAME = re.compile(r"(-1|\d{1,9})_c(\d{1,5})(?!\d)")  # longer numbers are dates and times


def read(name: str, files: list[File]) -> Dataset | None:
    """None when no file is where Market-1501 has its own."""
    splits: dict[str, list[Crop]] = {split: [] for split in SPLITS}
    tops: set[str] = set()
    folders: set[str] = set()
    nameless: list[str] = []
    for names, path in files:
        if len(names) < 2 or names[-2] not in FOLDERS:  # noqa: PLR2004 - folder/file
            continue
        folders.add(names[-2])
        parsed = NAME.match(names[-1])
        if parsed:
            splits[FOLDERS[names[-2]]].append(Crop(path, int(parsed[1]), int(parsed[2])))
            tops.add("/".join(names[:-2]))
        else:
            nameless.append("/".join(names))
    if folders <= {"query"}:  # which others have, too
        return None
    if nameless:
        raise InputError(
            f"{name}: {len(nameless)} pictures such as {nameless[0]} do not say who they show; "
            "a name begins with identity and camera, such as 0002_c1; rename or remove them"
        )
    if len(tops) > 1:  # CUHK03-NP comes as detected/ and labeled/, the same people twice
        raise InputError(f"{name}: holds {len(tops)} data sets ({', '.join(sorted(tops))}); name one of these folders")
    return build_dataset(name, splits)


def identity_in(name: str) -> int | None:
    """The identity in a file name such as 0001_c1s1_001051_00.jpg; None in any other."""
    found = NAME.match(name)
    return int(found[1]) if found else None
