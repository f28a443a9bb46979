"""Identity, camera and time of a crop: from the names of its file and folders, or from a table."""

from __future__ import annotations

import csv
import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from bot_deploy.datasets.dataset import SPLITS
from bot_deploy.datasets.folders import CAMERA, ONLY_CAMERA
from bot_deploy.datasets.market import FOLDERS
from bot_deploy.datasets.market import NAME as MARKET
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

FRAME = re.compile(r"-?\d+_c\d+s\d+_(\d+)")  # the rest of a Market-1501 name: sequence and frame
DUKE = re.compile(r"\d+_c\d+_f\d+")  # DukeMTMC-reID's: camera and frame
DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)-?([01]\d)-?([0-3]\d)[T_ -]?([0-2]\d)[-:h]?([0-5]\d)[-:m]?([0-5]\d)(?!\d)")
DAY = re.compile(r"(?:19|20)\d\d-?[01]\d-?[0-3]\d")
NO_IDENTITY = {*SPLITS, *FOLDERS}


class CropInfo(NamedTuple):
    """Who was seen where and when, as far as known; see `rows.GalleryItem`."""

    identity: str | None = None
    camera: int | None = None
    time: float | None = None


def parse_name(path: str) -> CropInfo:
    """What `path`, its splits joined by "/", says.

    `0002_c1s1_000451_03.jpg` is Market-1501's: identity, camera, sequence, frame. Elsewhere the folder of a file is
    its identity, unless that is named like a camera, a day or a split of a data set; then a name such as `0002_c1.jpg`
    tells it. `c1` or `cam1` in a name is the camera, and 2026-01-31_12-00-00, with or without what separates the
    numbers, the time.
    """
    *folders, name = path.split("/")
    date = DATE.search(name)
    time = _of_date(date) if date else None
    market, frame = MARKET.match(name), FRAME.match(name)
    if frame and time is None:
        time = float(frame[1])
    camera = CAMERA.search(name)
    if folders and ONLY_CAMERA.fullmatch(folders[-1]):
        camera = camera or CAMERA.search(folders[-1])
        folders = folders[:-1]
    identity = folders[-1] if folders and folders[-1] not in NO_IDENTITY and not DAY.match(folders[-1]) else None
    if market and not DAY.fullmatch(market[1]) and (frame or DUKE.match(name) or identity is None):
        return CropInfo(market[1], int(market[2]), time)
    return CropInfo(identity and _text(identity), int(camera[1]) if camera else None, time)


def _of_date(date: re.Match[str]) -> float | None:
    try:
        return datetime(*map(int, date.groups()), tzinfo=UTC).timestamp()  # type: ignore[misc,arg-type]
    except ValueError:
        return None


def _text(name: str) -> str:
    return name.encode(errors="surrogateescape").decode(errors="replace")  # which the name of a folder need not be


def parse_time(text: str) -> float:
    """A time as `rows.GalleryItem` has it: a number as it is, or ISO 8601, in UTC where no zone is given.

    Raises:
        ValueError: neither.
    """
    try:
        number = float(text)
    except ValueError:
        time = datetime.fromisoformat(text)
        # Not the zone of this machine: names, tables and filters must mean the same everywhere.
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(number):  # which JSON does not know
        raise ValueError(text)
    return number


def camera_number(text: str) -> int:
    """Raises ValueError when `text` is no number of up to five digits; longer ones are dates and times."""
    if not re.fullmatch(r"\d{1,5}", text):
        raise ValueError(text)
    return int(text)


def read_metadata(path: Path) -> dict[str, CropInfo]:
    """The .csv at `path`: path (below the gallery) and any of identity, camera (a number) and time.

    Raises:
        InputError: a column is missing or a row does not say what it should; the message names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable table ({error})") from None
    if not rows or "path" not in rows[0] or not {"identity", "camera", "time"} & set(rows[0]):
        raise InputError(f"{path}: needs the column path, and any of identity, camera and time")
    table: dict[str, CropInfo] = {}
    for line, row in enumerate(rows, start=2):
        identity, camera, time = ((row.get(name) or "").strip() for name in ("identity", "camera", "time"))
        try:
            if not row["path"]:
                raise ValueError  # noqa: TRY301
            seen = CropInfo(
                identity or None, camera_number(camera) if camera else None, parse_time(time) if time else None
            )
        except ValueError:
            raise InputError(
                f"{path}, line {line}: give path, identity, a camera number and a time as a number or "
                "2026-01-31T12:00:00; all but path may be empty"
            ) from None
        table[row["path"].replace("\\", "/").removeprefix("./")] = seen
    return table
