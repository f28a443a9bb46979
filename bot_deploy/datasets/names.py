"""Identity, camera and time of a crop, read from the names of its file and its folders. The only parser of names.

An identity is text here, as in a gallery. The readers of data sets make it a number: in Market-1501, junk is "-1" and
distractors are "0000".
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import NamedTuple

SPLITS = ("train", "query", "gallery")
# A folder of Market-1501 -> the split in it.
MARKET_FOLDERS = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}
NOT_IDENTITIES = {*SPLITS, *MARKET_FOLDERS}

# More digits than these are dates and times.
MARKET = re.compile(r"(-1|\d{1,9})_c(\d{1,5})(?!\d)")
CAMERA = re.compile(r"(?:^|[_-])c(?:am(?:era)?)?_?(\d{1,5})(?!\d)", re.IGNORECASE)
CAMERA_FOLDER = re.compile(r"c(?:am(?:era)?)?_?\d{1,5}", re.IGNORECASE)
MARKET_FRAME = re.compile(r"-?\d+_c\d+s\d+_(\d+)")  # Market-1501 goes on with sequence and frame
DUKE_FRAME = re.compile(r"\d+_c\d+_f\d+")  # DukeMTMC-reID goes on with the frame
TIME = re.compile(r"(?<!\d)((?:19|20)\d\d)-?([01]\d)-?([0-3]\d)[T_ -]?([0-2]\d)[-:h]?([0-5]\d)[-:m]?([0-5]\d)(?!\d)")
DAY = re.compile(r"(?:19|20)\d\d-?[01]\d-?[0-3]\d")


class CropInfo(NamedTuple):
    """Identity, camera and time of a crop; None where unknown."""

    identity: str | None = None
    camera: int | None = None
    time: float | None = None  # seconds since 1970, UTC; the frame number where a name holds only that


class MarketLabel(NamedTuple):
    """The beginning of a Market-1501 file name."""

    identity: str
    camera: int


def parse_name(path: str) -> CropInfo:
    """Identity, camera and time in `path`, whose parts are joined by "/".

    `0002_c1s1_000451_03.jpg` has the form of Market-1501: identity, camera, sequence, frame. In other forms the folder
    of a file names the identity, unless the folder is named like a camera, a day or a split of a data set; then a file
    name such as `0002_c1.jpg` names it. `c1` or `cam1` in a file name is the camera. 2026-01-31_12-00-00, with or
    without separators, is the time.
    """
    *folders, name = path.split("/")
    market, frame, date = parse_market_name(name), MARKET_FRAME.match(name), TIME.search(name)
    time = _timestamp(date) if date else None
    if frame and time is None:
        time = float(frame[1])
    camera = parse_camera(name)
    if folders and is_camera_folder(folders[-1]):
        camera = parse_camera(folders[-1]) if camera is None else camera
        folders = folders[:-1]
    identity = _identity(folders[-1]) if folders else None
    if market and not DAY.fullmatch(market.identity) and (frame or DUKE_FRAME.match(name) or identity is None):
        return CropInfo(market.identity, market.camera, time)
    return CropInfo(identity, camera, time)


def parse_market_name(name: str) -> MarketLabel | None:
    """Identity and camera of a file name such as 0001_c1s1_001051_00.jpg; None for other names."""
    match = MARKET.match(name)
    return MarketLabel(match[1], int(match[2])) if match else None


def parse_camera(name: str) -> int | None:
    """The camera in a name such as x_c3.jpg or cam3; None for other names."""
    match = CAMERA.search(name)
    return int(match[1]) if match else None


def is_camera_folder(name: str) -> bool:
    """Whether a folder is named after a camera, such as c1, cam_2 or camera3."""
    return CAMERA_FOLDER.fullmatch(name) is not None


def parse_time(text: str) -> float:
    """A time in the unit of `CropInfo.time`: a number as it is, or ISO 8601, in UTC where it has no zone.

    Raises:
        ValueError: neither of them.
    """
    try:
        number = float(text)
    except ValueError:
        time = datetime.fromisoformat(text)
        # The zone of this machine is not used: names, tables and filters must mean the same everywhere.
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(number):  # JSON has no such numbers
        raise ValueError(text)
    return number


def _identity(folder: str) -> str | None:
    if folder in NOT_IDENTITIES or DAY.match(folder):
        return None
    return folder.encode(errors="surrogateescape").decode(errors="replace")  # the bytes of a name need not be text


def _timestamp(date: re.Match[str]) -> float | None:
    try:
        return datetime(*map(int, date.groups()), tzinfo=UTC).timestamp()  # type: ignore[misc,arg-type]
    except ValueError:
        return None
