"""Makes an index hold the people in videos; a run that was killed goes on where it was."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from bot_deploy.choices import MAX_NAMED_FILES
from bot_deploy.errors import InputError
from bot_deploy.files import write_atomically
from bot_deploy.gallery import GalleryItem, file_digest, open_cached_index
from bot_deploy.progress import progress_counter
from bot_deploy.video.appearances import read_stretches
from bot_deploy.video.read_ahead import read_ahead
from bot_deploy.video.sources.video_file import VideoSource
from bot_deploy.video.timing import StageTimer
from bot_deploy.video.track_embedding import find_outlier_threshold

from .records import (
    FOOTAGE,
    RECORD_FORMAT,
    AppearanceRecord,
    CropRecord,
    LeftOutRecord,
    VideoRecord,
    crop_path,
    footage_folder,
    only_writer,
    quote_path,
    read_record,
    read_records,
    remove_video,
    write_record,
)
from .times import format_clock, format_position
from .videos import camera_number, find_camera, find_start, find_videos, fingerprint, folder_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bot_deploy.embedder import Embedder
    from bot_deploy.gallery import Index, LocalIndex
    from bot_deploy.progress import ProgressReport
    from bot_deploy.video.appearances import Appearance, Stretch
    from bot_deploy.video.detectors import Detector
    from bot_deploy.video.sources.video_file import Picture

logger = logging.getLogger(__name__)

CACHE_NAME = "footage-1"  # the number is raised when older galleries cannot be read
METHOD = "3"  # raised when the same video would give other appearances
READ_AHEAD = 16  # pictures that are decoded before they are needed


@dataclass(frozen=True)
class VideoUpdate:
    """What one video gave."""

    video: Path
    camera: str
    start: float | None  # seconds since 1970; None if unknown
    appearances: int
    left_out: Counter[str]  # kind of reason -> tracks
    seconds: float  # of the video
    wall_seconds: float  # of work; 0 for a video that was read before


@dataclass(frozen=True)
class FootageUpdate:
    """What all videos gave."""

    videos: tuple[VideoUpdate, ...]
    broken: dict[Path, InputError]  # videos that cannot be read
    stages: dict[str, float]  # stage -> seconds


def index_footage(
    index: Index,
    paths: Sequence[Path],
    embedder: Embedder,
    detector: Detector,
    *,
    camera: str | None = None,
    start: str | None = None,
    replace: bool = False,
) -> FootageUpdate:
    """Makes `index` hold the appearances of the people in videos; a video that was read before is not read again.

    Videos that are in the index stay there, because recorders delete old files.

    Args:
        index: a new one has its crops in `footage_folder(address)`.
        paths: videos, and folders of videos.
        embedder: the model of the index.
        detector: finds the people.
        camera: name of the camera; None: from the name of each video or its folder.
        start: when the video begins; None: from its name or metadata.
        replace: whether the videos that are not in `paths` are removed.

    Raises:
        InputError: a path is missing or a folder has no videos; not one can be read; or `start` for several.
        RunError: the gallery cannot be written.
    """
    videos = find_videos(paths)
    if start is not None and len(videos) > 1:
        raise InputError(f"one time for {len(videos)} videos; index them one by one", parameter="start")
    for video in videos:  # before any work
        find_camera(video, camera)
    footage = footage_folder(index.address)
    timer = StageTimer()
    updates: list[VideoUpdate] = []
    broken: dict[Path, InputError] = {}
    with only_writer(footage):
        work = _Work(index, footage, embedder, detector, timer)
        kept: set[str] = set()
        for video in videos:
            try:
                update, name = work.index_video(video, camera, start)
            except InputError as error:
                broken[video] = error
                continue
            updates.append(update)
            kept.add(name)
        if not updates:
            raise InputError(f"none of {len(videos)} videos can be read; the first: {next(iter(broken.values()))}")
        if replace:
            for folder, _ in list(read_records(footage)):
                if folder.name not in kept:
                    work.remove(folder)
    return FootageUpdate(tuple(updates), broken, dict(timer.seconds))


def open_footage_gallery(path: Path, embedder: Embedder, detector: Detector) -> tuple[LocalIndex, FootageUpdate]:
    """The up-to-date gallery of the video `path`, or of the videos in that folder; it is kept in the user's cache.

    Raises:
        InputError: no such path, or not one video in it can be read.
        RunError: the cache cannot be written.
    """
    index = open_cached_index(path, embedder.contract, CACHE_NAME, FOOTAGE)
    try:
        return index, index_footage(index, [path], embedder, detector, replace=True)
    except BaseException:
        index.close()
        raise


class _Work:
    """Reads videos into one index."""

    def __init__(self, index: Index, footage: Path, embedder: Embedder, detector: Detector, timer: StageTimer) -> None:
        self._index, self._footage, self._embedder, self._detector = index, footage, embedder, detector
        self._timer = timer
        # What an earlier model has read is not read again: `renew_vectors` embeds its crops again.
        self._settings, *self._earlier_settings = (
            f"{METHOD}; {detector.name}; {space}" for space in embedder.contract.searchable_spaces
        )
        self._prefix = os.path.relpath(footage.absolute(), index.root.absolute()).replace(os.sep, "/") + "/"
        if self._prefix == "./":
            self._prefix = ""
        is_adapted = bool(embedder.contract.camera_means)
        self._outlier_threshold = find_outlier_threshold(embedder.contract.calibration, is_adapted=is_adapted)

    def index_video(self, video: Path, camera: str | None, start: str | None) -> tuple[VideoUpdate, str]:
        """Reads `video` from where an earlier run ended; returns also the name of its folder.

        Raises:
            InputError: it is no video.
        """
        digest = fingerprint(video)
        folder = self._footage / folder_name(video, digest)
        record = read_record(folder)
        if record is None:
            folder, record = self._find_moved(digest) or (folder, None)
        is_kept = record and record.settings in {self._settings, *self._earlier_settings}
        if record and not (is_kept and record.fingerprint == digest):
            self._say_read_again(video, folder, record)
            self.remove(folder)
            record = None
        if record and record.is_finished:
            record = self._update_place(folder, record, video, camera, start)
            return self._update(video, record, 0.0), folder.name
        started = time.perf_counter()
        with VideoSource(str(video), str(video.absolute())) as source:
            if record is None:
                record = self._new_record(video, digest, source, camera, start)
                folder.mkdir(parents=True, exist_ok=True)
                write_record(folder, record)
                self._forget_older(video, folder)
            else:
                record = self._update_place(folder, record, video, camera, start)
                logger.info(f"{video}: goes on at {format_position(record.next_time)}")
                source.skip_to(record.next_frame, record.next_time)
            record = self._read(source, folder, record)
        update = self._update(video, record, time.perf_counter() - started)
        speed = update.seconds / max(update.wall_seconds, 1e-9)
        logger.info(
            f"{video}: {update.appearances} appearances in {format_position(update.seconds)} of video, read in "
            f"{update.wall_seconds:.1f} s ({speed:.1f} times real time)"
        )
        return update, folder.name

    def _find_moved(self, digest: str) -> tuple[Path, VideoRecord] | None:
        """The folder and the record of a video with the fingerprint `digest` that is no longer where it was."""
        for folder, record in read_records(self._footage):
            if record.fingerprint == digest and not record.path.exists():
                return folder, record
        return None

    def _say_read_again(self, video: Path, folder: Path, record: VideoRecord) -> None:
        """Logs that what an earlier run read is dropped, with the names that people got."""
        VideoSource(str(video), str(video.absolute())).close()  # what cannot be read again is not dropped
        below = f"{self._prefix}{folder.name}/"
        names = {item.identity for item in self._index.items() if item.identity and item.path.startswith(below)}
        dropped = f"; it drops the names {', '.join(sorted(names))}" if names else ""
        logger.info(f"{video}: read again, because {_what_changed(record.settings, self._settings)}{dropped}")

    def _new_record(
        self, video: Path, digest: str, source: VideoSource, camera: str | None, start: str | None
    ) -> VideoRecord:
        name, name_source = find_camera(video, camera)
        begin, begin_source = find_start(video, source.metadata, start)
        clock = "the time of day is unknown" if begin is None else f"begins {format_clock(begin)} ({begin_source})"
        logger.info(f"{video}: camera {name} ({name_source}), {clock}")
        if source.times_note:
            logger.info(f"{video}: {source.times_note}")
        return VideoRecord(
            RECORD_FORMAT,
            quote_path(video),
            digest,
            self._settings,
            name,
            camera_number(name, self._cameras()),
            begin,
            source.fps,
        )

    def _cameras(self) -> dict[str, int]:
        return {record.camera: record.camera_number for _, record in read_records(self._footage)}

    def _forget_older(self, video: Path, folder: Path) -> None:
        """Removes what an earlier content of the file `video` gave: it was replaced, or has grown."""
        source = quote_path(video)
        for other, record in list(read_records(self._footage)):
            if other != folder and record.source == source:
                self.remove(other)

    def _read(self, source: VideoSource, folder: Path, record: VideoRecord) -> VideoRecord:
        """Reads the rest of a video; each stretch is kept as soon as it is complete."""
        with (
            progress_counter(source.name, int(record.next_time)) as progress,
            closing(read_ahead(source.pictures(), READ_AHEAD)) as pictures,
        ):
            stretches = read_stretches(
                _reporting(pictures, source.seconds, progress),
                self._detector,
                self._embedder,
                source.fps,
                self._outlier_threshold,
                self._timer,
            )
            for stretch in stretches:
                with self._timer.measure("keep"):
                    record = self._keep(folder, record, stretch)
        return record

    def _keep(self, folder: Path, record: VideoRecord, stretch: Stretch) -> VideoRecord:
        """Writes the crops, then their vectors, then the record."""
        first = 1 + max((entry.number for entry in record.appearances), default=0)  # `bot forget` leaves holes
        items, vectors = [], []
        entries = []
        for number, appearance in enumerate(stretch.appearances, first):
            entries.append(_entry(number, appearance))
            (folder / f"{number:04d}").mkdir(exist_ok=True)
            for crop in appearance.crops:
                path = folder / crop_path(number, crop.number)
                data = crop.jpeg
                write_atomically(path, lambda temporary, data=data: temporary.write_bytes(data))  # type: ignore[misc]
                items.append(
                    GalleryItem(
                        f"{self._prefix}{folder.name}/{crop_path(number, crop.number)}",
                        len(data),
                        digest=file_digest(path),
                        camera=record.camera_number,
                        time=(record.start or 0.0) + crop.time,
                    )
                )
                vectors.append(crop.vector)
        if items:
            self._index.add(items, np.stack(vectors))
        record = msgspec.structs.replace(
            record,
            next_frame=stretch.next_frame,
            next_time=stretch.next_time,
            is_finished=stretch.is_last,
            appearances=(*record.appearances, *entries),
            left_out=(
                *record.left_out,
                *(LeftOutRecord(track.start, track.end, track.reason) for track in stretch.left_out),
            ),
        )
        write_record(folder, record)
        return record

    def _update_place(
        self, folder: Path, record: VideoRecord, video: Path, camera: str | None, start: str | None
    ) -> VideoRecord:
        """`record` with the present path of `video`, and with a camera and a time that the user gives now."""
        name = camera if camera is not None else record.camera
        begin = record.start if start is None else find_start(video, {}, start)[0]
        changed = msgspec.structs.replace(
            record,
            source=quote_path(video),
            camera=name,
            camera_number=camera_number(name, self._cameras()),
            start=begin,
        )
        if changed == record:
            return record
        if (changed.camera_number, changed.start) != (record.camera_number, record.start):
            below = f"{self._prefix}{folder.name}/"
            shift = (changed.start or 0.0) - (record.start or 0.0)
            self._index.update_metadata(
                [
                    item._replace(camera=changed.camera_number, time=(item.time or 0.0) + shift)
                    for item in self._index.items()
                    if item.path.startswith(below)
                ]
            )
        write_record(folder, changed)
        return changed

    def remove(self, folder: Path) -> None:
        """Removes a video from the index, with its crops."""
        below = f"{self._prefix}{folder.name}/"
        self._index.remove([item.path for item in self._index.items() if item.path.startswith(below)])
        remove_video(folder)

    def _update(self, video: Path, record: VideoRecord, wall_seconds: float) -> VideoUpdate:
        reasons = Counter(entry.reason.partition(" (")[0] for entry in record.left_out)
        if wall_seconds:
            _say_left_out(video, record)
        return VideoUpdate(
            video, record.camera, record.start, len(record.appearances), reasons, record.next_time, wall_seconds
        )


def _say_left_out(video: Path, record: VideoRecord) -> None:
    for entry in record.left_out[:MAX_NAMED_FILES]:
        logger.info(
            f"{video}, {format_position(entry.start)} to {format_position(entry.end)}: no person: {entry.reason}"
        )
    if len(record.left_out) > MAX_NAMED_FILES:
        logger.info(f"{video}: {len(record.left_out) - MAX_NAMED_FILES} more tracks are no people")


def _entry(number: int, appearance: Appearance) -> AppearanceRecord:
    left_top_right_bottom = [tuple(round(side) for side in crop.xyxy) for crop in appearance.crops]
    return AppearanceRecord(
        number,
        round(appearance.start, 6),
        round(appearance.end, 6),
        appearance.first_frame,
        appearance.last_frame,
        appearance.confidence,
        tuple(
            CropRecord(crop.number, round(crop.time, 6), box)  # type: ignore[arg-type]
            for crop, box in zip(appearance.crops, left_top_right_bottom, strict=True)
        ),
    )


def _reporting(pictures: Iterator[Picture], seconds: float, progress: ProgressReport) -> Iterator[Picture]:
    """`pictures`, and reports the progress in seconds of video."""
    begun, first, shown = time.perf_counter(), None, 0.0
    for picture in pictures:
        if first is None:
            first = picture.time
        if picture.time - shown >= 1 or picture.time < shown:
            shown = picture.time
            speed = (picture.time - first) / max(time.perf_counter() - begun, 1e-9)
            progress(int(picture.time), max(int(seconds), int(picture.time), 1), f"{speed:.1f} x real time")
        yield picture


def _what_changed(before: str, now: str) -> str:
    """Which of method, detector and model differ between two settings; as a phrase."""
    pairs = zip(("the method", "the detector", "the model"), before.split("; "), now.split("; "), strict=False)
    changed = [f"{what} is another ({new}, before: {old})" for what, old, new in pairs if old != new]
    return " and ".join(changed) or "the video is another"
