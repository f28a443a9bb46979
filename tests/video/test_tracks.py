"""Detections to tracker."""

from __future__ import annotations

import numpy as np

from bot_deploy.video.detectors import Detections
from bot_deploy.video.tracks import PersonTracker


def detections(*boxes: tuple[float, float, float, float], scores: tuple[float, ...] | None = None) -> Detections:
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores or [0.9] * len(boxes), np.float32))


def walker(x: float) -> tuple[float, float, float, float]:
    return x, 100, x + 50, 250


def test_two_people_who_pass_each_other_keep_their_track_ids() -> None:
    tracker = PersonTracker(25)
    seen: list[dict[int, float]] = []
    for step in range(60):
        left, right = walker(10 + 5 * step), (400 - 5 * step, 130, 460 - 5 * step, 300)
        tracks = tracker.update(detections(left, right), step / 25)
        seen.append({track.track_id: track.xyxy[0] for track in tracks})
    assert seen[0] == {}  # ByteTrack needs two detections
    assert all(set(frame) == {1, 2} for frame in seen[1:])
    first = seen[1]
    assert (first[1] < first[2]) == (seen[-1][1] > seen[-1][2])  # they have passed


def test_a_person_occluded_for_a_second_keeps_the_track_id() -> None:
    tracker = PersonTracker(10)
    for step in range(10):
        tracker.update(detections(walker(4 * step)), step / 10)
    for step in range(10, 20):
        assert tracker.update(detections(), step / 10) == []
    assert [track.track_id for track in tracker.update(detections(walker(80)), 2.0)] == [1]


def test_a_person_who_returns_after_the_buffer_is_a_new_track() -> None:
    tracker = PersonTracker(10)
    for step in range(10):
        tracker.update(detections(walker(4 * step)), step / 10)
    for step in range(10, 50):
        tracker.update(detections(), step / 10)
    tracker.update(detections(walker(80)), 5.0)
    assert [track.track_id for track in tracker.update(detections(walker(84)), 5.1)] == [2]


def test_the_times_of_frames_count_and_not_their_number() -> None:
    tracker = PersonTracker(25)
    for step in range(5):
        tracker.update(detections(walker(100)), step / 25)
    assert [track.track_id for track in tracker.update(detections(walker(100)), 1.0)] == [1]  # after one second
    tracker.update(detections(walker(100)), 9.0)
    assert [track.track_id for track in tracker.update(detections(walker(100)), 9.04)] == [2]  # after eight


def test_times_that_do_not_rise_are_no_problem() -> None:
    tracker = PersonTracker(25)
    for time in (5.0, 5.0, 4.0, 4.04, 5.04):
        tracks = tracker.update(detections(walker(100)), time)
    assert [track.track_id for track in tracks] == [1]


def test_a_low_score_continues_a_track_and_starts_none() -> None:
    tracker = PersonTracker(25)
    for step in range(5):
        assert tracker.update(detections(walker(0), scores=(0.3,)), step / 25) == []
    for step in range(5, 8):
        tracker.update(detections(walker(0)), step / 25)
    assert [track.track_id for track in tracker.update(detections(walker(0), scores=(0.3,)), 8 / 25)] == [1]


def test_single_pictures_are_not_tracked() -> None:
    tracker = PersonTracker(1)
    first = tracker.update(detections(walker(0), walker(200), walker(300), scores=(0.9, 0.8, 0.2)), 0.0)
    assert [(track.track_id, track.xyxy[0]) for track in first] == [(1, 0), (2, 200)]
    assert [track.track_id for track in tracker.update(detections(walker(0)), 1.0)] == [3]
    assert tracker.update(detections(), 2.0) == []
