"""From the crops that a search finds to the appearances that they are from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bot_deploy.errors import InputError

from .records import crop_path, footage_folder, read_records

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.gallery import Gallery

    from .records import AppearanceRecord, VideoRecord

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

    @property
    def short_key(self) -> str:
        """Folder of the video, and number: entrance-1f0c6a2b/0012."""
        return "/".join(self.key.split("/")[-2:])


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
        )
