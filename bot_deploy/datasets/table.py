"""A table of crops: path and identity, and optionally camera and split.

`read_csv` also reads the metadata of galleries.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bot_deploy.errors import InputError
from bot_deploy.files import read_bounded

from .dataset import (
    Crop,
    Dataset,
    LayoutMismatch,
    build_crop,
    build_dataset,
    divide_test_crops,
    empty_splits,
    number_identities,
)
from .names import SPLITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .dataset import File

IDENTITY_NUMBER_PATTERN = re.compile(r"-1|\d{1,9}")
CAMERA_COLUMN = re.compile(r"\d{1,5}")  # longer numbers are dates and times
DELIMITERS = ",;\t"
MAX_TABLE_BYTES = 1 << 30
TABLE_SPLITS = (*SPLITS, "test")  # of "test", the first crop of each identity and camera is a query


class Row(NamedTuple):
    """A row of a table: the line that it ends on, and its values by column."""

    line: int
    values: dict[str, str]


def read(source: str, files: Sequence[File]) -> Dataset:
    """The data set in the only file, a .csv; see `datasets.READERS`.

    Its paths are below its own folder. A camera is a number; a split is train, query, gallery or test.

    Raises:
        InputError: a column is missing, a row has a wrong value, a file does not exist, or one file has two identities;
            the message names the line.
    """
    path = files[0].path if len(files) == 1 else None
    if not isinstance(path, Path) or path.suffix.lower() != ".csv":
        raise LayoutMismatch("not a .csv file")
    rows = read_csv(path)
    _check_columns(path, rows)
    people = [row.values["identity"] for row in rows]
    # Numbers are Market-1501's: -1 is junk, 0 a distractor.
    number_of = (
        int if all(IDENTITY_NUMBER_PATTERN.fullmatch(person) for person in people) else number_identities(people)
    )
    splits = empty_splits()
    test_crops: list[Crop] = []
    first_row_of: dict[str, Row] = {}  # by path
    for row in rows:
        _check_row(path, row)
        values = row.values
        first = first_row_of.setdefault(values["path"], row)
        if first.values["identity"] != values["identity"]:
            raise InputError(
                f"{path}, line {row.line}: {values['path']} is {values['identity']} here and "
                f"{first.values['identity']} in line {first.line}"
            )
        camera = parse_camera_number(values.get("camera", ""))
        crop_path = path.parent / values["path"]
        crop = build_crop(crop_path, number_of(values["identity"]), camera, row.line, values["identity"])
        split = values.get("split", "").lower() or "train"
        (test_crops if split == "test" else splits[split]).append(crop)
    divide_test_crops(test_crops, splits)
    return build_dataset(source, splits)


def _check_row(path: Path, row: Row) -> None:
    """Raises InputError for the first wrong value of a row."""
    problem = ""
    values = row.values
    camera, split = values.get("camera", ""), values.get("split", "")
    if not values["path"] or not values["identity"]:
        problem = f"no {'identity' if values['path'] else 'path'}; give path and identity"
    elif camera and not CAMERA_COLUMN.fullmatch(camera):
        problem = f"camera {camera!r}; give a number of up to five digits, or nothing"
    elif (split.lower() or "train") not in TABLE_SPLITS:
        problem = f"split {split!r}; give one of {', '.join(TABLE_SPLITS)}, or nothing for train"
    elif not (path.parent / values["path"]).is_file():
        problem = f"no file {values['path']} below {path.parent}; paths are relative to the folder of the table"
    if problem:
        raise InputError(f"{path}, line {row.line}: {problem}")


def _check_columns(path: Path, rows: Sequence[Row]) -> None:
    """Raises InputError if the table has no rows, or no path or identity."""
    needs = "it needs the columns path and identity, and may have camera and split"
    if not rows:
        raise InputError(f"{path}: has no rows; {needs}")
    if not {"path", "identity"} <= rows[0].values.keys():
        columns = ", ".join(filter(None, rows[0].values))
        raise InputError(f"{path}, line 1: has the columns {columns}; {needs}")


def read_csv(path: Path) -> list[Row]:
    """The rows of the .csv at `path`, by the names in its first line in small letters; a missing value is "".

    Values are separated by commas, semicolons or tabs, whichever the first line has most of. Spaces around a value are
    dropped, and a path may be written with backslashes. The file is UTF-8, or UTF-16 with a byte-order mark.

    Raises:
        InputError: it cannot be read, a line has more values than the first, or a value has a line break.
    """
    try:
        data = read_bounded(path, MAX_TABLE_BYTES)
        is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
        header = text.partition("\n")[0]
        delimiter = max(DELIMITERS, key=header.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        columns: list[str] = []
        rows: list[Row] = []
        for values in reader:
            stripped = [value.strip() for value in values]
            if not any(stripped):
                continue
            if any("\n" in value or "\r" in value for value in stripped):
                raise InputError(f"{path}, line {reader.line_num}: a value with a line break; close its double quotes")
            if not columns:
                columns = [value.lower() for value in stripped]
                continue
            if any(stripped[len(columns) :]):
                raise InputError(
                    f"{path}, line {reader.line_num}: {len(stripped)} values in {len(columns)} columns; put a value "
                    f"that holds {delimiter!r} into double quotes"
                )
            row = dict.fromkeys(columns, "") | dict(zip(columns, stripped, strict=False))
            if "path" in row:
                row["path"] = row["path"].replace("\\", "/").removeprefix("./")
            rows.append(Row(reader.line_num, row))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable table in UTF-8 ({error})") from None
    if not rows and columns:
        raise InputError(f"{path}: only a first line with the columns {', '.join(columns)}, and no rows")
    return rows


def parse_camera_number(text: str) -> int | None:
    """A camera column: a number of up to five digits, or None where it is empty.

    Raises:
        ValueError: neither.
    """
    text = text.strip()
    if text and not CAMERA_COLUMN.fullmatch(text):
        raise ValueError(text)
    return int(text) if text else None
