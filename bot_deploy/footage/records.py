"""What a gallery keeps of a video: how far it was read, and its appearances.

    shop.gallery/
      gallery.sqlite, vectors-1.f16       the index of the crops below, as of any other crops
      footage/
        entrance-1f0c6a2b/                one folder for each video
          video.json                      a `VideoRecord`
          0001/000123.jpg                 appearance 1, its crop of frame 123

Crops and their vectors are written before the record that names them. So a killed run leaves at most crops that the
next run writes again, under the same names.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote, unquote_to_bytes

import msgspec

from bot_deploy.errors import InputError, RunError
from bot_deploy.files import check_writable, lock, read_bounded, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

RECORD = "video.json"
RECORD_FORMAT = 1
MAX_RECORD_BYTES = 256 << 20
FOOTAGE = "footage"
CROP_PATTERN = re.compile(r"(?:^|/)[^/]+-[0-9a-f]{8}/[0-9]{4,}/[0-9]{6,}\.jpg$")  # see `folder_name` in videos.py

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
Seconds = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]
Text = Annotated[str, msgspec.Meta(max_length=10_000)]


class CropRecord(msgspec.Struct, frozen=True):
    """A crop of an appearance."""

    frame: Count
    time: Seconds  # of the video
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels of the frame


class AppearanceRecord(msgspec.Struct, frozen=True):
    """One person in view; times in seconds of the video."""

    number: Count  # from 1
    start: Seconds
    end: Seconds
    first_frame: Count
    last_frame: Count
    confidence: Annotated[float, msgspec.Meta(ge=0, le=1)]
    crops: tuple[CropRecord, ...]


class LeftOutRecord(msgspec.Struct, frozen=True):
    """A track that is no person."""

    start: Seconds
    end: Seconds
    reason: Text


class VideoRecord(msgspec.Struct, frozen=True):
    """A video in a gallery."""

    format: Count
    source: Text  # absolute path of the video in URL quotes, because a file name need not be text
    fingerprint: Text  # of its content
    settings: Text  # detector and embedding space; with others, the video is read again
    camera: Text
    camera_number: Count
    start: Seconds | None  # of the video, seconds since 1970; None if unknown
    fps: Annotated[float, msgspec.Meta(gt=0, le=1e4)]
    next_frame: Count = 0  # where the next stretch begins
    next_time: Seconds = 0.0
    is_finished: bool = False
    appearances: tuple[AppearanceRecord, ...] = ()
    left_out: tuple[LeftOutRecord, ...] = ()

    @property
    def path(self) -> Path:
        """The video."""
        return Path(os.fsdecode(unquote_to_bytes(self.source)))


def footage_folder(address: str) -> Path:
    """The folder of the footage of the index at `address`; it may not exist.

    That of an index in Milvus is NAME.footage, beside a .db file or in the current folder.
    """
    path = Path(address)
    if "://" in address:
        return Path(f"{path.name}.{FOOTAGE}")
    return path.with_suffix(f".{FOOTAGE}") if path.suffix == ".db" else path / FOOTAGE


def quote_path(path: Path) -> str:
    """The absolute path of a video as `VideoRecord.source`."""
    return quote(os.fsencode(path.absolute()), safe="/\\: ")


def crop_path(appearance: int, frame: int) -> str:
    """The path of a crop below the folder of its video."""
    return f"{appearance:04d}/{frame:06d}.jpg"


def is_footage_crop(path: str) -> bool:
    """Whether `path`, below the root of a gallery, is that of a crop from a video."""
    return CROP_PATTERN.search(path) is not None


def write_record(folder: Path, record: VideoRecord) -> None:
    """Writes the record of the video whose folder is `folder`.

    Raises:
        RunError: it cannot be written.
    """
    data = msgspec.json.encode(record)
    write_atomically(folder / RECORD, lambda temporary: temporary.write_bytes(data))


def read_record(folder: Path) -> VideoRecord | None:
    """The record of the video whose folder is `folder`; None if there is none yet.

    Raises:
        InputError: it is damaged.
        RunError: it cannot be read.
    """
    path = folder / RECORD
    try:
        record = msgspec.json.decode(read_bounded(path, MAX_RECORD_BYTES), type=VideoRecord)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: damaged ({error}); delete {folder}, and index the video again") from None
    if record.format != RECORD_FORMAT:
        raise InputError(f"{path}: format {record.format}, but this bot_deploy reads {RECORD_FORMAT}; index again")
    return record


def read_records(footage: Path) -> Iterator[tuple[Path, VideoRecord]]:
    """The folder and the record of each video in the folder `footage`, by name; none if there is no such folder.

    Raises:
        InputError: a record is damaged.
        RunError: one cannot be read.
    """
    for path in sorted(footage.glob(f"*/{RECORD}")):
        record = read_record(path.parent)
        if record:
            yield path.parent, record


def remove_video(folder: Path) -> None:
    """Removes the folder of a video; its record goes first, so that a killed run leaves none without crops."""
    (folder / RECORD).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def remove_videos(footage: Path) -> None:
    """Removes all videos in the folder `footage`, if there is one."""
    if footage.is_dir():
        with only_writer(footage):
            for folder, _ in list(read_records(footage)):
                remove_video(folder)


@contextmanager
def only_writer(footage: Path) -> Iterator[None]:
    """Lets one process at a time write to `footage`."""
    path = footage / ".lock"
    try:
        footage.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{footage}: cannot be written ({error.strerror or error})") from None
    check_writable(path)
    with lock(path, lambda: logger.info(f"waiting: another process writes to {footage}")):
        yield
