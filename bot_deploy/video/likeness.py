"""Which tracks are no people: posts, coats and reflections that a detector takes for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .tracks import TrackedBox, Xyxy

MIN_SIGHTINGS = 3  # boxes of a track; a reflection is often seen once or twice
MIN_CONFIDENCE = 0.45  # mean of the detector over a track
# A post never moves, and the detector doubts it. On a square with a sign, looked at five times a second, its track had
# a mean confidence of 0.59, and those of people at least 0.65.
STILL_TRAVEL = 0.15  # greatest distance from the first place, in heights of the person, of a still track
STILL_MEDIAN, MIN_STILL_SIGHTINGS = 0.3, 15  # median distance from the usual place, of a track with so many boxes
MIN_STILL_CONFIDENCE = 0.65  # mean over a still track
# A post that the detector doubts more starts no track, but takes over those of people who pass it. Looked at ten times
# a second, such stops had a mean confidence of 0.33 to 0.49 on that square, and those of people at least 0.55.
STOP_TRAVEL, MIN_STOP_SIGHTINGS, MAX_STOP_CONFIDENCE = 0.2, 10, 0.5  # heights; boxes in a row; mean over them
STANDS_STILL = "never moves, and the detector doubts it"
STAYS = "stays at a place where the detector doubts it"
MIN_THING_OVERLAP = 0.5  # IoU of a crop with a thing that it shows
MAX_ASPECT_RATIO = 0.95  # median of width / height; a wider thing is no person who stands or walks


@dataclass(frozen=True)
class TrackShape:
    """What is known of a whole track."""

    sightings: int
    confidence: float  # mean
    travel: float  # greatest distance from the first place, in heights
    spread: float  # median distance from the usual place, in heights
    aspect_ratio: float  # median of width / height


def describe_track(boxes: Sequence[TrackedBox]) -> TrackShape:
    """The shape of the track with these `boxes`, at least one, in the order of time."""
    corners = np.array([box.xyxy for box in boxes])
    sides = corners[:, 2:] - corners[:, :2]
    feet = np.stack([corners[:, [0, 2]].mean(axis=1), corners[:, 3]], axis=1)
    height = float(np.median(sides[:, 1]))
    return TrackShape(
        len(boxes),
        float(np.mean([box.confidence for box in boxes])),
        float(np.linalg.norm(feet - feet[0], axis=1).max()) / height,
        float(np.median(np.linalg.norm(feet - np.median(feet, axis=0), axis=1))) / height,
        float(np.median(sides[:, 0] / sides[:, 1])),
    )


@dataclass(frozen=True)
class TrackPart:
    """A part of a track: its boxes from `begin` to before `end`, and why they are no person; "" for a person."""

    begin: int
    end: int
    reason: str

    @property
    def is_thing(self) -> bool:
        """Whether it is a thing that stands at its place."""
        return self.reason.startswith((STANDS_STILL, STAYS))


def divide_track(boxes: Sequence[TrackedBox], *, is_tracked: bool = True) -> list[TrackPart]:
    """The parts of the track with these `boxes`: one, unless it stays at a post on its way.

    `is_tracked` is as of `why_no_person`.
    """
    reason = why_no_person(describe_track(boxes), is_tracked=is_tracked)
    if reason or not is_tracked:
        return [TrackPart(0, len(boxes), reason)]
    parts, place = [], 0
    for begin, end in [*_find_stops(boxes), (len(boxes), len(boxes))]:
        if place < begin:
            parts.append(TrackPart(place, begin, why_no_person(describe_track(boxes[place:begin]))))
        if begin < end:
            confidence = float(np.mean([box.confidence for box in boxes[begin:end]]))
            reason = f"{STAYS} (mean confidence {confidence:.2f})"
            parts.append(TrackPart(begin, end, reason))
        place = end
    return parts


def usual_box(boxes: Sequence[TrackedBox]) -> Xyxy:
    """The median of `boxes`, at least one."""
    left, top, right, bottom = np.median([box.xyxy for box in boxes], axis=0).tolist()
    return left, top, right, bottom


def shows_thing(xyxy: Xyxy, things: Sequence[Xyxy]) -> bool:
    """Whether the box `xyxy` is that of one of `things`, which stand at their places."""
    left, top, right, bottom = xyxy
    for other in things:
        width, height = min(right, other[2]) - max(left, other[0]), min(bottom, other[3]) - max(top, other[1])
        intersection = max(0.0, width) * max(0.0, height)
        areas = (right - left) * (bottom - top) + (other[2] - other[0]) * (other[3] - other[1])
        if intersection >= MIN_THING_OVERLAP * (areas - intersection):
            return True
    return False


def _find_stops(boxes: Sequence[TrackedBox]) -> list[tuple[int, int]]:
    """Ranges of `boxes` that stay at one place and are doubted; each begins and ends with a doubted one."""
    corners = np.array([box.xyxy for box in boxes])
    confidence = np.array([box.confidence for box in boxes])
    feet = np.stack([corners[:, [0, 2]].mean(axis=1), corners[:, 3]], axis=1)
    heights = corners[:, 3] - corners[:, 1]
    is_doubted = confidence < MAX_STOP_CONFIDENCE
    stops: list[tuple[int, int]] = []
    begin = 0
    while begin < len(boxes):
        is_far = np.linalg.norm(feet[begin:] - feet[begin], axis=1) > STOP_TRAVEL * heights[begin]
        end = begin + int(is_far.argmax()) if is_far.any() else len(boxes)
        end = begin + int(np.flatnonzero(is_doubted[begin:end])[-1]) + 1 if is_doubted[begin] else begin
        if end - begin >= MIN_STOP_SIGHTINGS and confidence[begin:end].mean() < MAX_STOP_CONFIDENCE:
            if stops and stops[-1][1] == begin:
                stops[-1] = stops[-1][0], end
            else:
                stops.append((begin, end))
            begin = end
        else:
            begin += 1
    return stops


def why_no_person(shape: TrackShape, *, is_tracked: bool = True) -> str:
    """Why the track of this `shape` is left out; "" for a person.

    `is_tracked` is False where a video has too few frames per second to track: then a box is a track.
    """
    if is_tracked and shape.sightings < MIN_SIGHTINGS:
        return f"seen on {shape.sightings} pictures only"
    if shape.confidence < MIN_CONFIDENCE:
        return f"the detector doubts it (mean confidence {shape.confidence:.2f})"
    if shape.aspect_ratio > MAX_ASPECT_RATIO:
        return f"wider than a person (width / height {shape.aspect_ratio:.2f})"
    is_still = shape.travel < STILL_TRAVEL or (shape.sightings >= MIN_STILL_SIGHTINGS and shape.spread < STILL_MEDIAN)
    if is_tracked and is_still and shape.confidence < MIN_STILL_CONFIDENCE:
        return f"{STANDS_STILL} (mean confidence {shape.confidence:.2f})"
    return ""
