"""Pictures of a video to appearances: when a person was in view, with the best crops and their embeddings.

A video is read in stretches. A stretch ends where nobody was in view for a moment, or after `MAX_STRETCH_S`. Nothing
but the place goes from one stretch to the next, so that a run that was killed goes on there with the same result.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from .best_crops import Candidate, Candidates, choose_crops, sharpness
from .crops import crop_box, shows_whole_person
from .likeness import divide_track, shows_thing, usual_box
from .motion import MotionGate
from .timing import StageTimer
from .tracks import LOST_TRACK_S, MIN_TRACKING_FPS, PersonTracker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bot_deploy.embedder import Embedder, Vectors
    from bot_deploy.images import Pixels

    from .detectors import Detector
    from .sources.video_file import Picture
    from .tracks import TrackedBox, Xyxy

LOOKS_PER_S = 8  # pictures per second that are looked at; who passes near the camera still overlaps the last box
MIN_STRETCH_S, MAX_STRETCH_S = 30.0, 300.0
QUIET_S = LOST_TRACK_S + 1.0  # without anybody in view, before a stretch may end
EMBEDDED_CROPS = 32  # that wait until they are embedded together
MIN_SPLIT_CROPS = 2  # on each side, to see that a track went over to another person
JPEG_QUALITY = 92


@dataclass(frozen=True, eq=False)
class BestCrop:
    """One of the best crops of an appearance."""

    jpeg: bytes
    number: int  # of its frame
    time: float  # of its frame, in seconds
    xyxy: Xyxy
    vector: Vectors  # [D], unit length


@dataclass(frozen=True, eq=False)
class Appearance:
    """One person in view of one camera, from `start` to `end` in seconds of the video."""

    start: float
    end: float
    first_frame: int
    last_frame: int
    confidence: float  # mean of the detector
    crops: tuple[BestCrop, ...]  # in the order of time


@dataclass(frozen=True)
class LeftOut:
    """A track that is no person, and why."""

    start: float  # seconds of the video
    end: float
    reason: str


@dataclass(frozen=True, eq=False)
class Stretch:
    """What a part of a video shows; the next part begins with frame `next_frame` at `next_time`."""

    appearances: tuple[Appearance, ...]  # in the order of their starts
    left_out: tuple[LeftOut, ...]
    next_frame: int
    next_time: float
    is_last: bool


def read_stretches(
    pictures: Iterable[Picture],
    detector: Detector,
    embedder: Embedder,
    fps: float,
    outlier_threshold: float,
    timer: StageTimer | None = None,
) -> Iterator[Stretch]:
    """The stretches of a video, from its `pictures` in order.

    Args:
        pictures: all of them, or all from the beginning of a stretch on.
        detector: finds the people on every few pictures, where something moves.
        embedder: embeds the best crops.
        fps: usual frames per second of the video. Below `MIN_TRACKING_FPS`, each box is an appearance of its own.
        outlier_threshold: cosine below which two crops do not show the same person.
        timer: adds up the stages "compare", "detect", "track", "choose" and "embed".
    """
    every = max(1, int(fps / LOOKS_PER_S))
    timer = timer or StageTimer()
    reader: _StretchReader | None = None
    number, time = 0, 0.0
    for picture in pictures:
        number, time = picture.number, picture.time
        if reader and reader.is_over(time):
            yield reader.finish(number, time, is_last=False)
            reader = None
        if reader is None:
            reader = _StretchReader(detector, embedder, fps / every, outlier_threshold, timer, time)
        if number % every == 0 or fps < MIN_TRACKING_FPS:
            reader.look(picture)
    if reader:
        yield reader.finish(number + 1, time, is_last=True)
    else:
        yield Stretch((), (), number, time, is_last=True)


class _Look(NamedTuple):
    """A box of a track, with the number and the time of its picture."""

    number: int
    time: float
    box: TrackedBox


@dataclass
class _Track:
    """A track that is being followed, or a part of one."""

    candidates: Candidates
    looks: list[_Look] = field(default_factory=list)


class _StretchReader:
    """Reads one stretch."""

    def __init__(
        self,
        detector: Detector,
        embedder: Embedder,
        looks_per_s: float,
        outlier_threshold: float,
        timer: StageTimer,
        start: float,
    ) -> None:
        self._detector, self._embedder, self._timer = detector, embedder, timer
        self._outlier_threshold = outlier_threshold
        self._is_tracked = looks_per_s >= MIN_TRACKING_FPS
        self._tracker = PersonTracker(looks_per_s)
        self._gate = MotionGate()
        self._tracks: dict[int, _Track] = {}  # by track id
        self._waiting: list[tuple[_Track, list[Candidate]]] = []  # tracks that ended, until their crops are embedded
        self._appearances: list[Appearance] = []
        self._left_out: list[LeftOut] = []
        self._things: list[Xyxy] = []  # that stand at their places and were taken for people
        self._start = start
        self._last_seen = start  # when somebody was in view

    def is_over(self, time: float) -> bool:
        """Whether the stretch ends before `time`."""
        length = time - self._start
        return length >= MAX_STRETCH_S or (length >= MIN_STRETCH_S and time - self._last_seen >= QUIET_S)

    def look(self, picture: Picture) -> None:
        """Follows the people on `picture`."""
        present = picture.time - self._last_seen < LOST_TRACK_S
        with self._timer.measure("compare"):
            if not self._gate.needs_look(picture.grey(), picture.time, people_present=present):
                return
            pixels = picture.pixels()
        with self._timer.measure("detect"):
            detections = self._detector.detect(pixels)
        with self._timer.measure("track"):
            boxes = self._tracker.update(detections, picture.time)
        if len(detections.xyxy):
            self._last_seen = picture.time
        with self._timer.measure("choose"):
            for box in boxes:
                self._extend_track(box, [other.xyxy for other in boxes if other is not box], pixels, picture)
        self._end_lost_tracks(picture.time)

    def _extend_track(self, box: TrackedBox, others: list[Xyxy], pixels: Pixels, picture: Picture) -> None:
        track = self._tracks.get(box.track_id)
        if track is None:
            track = self._tracks[box.track_id] = _Track(Candidates(picture.time))
        track.looks.append(_Look(picture.number, picture.time, box))
        crop = crop_box(pixels, box.xyxy)
        is_whole = shows_whole_person(box.xyxy, others, (pixels.shape[0], pixels.shape[1]))
        quality = sharpness(crop) * box.confidence
        track.candidates.add(Candidate(crop, picture.number, picture.time, box.xyxy, is_whole, quality))

    def _end_lost_tracks(self, now: float) -> None:
        for track_id in [key for key, track in self._tracks.items() if now - track.looks[-1].time > LOST_TRACK_S]:
            self._end_track(self._tracks.pop(track_id))
        if sum(len(candidates) for _, candidates in self._waiting) >= EMBEDDED_CROPS:
            self._embed_waiting()

    def _end_track(self, track: _Track) -> None:
        for part in divide_track([look.box for look in track.looks], is_tracked=self._is_tracked):
            looks = track.looks[part.begin : part.end]
            start, end = looks[0].time, looks[-1].time
            candidates = track.candidates.in_order(start, end)
            if part.is_thing:
                self._things.append(usual_box([look.box for look in looks]))
            if part.reason:
                self._left_out.append(LeftOut(start, end, part.reason))
            elif candidates:  # else its crops were worse than those of the parts around it
                self._waiting.append((_Track(track.candidates, looks), candidates))

    def _embed_waiting(self) -> None:
        """Embeds the crops of all tracks that ended, in batches, and makes appearances of them."""
        with self._timer.measure("embed"):
            vectors = self._embedder.embed([crop.pixels for _, candidates in self._waiting for crop in candidates])
        place = 0
        for track, candidates in self._waiting:
            own = vectors[place : place + len(candidates)]
            place += len(candidates)
            self._appearances += _appearances_of(track, candidates, own, self._outlier_threshold)
        self._waiting.clear()

    def finish(self, next_frame: int, next_time: float, *, is_last: bool) -> Stretch:
        """The stretch, after its last picture."""
        for track in self._tracks.values():
            self._end_track(track)
        self._tracks.clear()
        self._embed_waiting()
        kept = []
        for one in sorted(self._appearances, key=lambda one: (one.start, one.crops[0].xyxy)):
            if all(shows_thing(crop.xyxy, self._things) for crop in one.crops):
                self._left_out.append(LeftOut(one.start, one.end, "is where something stands that is no person"))
            else:
                kept.append(one)
        return Stretch(tuple(kept), tuple(self._left_out), next_frame, next_time, is_last)


def _appearances_of(
    track: _Track, candidates: Sequence[Candidate], vectors: Vectors, outlier_threshold: float
) -> Iterator[Appearance]:
    """The appearances of a track with these `candidates` [N] and `vectors` [N, D]: one, if it stayed at one person."""
    for begin, end in _split_at_changes(0, vectors, outlier_threshold):
        first, last = candidates[begin], candidates[end - 1]
        usual = _usual(vectors[begin:end], outlier_threshold)
        part, own = [candidates[begin + place] for place in usual], vectors[begin:end][usual]
        is_first, is_last = begin == 0, end == len(candidates)
        yield Appearance(
            track.looks[0].time if is_first else first.time,
            track.looks[-1].time if is_last else last.time,
            track.looks[0].number if is_first else first.number,
            track.looks[-1].number if is_last else last.number,
            fmean(look.box.confidence for look in track.looks),
            tuple(
                BestCrop(_jpeg(part[place].pixels), part[place].number, part[place].time, part[place].xyxy, own[place])
                for place in choose_crops(part, own)
            ),
        )


def _usual(vectors: Vectors, outlier_threshold: float) -> list[int]:
    """The places of those `vectors` [N, D] that are like the mean of all; at least one."""
    mean = vectors.mean(axis=0)
    similarity = [_cosine(vector, mean) for vector in vectors]
    return [place for place, cosine in enumerate(similarity) if cosine >= outlier_threshold] or [
        int(np.argmax(similarity))
    ]


def _split_at_changes(begin: int, vectors: Vectors, outlier_threshold: float) -> list[tuple[int, int]]:
    """Ranges of `vectors` [N, D] that show one person each; their numbers count from `begin`.

    The crops before and after a change have means that are unlike; a track is divided where they are most unlike.
    """
    count = len(vectors)
    places = range(MIN_SPLIT_CROPS, count - MIN_SPLIT_CROPS + 1)
    similarities = [_cosine(vectors[:place].mean(axis=0), vectors[place:].mean(axis=0)) for place in places]
    if not similarities or min(similarities) >= outlier_threshold:
        return [(begin, begin + count)]
    place = places[int(np.argmin(similarities))]
    return [
        *_split_at_changes(begin, vectors[:place], outlier_threshold),
        *_split_at_changes(begin + place, vectors[place:], outlier_threshold),
    ]


def _cosine(first: Vectors, second: Vectors) -> float:
    return float(first @ second / max(float(np.linalg.norm(first) * np.linalg.norm(second)), 1e-9))


def _jpeg(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
