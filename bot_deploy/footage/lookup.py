"""From the crops that a search finds to the appearances that they are from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bot_deploy.errors import InputError

from .records import crop_path, footage_folder, read_records

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Unpack

    from bot_deploy.gallery import Filters, Gallery

    from .records import AppearanceRecord, CropRecord, VideoRecord

PARTS = 3  # of the path of a crop: video, appearance, file


@dataclass(frozen=True)
class Appearance:
    """One person in view of one camera."""

    camera: str  # its name
    start: float  # seconds since 1970, UTC; seconds of the video where the time of day is unknown
    end: float
    has_clock: bool  # whether the time of day is known
    video: Path
    video_start: float  # seconds of the video
    video_end: float
    frames: tuple[int, int]  # first and last
    crops: tuple[str, ...]  # paths below the gallery's root
    key: str  # the same for all of its crops: the path of their folder below the gallery's root
    looks: tuple[CropRecord, ...] = ()  # frame, time in the video and box of each crop
    fingerprint: str = ""  # of the video when it was read; "": unknown

    @property
    def view(self) -> tuple[str, str]:
        """The same for two appearances whose times can be compared, on one camera; without a clock, in one video."""
        return self.camera, "" if self.has_clock else str(self.video)

    @property
    def short_key(self) -> str:
        """Folder of the video, and number: entrance-1f0c6a2b/0012."""
        return "/".join(self.key.split("/")[-2:])


@dataclass(frozen=True)
class Selection:
    """What filters leave of the appearances in an index: those that are in view at some time of the span."""

    appearances: int
    crops: int  # of them, whose own time is in the span
    since: float | None  # a span that holds all crops of these appearances
    until: float | None


class Footage:
    """The appearances in an index; empty where it has no footage."""

    def __init__(self, gallery: Gallery) -> None:
        """Reads the records of all videos.

        Raises:
            InputError: a record is damaged.
            RunError: one cannot be read.
        """
        self._videos: dict[str, VideoRecord] = {}  # by the name of the video's folder
        self._appearances: dict[tuple[str, int], AppearanceRecord] = {}  # by that name and their number
        self._selections: dict[tuple[object, ...], Selection] = {}  # by the filters
        address = getattr(gallery, "address", None)  # a single image has none
        if address is not None:
            for folder, record in read_records(footage_folder(address)):
                self._videos[folder.name] = record
                self._appearances |= {(folder.name, entry.number): entry for entry in record.appearances}

    def __bool__(self) -> bool:
        return bool(self._videos)

    def __len__(self) -> int:
        return len(self._appearances)

    @property
    def cameras(self) -> dict[str, int]:
        """Number by name."""
        return {record.camera: record.camera_number for record in self._videos.values()}

    def find_camera(self, name: str) -> int:
        """The number of the camera `name`.

        Raises:
            InputError: there is no such camera.
        """
        number = self.cameras.get(name)
        if number is None and name.isdecimal():
            return int(name)
        if number is None:
            known = ", ".join(sorted(self.cameras)) or "none has a name"
            raise InputError(f"{name}: no camera of this gallery ({known})", parameter="camera")
        return number

    def select(self, **filters: Unpack[Filters]) -> Selection:
        """The appearances that `filters` leave."""
        since, until = filters.get("since"), filters.get("until")
        cameras, excluded = filters.get("cameras"), filters.get("exclude_cameras")
        key = (since, until, *(None if numbers is None else frozenset(numbers) for numbers in (cameras, excluded)))
        if key not in self._selections:
            begin, end = -math.inf if since is None else since, math.inf if until is None else until
            spans, crops = [], 0
            for (folder, _), entry in self._appearances.items():
                video = self._videos[folder]
                offset = video.start or 0.0
                is_filmed = (cameras is None or video.camera_number in cameras) and (
                    excluded is None or video.camera_number not in excluded
                )
                if is_filmed and offset + entry.start <= end and offset + entry.end >= begin:
                    spans.append((offset + entry.start, offset + entry.end))
                    crops += sum(begin <= offset + crop.time <= end for crop in entry.crops)
            self._selections[key] = Selection(
                len(spans),
                crops,
                None if since is None else min([since, *(first for first, _ in spans)]),
                None if until is None else max([until, *(last for _, last in spans)]),
            )
        return self._selections[key]

    def find(self, path: str) -> Appearance | None:
        """The appearance that the crop at `path`, below the gallery's root, is from; None for another crop."""
        parts = path.rsplit("/", PARTS)[-PARTS:]
        if len(parts) < PARTS or parts[0] not in self._videos or not parts[1].isdecimal():
            return None
        entry = self._appearances.get((parts[0], int(parts[1])))
        if entry is None:
            return None
        video = self._videos[parts[0]]
        above = path.removesuffix("/".join(parts[1:]))
        return Appearance(
            video.camera,
            (video.start or 0.0) + entry.start,
            (video.start or 0.0) + entry.end,
            video.start is not None,
            video.path,
            entry.start,
            entry.end,
            (entry.first_frame, entry.last_frame),
            tuple(above + crop_path(entry.number, crop.frame) for crop in entry.crops),
            above + parts[1],
            entry.crops,
            video.fingerprint,
        )
