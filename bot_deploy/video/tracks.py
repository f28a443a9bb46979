"""Boxes to tracks: ByteTrack (Zhang et al., ECCV 2022), as the library `trackers` has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from trackers import ByteTrackTracker

    from .detectors import Boxes

SLOWEST = 5  # frames a second; further apart, a position says nothing about who it is
PATIENCE = 60  # thirtieths of a second for which a lost track is remembered
BEGIN = 0.5  # detector's score from which a box begins a track; those below it only go on with one

Corners = tuple[float, float, float, float]  # left, top, right, bottom in pixels


class Tracked(NamedTuple):
    """A box of one frame; the same `number` in the next frame is taken for the same person."""

    number: int  # from 1
    corners: Corners


class Tracks:
    """Numbers boxes so that they follow people from frame to frame."""

    def __init__(self, fps: float) -> None:
        """Below `SLOWEST` frames a second every box is a track of its own."""
        self._tracker = _bytetrack(fps) if fps >= SLOWEST else None
        self._last = 0

    def update(self, boxes: Boxes, time: float | None = None) -> list[Tracked]:
        """The boxes that are tracked in this frame; `time` in seconds where frames may have been dropped."""
        if self._tracker is None:
            certain = boxes.corners[boxes.scores >= BEGIN].tolist()
            self._last += len(certain)
            first = self._last - len(certain) + 1
            return [Tracked(number, tuple(corners)) for number, corners in enumerate(certain, first)]
        from supervision import Detections

        found = self._tracker.update(Detections(xyxy=boxes.corners, confidence=boxes.scores), timestamp=time)
        numbers: list[int] = [] if found.tracker_id is None else found.tracker_id.tolist()
        return [
            Tracked(number + 1, tuple(corners))
            for number, corners in zip(numbers, found.xyxy.tolist(), strict=True)
            if number >= 0  # not yet seen twice
        ]


def _bytetrack(fps: float) -> ByteTrackTracker:
    from trackers import ByteTrackTracker

    return ByteTrackTracker(
        lost_track_buffer=PATIENCE,
        frame_rate=fps,
        track_activation_threshold=BEGIN,
        high_conf_det_threshold=BEGIN,
    )
