"""A folder for each identity, with or without train/, query/ and gallery/ above."""

from __future__ import annotations

import re

from bot_deploy.errors import InputError

from .dataset import SPLITS, UNKNOWN_CAMERAS, Crop, Dataset, File, build_dataset, number_identities

CAMERA = re.compile(r"(?:^|[_-])c(?:am(?:era)?)?_?(\d{1,5})(?!\d)", re.IGNORECASE)
ONLY_CAMERA = re.compile(r"c(?:am(?:era)?)?_?\d{1,5}", re.IGNORECASE)
HELD_OUT = 5  # every fifth identity is for evaluation where no folder says which


def read(name: str, files: list[File]) -> Dataset | None:
    """None when no file lies in a folder."""
    files = [(names, path) for names, path in files if len(names) > 1]
    if not files:
        return None
    stray = next(("/".join(names) for names, _ in files if not set(SPLITS) & set(names[:-2])), None)
    if stray and any(set(SPLITS) & set(names[:-2]) for names, _ in files):
        raise InputError(f"{name}: {stray} is not below {'/, '.join(SPLITS)}/ as the others are; move or remove it")
    if all(len(names) > 2 and ONLY_CAMERA.fullmatch(names[-2]) for names, _ in files):  # noqa: PLR2004
        # identity/camera/file is identity/camera_file
        files = [((*names[:-2], f"{names[-2]}_{names[-1]}"), path) for names, path in files]
    number_of = number_identities([names[-2] for names, _ in files])
    splits: dict[str, list[Crop]] = {split: [] for split in SPLITS}
    asked: set[tuple[int, str | None]] = set()
    for row, (names, path) in enumerate(files):
        identity, found = number_of(names[-2]), CAMERA.search(names[-1])
        # An unknown camera is a camera of its own, so that no true match is dropped as "same camera".
        crop = Crop(path, identity, int(found[1]) if found else UNKNOWN_CAMERAS + row)
        split = next((folder for folder in names[:-2] if folder in SPLITS), None)  # split/identity/file
        if split:
            splits[split].append(crop)
        elif identity % HELD_OUT:
            splits["train"].append(crop)
        else:
            seen = (identity, found[1] if found else None)
            splits["gallery" if seen in asked else "query"].append(crop)
            asked.add(seen)
    return build_dataset(name, splits)
