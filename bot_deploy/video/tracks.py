"""Detections to tracks: ByteTrack (Zhang et al., ECCV 2022), as implemented in the library `trackers`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from bot_deploy.choices import MAX_FPS, MIN_FPS
from bot_deploy.errors import require_range
from bot_deploy.telemetry import without_telemetry

if TYPE_CHECKING:
    from trackers import ByteTrackTracker

    from .detectors import Detections

MIN_TRACKING_FPS = 5  # frames per second; below it, people move too far between two frames
MIN_TIME_STEP_S = 1e-6  # seconds from frame to frame
LOST_TRACK_S = 2.0  # seconds for which ByteTrack continues a lost track
TRACK_ACTIVATION_THRESHOLD = 0.5  # detector confidence that starts a track; a lower one only continues a track

Xyxy = tuple[float, float, float, float]  # left, top, right, bottom in pixels


class TrackedBox(NamedTuple):
    """A detection with its track id, before embedding; boxes with the same `track_id` show the same person."""

    track_id: int  # from 1
    xyxy: Xyxy
    confidence: float  # of the detector, 0 to 1


class PersonTracker:
    """Gives the boxes of one person the same track id from frame to frame."""

    def __init__(self, fps: float) -> None:
        """Below `MIN_TRACKING_FPS` frames per second, every box is a track of its own.

        `fps` is the usual rate: pauses between frames do not lower it.

        Raises:
            InputError: `fps` is not a number in its range.
        """
        require_range("fps", fps, MIN_FPS, MAX_FPS)
        self._tracker = _bytetrack(fps) if fps >= MIN_TRACKING_FPS else None
        self._last_id = 0
        self._last_time = -math.inf  # of the last frame, in seconds

    def update(self, detections: Detections, time: float) -> list[TrackedBox]:
        """The boxes with a track on the next frame, whose presentation time is `time`, in seconds."""
        if self._tracker is None:
            return self._untracked(detections)
        with without_telemetry():
            import supervision as sv

        # ByteTrack predicts positions for times that rise.
        self._last_time = time = max(time, self._last_time + MIN_TIME_STEP_S)
        tracked = self._tracker.update(
            sv.Detections(xyxy=detections.xyxy, confidence=detections.confidence), timestamp=time
        )
        ids: list[int] = [] if tracked.tracker_id is None else tracked.tracker_id.tolist()
        confidences = [0.0] * len(ids) if tracked.confidence is None else tracked.confidence.tolist()
        return [
            TrackedBox(track_id + 1, tuple(xyxy), confidence)
            for track_id, xyxy, confidence in zip(ids, tracked.xyxy.tolist(), confidences, strict=True)
            if track_id >= 0  # ByteTrack gives an id at the second detection
        ]

    def _untracked(self, detections: Detections) -> list[TrackedBox]:
        certain = detections.confidence >= TRACK_ACTIVATION_THRESHOLD
        boxes = zip(detections.xyxy[certain].tolist(), detections.confidence[certain].tolist(), strict=True)
        first_id = self._last_id + 1
        self._last_id += int(certain.sum())
        return [
            TrackedBox(track_id, tuple(xyxy), confidence) for track_id, (xyxy, confidence) in enumerate(boxes, first_id)
        ]


def _bytetrack(fps: float) -> ByteTrackTracker:
    with without_telemetry():
        from trackers import ByteTrackTracker

    return ByteTrackTracker(
        lost_track_buffer=round(30 * LOST_TRACK_S),  # it is counted in frames at 30 frames/s
        frame_rate=fps,
        track_activation_threshold=TRACK_ACTIVATION_THRESHOLD,
        high_conf_det_threshold=TRACK_ACTIVATION_THRESHOLD,
    )
