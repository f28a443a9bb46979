"""The parts that make appearances: the motion gate, the choice of crops, and what is no person."""

from __future__ import annotations

import numpy as np
import pytest

from bot_deploy.video.appearances import _split_at_changes, _usual
from bot_deploy.video.best_crops import MAX_CANDIDATES, MAX_CROPS, Candidate, Candidates, choose_crops, sharpness
from bot_deploy.video.likeness import (
    TrackPart,
    describe_track,
    divide_track,
    shows_thing,
    usual_box,
    why_no_person,
)
from bot_deploy.video.motion import HOLD_S, STILL_LOOK_S, MotionGate
from bot_deploy.video.read_ahead import read_ahead
from bot_deploy.video.tracks import TrackedBox

RNG = np.random.default_rng(0)
EMPTY = RNG.integers(60, 200, (54, 96)).astype(np.uint8)


def noisy(brighter: int = 0, *, person_at: int | None = None) -> np.ndarray:
    """The scene `EMPTY` with noise and another exposure, perhaps with somebody of 5x2 blocks."""
    picture = EMPTY.astype(np.int16) + RNG.normal(0, 1, EMPTY.shape).round().astype(np.int16) + brighter
    if person_at is not None:
        picture[20:25, person_at : person_at + 2] = 20
    return picture.clip(0, 255).astype(np.uint8)


def looks(pictures: list[np.ndarray], *, people_present: bool = False, fps: float = 6) -> list[bool]:
    gate = MotionGate()
    return [gate.needs_look(one, place / fps, people_present=people_present) for place, one in enumerate(pictures)]


def test_nothing_is_looked_at_where_nothing_moves() -> None:
    still = looks([noisy() for _ in range(120)])
    assert sum(still) <= 1 + 6 * HOLD_S  # the first picture, and shortly after
    assert not any(still[7:])
    brightening = looks([noisy(place // 3) for place in range(120)])
    assert not any(brightening[7:])


def test_somebody_who_walks_is_looked_at_on_every_picture() -> None:
    seen = looks([noisy() for _ in range(30)] + [noisy(person_at=place) for place in range(60)] + [noisy()] * 30)
    assert not any(seen[7:30])
    assert all(seen[30:91])
    assert not any(seen[100:])


def test_people_who_stand_still_are_looked_at_now_and_then() -> None:
    seen = looks([noisy(person_at=40) for _ in range(60)], people_present=True)
    assert sum(seen[7:]) == pytest.approx(53 / 6 / STILL_LOOK_S, abs=2)


def candidate(time: float, quality: float = 1, *, is_whole: bool = True) -> Candidate:
    return Candidate(np.zeros((4, 2, 3), np.uint8), round(10 * time), time, (0, 0, 2, 4), is_whole, quality)


def test_candidates_are_spread_over_the_time_and_the_best_of_their_span() -> None:
    kept = Candidates(0)
    qualities = RNG.uniform(size=1000)
    for place, quality in enumerate(qualities):
        kept.add(candidate(place / 10, float(quality)))
    found = kept.in_order()
    assert MAX_CANDIDATES / 2 <= len(found) <= MAX_CANDIDATES
    span = 1000 // len(found)
    times = [one.time for one in found]
    assert times == sorted(times)
    assert max(np.diff(times)) < 2.5 * span / 10
    assert max(one.quality for one in found) == qualities.max()
    assert min(one.quality for one in found) > 0.8  # the best of over fifty


def test_whole_people_come_first() -> None:
    kept = Candidates(0)
    for place in range(20):
        kept.add(candidate(place / 2, quality=10, is_whole=False))
    assert len(kept.in_order()) > 5
    kept.add(candidate(4.2, quality=1))
    assert [one.is_whole for one in kept.in_order()] == [True]


def test_the_choice_is_the_best_and_what_is_unlike_it() -> None:
    directions = np.eye(4, dtype=np.float32)
    vectors = np.concatenate([directions[:3]] * 4)
    candidates = [candidate(place, quality=1 + (place == 7)) for place in range(12)]
    chosen = choose_crops(candidates, vectors)
    assert 7 in chosen
    assert sorted(place % 3 for place in chosen) == [0, 1, 2]  # equal ones once
    many = RNG.normal(size=(12, 30)).astype(np.float32)
    many /= np.linalg.norm(many, axis=1, keepdims=True)
    assert len(choose_crops(candidates, many)) == MAX_CROPS


def test_sharp_crops_are_sharper_than_blurred_and_small_ones() -> None:
    import cv2

    sharp = RNG.integers(0, 256, (256, 128, 3)).astype(np.uint8)
    sharp = np.repeat(np.repeat(sharp[::4, ::4], 4, axis=0), 4, axis=1)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 4)
    small = cv2.resize(sharp, (16, 32), interpolation=cv2.INTER_AREA)
    assert sharpness(sharp) > 3 * sharpness(blurred)
    assert sharpness(sharp) > 3 * sharpness(small)


def track(count: int, confidence: float, step: float = 0.0, width: float = 40) -> list[TrackedBox]:
    return [
        TrackedBox(1, (100 + step * place, 50, 100 + width + step * place, 150), confidence) for place in range(count)
    ]


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        (track(30, 0.6, step=10), ""),
        (track(8, 0.6, step=10), ""),
        (track(25, 0.6) + track(5, 0.6, step=40), "never moves, and the detector doubts it (mean confidence 0.60)"),
        (track(30, 0.9), ""),  # stands, and the detector is sure
        (track(30, 0.6), "never moves, and the detector doubts it (mean confidence 0.60)"),
        (track(30, 0.3, step=10), "the detector doubts it (mean confidence 0.30)"),
        (track(2, 0.9, step=10), "seen on 2 pictures only"),
        (track(30, 0.9, step=10, width=120), "wider than a person (width / height 1.20)"),
    ],
)
def test_what_is_no_person(boxes: list[TrackedBox], reason: str) -> None:
    assert why_no_person(describe_track(boxes)) == reason


