"""A folder for each identity, with or without train/, query/ and gallery/ above."""

from __future__ import annotations

import re

from .crops import PARTS, UNKNOWN_CAMERAS, Crop, Dataset, File, dataset, numbered

CAMERA = re.compile(r"(?:^|[_-])c(?:am)?(\d+)")
HELD_OUT = 5  # every fifth identity is for evaluation where no folder says which


def read(name: str, files: list[File]) -> Dataset | None:
    """None when no file lies in a folder."""
    files = [(names, path) for names, path in files if len(names) > 1]
    if not files:
        return None
    number_of = numbered([names[-2] for names, _ in files])
    parts: dict[str, list[Crop]] = {part: [] for part in PARTS}
    asked: set[tuple[int, str | None]] = set()
    for row, (names, path) in enumerate(files):
        identity, found = number_of(names[-2]), CAMERA.search(names[-1])
        # An unknown camera is a camera of its own, so that no true match is dropped as "same camera".
        crop = Crop(path, identity, int(found[1]) if found else UNKNOWN_CAMERAS + row)
        part = next((folder for folder in names[:-2] if folder in PARTS), None)  # part/identity/file
        if part:
            parts[part].append(crop)
        elif identity % HELD_OUT:
            parts["train"].append(crop)
        else:
            seen = (identity, found[1] if found else None)
            parts["gallery" if seen in asked else "query"].append(crop)
            asked.add(seen)
    return dataset(name, parts)
