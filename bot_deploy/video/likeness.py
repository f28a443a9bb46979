"""Which tracks are no people: posts, coats and reflections that a detector takes for one."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .tracks import TrackedBox

MIN_SIGHTINGS = 3  # boxes of a track; a reflection is often seen once or twice
MIN_CONFIDENCE = 0.45  # mean of the detector over a track
STILL_HEIGHTS = 0.15  # a track is still if its feet or head never go farther, in heights of the person
MIN_STILL_CONFIDENCE = 0.75  # mean over a still track: a post never moves, and the detector doubts it
MAX_ASPECT_RATIO = 0.95  # median of width / height; a wider thing is no person who stands or walks


@dataclass(frozen=True)
class TrackShape:
    """What is known of a whole track."""

    sightings: int
    confidence: float  # mean
    travel: float  # greatest distance from the first place, in heights
    aspect_ratio: float  # median of width / height


def describe_track(boxes: Sequence[TrackedBox]) -> TrackShape:
    """The shape of the track with these `boxes`, at least one, in the order of time."""
    heights = [box.xyxy[3] - box.xyxy[1] for box in boxes]
    aspects = [(box.xyxy[2] - box.xyxy[0]) / height for box, height in zip(boxes, heights, strict=True)]
    left, top, right, bottom = boxes[0].xyxy
    # The middle of the box moves also where somebody bends or is hidden in part, so head and feet count alone.
    distances = [
        min(abs(box.xyxy[1] - top), abs(box.xyxy[3] - bottom)) + abs((box.xyxy[0] + box.xyxy[2] - left - right) / 2)
        for box in boxes
    ]
    return TrackShape(
        len(boxes), fmean(box.confidence for box in boxes), max(distances) / median(heights), median(aspects)
    )


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
    if is_tracked and shape.travel < STILL_HEIGHTS and shape.confidence < MIN_STILL_CONFIDENCE:
        return f"never moves, and the detector doubts it (mean confidence {shape.confidence:.2f})"
    return ""