def test_a_post_on_the_way_is_no_part_of_the_person() -> None:
    """Somebody walks up to a post, which takes over the track for a while, and somebody else walks away from it."""
    walk = [TrackedBox(1, (3.0 * step, 0, 3.0 * step + 40, 100), 0.8) for step in range(20)]
    post = [TrackedBox(1, (90.0 + step % 3, 0, 130.0 + step % 3, 100), 0.4) for step in range(15)]
    away = [TrackedBox(1, (130.0 + 4 * step, 0, 170.0 + 4 * step, 100), 0.8) for step in range(20)]
    parts = divide_track([*walk, *post, *away])
    reason = "stays at a place where the detector doubts it (mean confidence 0.40)"
    assert parts == [TrackPart(0, 20, ""), TrackPart(20, 35, reason), TrackPart(35, 55, "")]
    sure = [box._replace(confidence=0.6) for box in post]  # somebody who waits
    assert divide_track([*walk, *sure, *away]) == [TrackPart(0, 55, "")]
    assert divide_track([*walk, *post[:9], *away]) == [TrackPart(0, 49, "")]
    assert divide_track(post) == [TrackPart(0, 15, "the detector doubts it (mean confidence 0.40)")]


def test_a_thing_is_known_again_at_its_place() -> None:
    thing = usual_box([TrackedBox(1, (90.0 + step, 0, 110.0 + step, 50), 0.4) for step in (0, 1, 9)])
    assert thing == (91, 0, 111, 50)
    assert shows_thing((91, 0, 111, 100), [thing])  # an IoU of 0.5
    assert not shows_thing((91, 0, 111, 101), [thing])
    assert not shows_thing((200, 0, 220, 50), [thing])
    assert not shows_thing((91, 0, 111, 50), [])


def test_a_track_is_divided_where_it_goes_over_to_another_person() -> None:
    first, second = np.eye(2, 8, dtype=np.float32)
    vectors = np.stack([first] * 5 + [second] * 4)
    vectors += RNG.normal(0, 0.02, vectors.shape).astype(np.float32)
    assert _split_at_changes(0, vectors, 0.4) == [(0, 5), (5, 9)]
    assert _split_at_changes(0, vectors[:6], 0.4) == [(0, 6)]  # one crop may be an outlier
    assert _usual(vectors[:6], 0.5) == [0, 1, 2, 3, 4]
    assert _split_at_changes(0, vectors[:1], 0.4) == [(0, 1)]


def test_reading_ahead_gives_the_same_and_raises_the_same() -> None:
    assert list(read_ahead(range(100), 7)) == list(range(100))
    assert list(read_ahead([], 3)) == []

    def fails() -> object:
        yield 1
        raise OSError("broken")

    ahead = read_ahead(fails(), 4)  # type: ignore[arg-type]
    assert next(ahead) == 1
    with pytest.raises(OSError, match="broken"):
        next(ahead)
