"""A table of crops: path, identity, and where known camera and split."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING

from bot_deploy.errors import InputError

from .dataset import SPLITS, UNKNOWN_CAMERAS, Crop, Dataset, build_dataset, number_identities

if TYPE_CHECKING:
    from pathlib import Path


NUMBER = re.compile(r"-1|\d{1,9}")
CAMERA = re.compile(r"\d{0,5}")


def read(path: Path) -> Dataset:
    """The .csv at `path`; its paths are below its own folder. Camera is a number; split is train, query or gallery.

    Raises:
        InputError: a column is missing, or a row does not say what it should; the message names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable table ({error})") from None
    if not rows or not {"path", "identity"} <= set(rows[0]):
        raise InputError(f"{path}: needs the columns path and identity, and may have camera and split")
    people = [row["identity"] or "" for row in rows]
    # Numbers are Market-1501's: -1 is junk, 0 a distractor.
    number_of = int if all(NUMBER.fullmatch(person) for person in people) else number_identities(people)
    splits: dict[str, list[Crop]] = {split: [] for split in SPLITS}
    for line, row in enumerate(rows, start=2):
        split, camera = (row.get("split") or "train").strip(), (row.get("camera") or "").strip()
        if split not in SPLITS or not row["path"] or not row["identity"] or not CAMERA.fullmatch(camera):
            raise InputError(
                f"{path}, line {line}: give path, identity, a camera number or nothing, and one of {', '.join(SPLITS)}"
            )
        seen_by = int(camera) if camera else UNKNOWN_CAMERAS + line
        splits[split].append(Crop(path.parent / row["path"], number_of(row["identity"]), seen_by))
    return build_dataset(str(path), splits)
