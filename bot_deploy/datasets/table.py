"""A table of crops: path, identity, and where known camera and split. Also the only reader of CSV files."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy.errors import InputError

from .dataset import Dataset, LayoutMismatch, build_crop, build_dataset, empty_splits, number_identities
from .names import SPLITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .dataset import File

NUMBER = re.compile(r"-1|\d{1,9}")
CAMERA = re.compile(r"\d{1,5}")  # longer numbers are dates and times


def read(source: str, files: Sequence[File]) -> Dataset:
    """The data set in the only file, a .csv; see `datasets.READERS`.

    Its paths are below its own folder. A camera is a number; a split is train, query or gallery.

    Raises:
        InputError: a column is missing, or a row has a wrong value; the message names the line.
    """
    path = files[0].path if len(files) == 1 else None
    if not isinstance(path, Path) or path.suffix.lower() != ".csv":
        raise LayoutMismatch("not a .csv file")
    rows = read_csv(path)
    if not rows or not {"path", "identity"} <= set(rows[0]):
        raise InputError(f"{path}: needs the columns path and identity, and may have camera and split")
    people = [row["identity"] for row in rows]
    # Numbers are Market-1501's: -1 is junk, 0 a distractor.
    number_of = int if all(NUMBER.fullmatch(person) for person in people) else number_identities(people)
    splits = empty_splits()
    for line, row in enumerate(rows, start=2):
        split = (row.get("split") or "train").strip()
        try:
            camera = parse_camera_number(row.get("camera", ""))
            if split not in SPLITS or not row["path"] or not row["identity"]:
                raise ValueError  # noqa: TRY301
        except ValueError:
            raise InputError(
                f"{path}, line {line}: give path, identity, a camera number or nothing, and one of {', '.join(SPLITS)}"
            ) from None
        splits[split].append(build_crop(path.parent / row["path"], number_of(row["identity"]), camera, line))
    return build_dataset(source, splits)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of the .csv at `path`, by the names in its first line; a missing value is "".

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable table ({error})") from None
    return rows


def parse_camera_number(text: str) -> int | None:
    """A camera column: a number of up to five digits, or None where it is empty.

    Raises:
        ValueError: neither.
    """
    text = text.strip()
    if text and not CAMERA.fullmatch(text):
        raise ValueError(text)
    return int(text) if text else None
