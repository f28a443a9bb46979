"""Market-1501 and all that share its folders: DukeMTMC-reID, CUHK03-NP, the synthetic people."""

from __future__ import annotations

import re

from bot_deploy.errors import InputError

from .crops import PARTS, Crop, Dataset, File, dataset

FOLDERS = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}
NAME = re.compile(r"(-?\d+)_c(\d+)")


def read(name: str, files: list[File]) -> Dataset | None:
    """None when no file is where Market-1501 has its own."""
    parts: dict[str, list[Crop]] = {part: [] for part in PARTS}
    tops: set[str] = set()
    for names, path in files:
        part = FOLDERS.get(names[-2]) if len(names) > 1 else None
        parsed = NAME.match(names[-1])
        if part and parsed:
            parts[part].append(Crop(path, int(parsed[1]), int(parsed[2])))
            tops.add("/".join(names[:-2]))
    if not parts["train"] and not parts["gallery"]:
        return None
    if len(tops) > 1:  # CUHK03-NP comes as detected/ and labeled/, the same people twice
        raise InputError(f"{name}: holds {len(tops)} data sets ({', '.join(sorted(tops))}); name one of these folders")
    return dataset(name, parts)


def identity_in(name: str) -> int | None:
    """The identity in a file name such as 0001_c1s1_001051_00.jpg; None in any other."""
    found = NAME.match(name)
    return int(found[1]) if found else None
