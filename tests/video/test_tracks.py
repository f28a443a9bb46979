"""Boxes to tracks."""

from __future__ import annotations

import numpy as np

from bot_deploy.video.detectors import Boxes
from bot_deploy.video.tracks import Tracks


def boxes(*corners: tuple[float, float, float, float], scores: tuple[float, ...] | None = None) -> Boxes:
    return Boxes(np.array(corners, np.float32).reshape(-1, 4), np.array(scores or [0.9] * len(corners), np.float32))


def walker(x: float) -> tuple[float, float, float, float]:
    return x, 100, x + 50, 250


def test_two_people_who_walk_towards_each_other_keep_their_numbers() -> None:
    tracks = Tracks(25)
    seen: list[dict[int, float]] = []
    for step in range(60):
        left, right = walker(10 + 5 * step), (400 - 5 * step, 130, 460 - 5 * step, 300)
        seen.append({one.number: one.corners[0] for one in tracks.update(boxes(left, right))})
    assert seen[0] == {}  # seen once: it may be nothing
    assert all(set(frame) == {1, 2} for frame in seen[1:])
    first = seen[1]
    assert (first[1] < first[2]) == (seen[-1][1] > seen[-1][2])  # they have passed each other


def test_one_who_is_hidden_for_a_second_keeps_the_number() -> None:
    tracks = Tracks(10)
    for step in range(10):
        tracks.update(boxes(walker(4 * step)))
    for _ in range(10):
        assert tracks.update(boxes()) == []
    assert [one.number for one in tracks.update(boxes(walker(80)))] == [1]


def test_one_who_was_away_for_long_is_a_new_track() -> None:
    tracks = Tracks(10)
    for step in range(10):
        tracks.update(boxes(walker(4 * step)))
    for _ in range(40):
        tracks.update(boxes())
    tracks.update(boxes(walker(80)))
    assert [one.number for one in tracks.update(boxes(walker(84)))] == [2]


def test_by_time_where_frames_were_dropped() -> None:
    tracks = Tracks(25)
    for step in range(5):
        tracks.update(boxes(walker(100)), time=step / 25)
    assert [one.number for one in tracks.update(boxes(walker(100)), time=1.0)] == [1]  # one second later
    tracks.update(boxes(walker(100)), time=9.0)
    assert [one.number for one in tracks.update(boxes(walker(100)), time=9.04)] == [2]  # eight seconds later


def test_a_faint_box_goes_on_with_a_track_and_begins_none() -> None:
    tracks = Tracks(25)
    for _ in range(5):
        assert tracks.update(boxes(walker(0), scores=(0.3,))) == []
    for _ in range(3):
        tracks.update(boxes(walker(0)))
    assert [one.number for one in tracks.update(boxes(walker(0), scores=(0.3,)))] == [1]


def test_still_pictures_are_not_tracked() -> None:
    tracks = Tracks(1)
    first = tracks.update(boxes(walker(0), walker(200), walker(300), scores=(0.9, 0.8, 0.2)))
    assert [(one.number, one.corners[0]) for one in first] == [(1, 0), (2, 200)]
    assert [one.number for one in tracks.update(boxes(walker(0)))] == [3]
    assert tracks.update(boxes()) == []
