"""Videos on the disk: which files are videos, and the camera and the clock of each."""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from bot_deploy import images
from bot_deploy.choices import MIN_TIMESTAMP_S, VIDEO_SUFFIXES
from bot_deploy.datasets.names import (
    TIME_PATTERN,
    is_camera_folder,
    parse_camera,
    parse_name,
    parse_time,
)
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FINGERPRINT_BYTES = 1 << 20  # of the beginning and of the end of a file
# Names that recorders and telephones give to every file.
COMMON_NAMES = frozenset(
    {"ch", "clip", "dvr", "file", "footage", "img", "mov", "movie", "nvr", "output", "part"}
    | {"rec", "record", "recording", "vid", "video"}
)
MIN_METADATA_TIME_S = 946_684_800  # 2000-01-01; a recorder without a clock writes 1904 or 1970

MAX_CAMERA_NAME = 100  # characters
MAX_NAMED_DIGITS = 5  # of a camera's number in a name
FIRST_NAMED_CAMERA = 100_000  # below are the numbers that names of files hold
NAMED_CAMERAS = 1_000_000_000  # so many numbers follow


class Known(NamedTuple):
    """A value and where it comes from, as messages say it."""

    value: str
    source: str


def is_video(path: Path) -> bool:
    """Whether the name of `path` is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def find_videos(paths: Sequence[Path]) -> list[Path]:
    """The videos among `paths` and in the folders among them, at any depth; each once, in order.

    Raises:
        InputError: a path is missing, no video, or a folder without videos.
    """
    videos: dict[Path, Path] = {}
    for path in paths:
        found = images.find_images(path, VIDEO_SUFFIXES) if path.is_dir() else [path]
        if not found:
            raise InputError(f"{path}: no videos in this folder ({', '.join(sorted(VIDEO_SUFFIXES))})")
        if not path.is_dir() and not path.is_file():
            raise InputError(f"{path}: no such file or folder")
        videos |= {video.absolute(): video for video in found}
    return list(videos.values())


def holds_footage(path: Path) -> bool:
    """Whether `path` is a video, or a folder of videos without images; a folder with images is one of crops."""
    if path.is_dir():
        return next(images.walk_images(path), None) is None and bool(images.find_images(path, VIDEO_SUFFIXES))
    return path.is_file() and is_video(path)


def find_camera(video: Path, name: str | None) -> Known:
    """The name of the camera that filmed `video`; `name` is the one that the user gave.

    Raises:
        InputError: `name` cannot be one.
    """
    path = video.absolute()
    if name is not None:
        check_camera_name(name)
        return Known(name, "as given")
    number = parse_camera(path.stem)
    if number is not None:
        return Known(f"cam{number}", "from its name")
    for folder in list(path.parents)[:3]:
        if is_camera_folder(folder.name):
            return Known(folder.name, "from its folder")
    stem = TIME_PATTERN.sub("", path.stem).strip(" _-.")
    letters = re.sub(r"[\W\d_]+", "", stem).lower()
    if letters and letters not in COMMON_NAMES:
        return Known(stem, "from its name")
    return Known(path.parent.name or stem or path.stem, "from its folder")


def check_camera_name(name: str) -> None:
    """Raises an InputError if `name` cannot be that of a camera."""
    if not name.isprintable() or not 0 < len(name) <= MAX_CAMERA_NAME:
        raise InputError(f"a camera's name has 1 to {MAX_CAMERA_NAME} visible characters", parameter="camera")


def camera_number(name: str, known: Mapping[str, int]) -> int:
    """The number of the camera `name` in an index; `known` has those of the cameras that are there already.

    The number in the name, as of cam3; of another name, one that no crop's name can hold. It follows from the name, so
    that it is the same in every index, and the camera means of a model hold for all of them.
    """
    if name in known:
        return known[name]
    if name.isdecimal() and len(name) <= MAX_NAMED_DIGITS:
        return int(name)
    if is_camera_folder(name):
        number = parse_camera(name)
        return ord(name[-1].lower()) - ord("a") + 1 if number is None else number
    number = FIRST_NAMED_CAMERA + zlib.crc32(name.encode(errors="surrogateescape")) % NAMED_CAMERAS
    while number in known.values():
        number += 1
    return number


def find_start(video: Path, metadata: Mapping[str, str], start: str | None) -> tuple[float | None, str]:
    """When `video` begins, in seconds since 1970 (None if unknown), and where that is from.

    Args:
        video: the file.
        metadata: of its container.
        start: the time that the user gave.

    Raises:
        InputError: `start` is no time.
    """
    if start is not None:
        try:
            return parse_time(start), "as given"
        except ValueError:
            raise InputError(f"{start}: not a time; write one such as 2026-01-31T12:00", parameter="start") from None
    named = parse_name(video.name).time
    if named is not None and named >= MIN_TIMESTAMP_S:
        return named, "from its name"
    try:
        named_time = datetime.fromisoformat(metadata.get("creation_time", ""))
        # FFmpeg gives no zone for an AVI; it is UTC, as everywhere.
        created = (named_time if named_time.tzinfo else named_time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        created = 0.0
    if created >= MIN_METADATA_TIME_S:
        return created, "from its metadata"
    return None, "unknown"


def fingerprint(path: Path) -> str:
    """A hash of the size, the beginning and the end of a file; a moved file keeps it, one that grows does not.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest = hashlib.blake2b(str(size).encode(), digest_size=16)
            for place in (0, max(0, size - FINGERPRINT_BYTES)):
                file.seek(place)
                digest.update(file.read(FINGERPRINT_BYTES))
            return digest.hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def folder_name(video: Path, digest: str) -> str:
    """The name of the folder of `video`, whose fingerprint is `digest`, in a gallery.

    The camera of its name or folder counts too: copies of one file may stand for several cameras.
    """
    stem = re.sub(r"[^\w.-]+", "_", video.stem, flags=re.ASCII).strip("._-")[:40] or "video"
    own = f"{digest} {find_camera(video, None).value}"
    return f"{stem}-{hashlib.blake2b(own.encode(errors='surrogateescape'), digest_size=4).hexdigest()}"
