"""A frame to the people on it, in a world of coloured rectangles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_camera import BLUE, DETECTOR, GREEN, ORANGE, RED, Box, embed, embedder, film, scene

from bot_deploy.demos.enrolment import People, open_people
from bot_deploy.demos.recognition import HALF_SETTLED, LONG, SETTLED, Live, Sighting, cut, is_clear
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError, RunError
from bot_deploy.video.detectors import Boxes, Detector


def walker(x: float, y: float = 60, tall: float = 150) -> Box:
    return x, y, x + 50, y + tall


@pytest.fixture
def people(tmp_path: Path) -> Iterator[People]:
    found = open_people(str(tmp_path / "g"), embedder())
    yield found
    found.gallery.close()


def know(people: People, **colours: tuple[int, int, int]) -> None:
    for name, colour in colours.items():
        pixels = scene((colour, (0, 0, 320, 240)))
        people.enrol(name, pixels, embed(pixels[None])[0])


def watch(live: Live, pictures: list[np.ndarray], first: int = 0) -> list[list[Sighting]]:
    return [live.look(frame) for frame in film(pictures, first=first)]


def names(sightings: list[Sighting]) -> set[str | None]:
    return {one.name for one in sightings}


def test_people_are_named_where_they_are(people: People) -> None:
    know(people, Ann=RED, Bob=BLUE)
    live = Live(DETECTOR, embedder(), people, 10)
    seen = watch(live, [scene((RED, walker(10 + step)), (BLUE, walker(200 - step))) for step in range(6)])
    assert seen[0] == []  # it may be nothing
    for step, sightings in enumerate(seen[1:], start=1):
        assert {one.name: one.corners for one in sightings} == {"Ann": walker(10 + step), "Bob": walker(200 - step)}
    assert all(one.who and one.who.score == pytest.approx(1, abs=1e-3) for one in seen[-1])


def test_each_recognition_is_told_once(people: People) -> None:
    know(people, Ann=RED)
    live = Live(DETECTOR, embedder(), people, 10)
    told = []
    for frame in film([scene((RED, walker(10 + step)), (GREEN, walker(200))) for step in range(30)]):
        live.look(frame)
        told += [(event.kind, event.sighting.name, event.sighting.track) for event in live.events]
    assert [(kind, name) for kind, name, _ in told] == [("recognised", "Ann")]


def test_a_stranger_is_unknown(people: People) -> None:
    know(people, Ann=RED)
    live = Live(DETECTOR, embedder(), people, 10)
    *_, (sighting,) = watch(live, [scene((BLUE, walker(10)))] * 5)
    assert sighting.name is None
    assert sighting.decision == "no match"
    assert sighting.who
    assert sighting.who.score == pytest.approx(float(detect_vector(RED) @ detect_vector(BLUE)), abs=2e-3)


def detect_vector(colour: tuple[int, int, int]) -> np.ndarray:
    return embed(np.full((1, 4, 4, 3), colour, np.uint8))[0]


def test_nobody_is_in_two_places(people: People) -> None:
    """Two who look like Ann: the one who looks more like her is Ann."""
    know(people, Ann=RED)
    live = Live(DETECTOR, embedder(), people, 10)
    pale = (200, 60, 60)
    *_, last = watch(live, [scene((RED, walker(200)), (pale, walker(20)))] * 5)
    assert {one.corners[0]: one.name for one in last} == {200: "Ann", 20: None}


def test_who_returns_is_recognised_and_nobody_is_enrolled_twice(people: People) -> None:
    live = Live(DETECTOR, embedder(), people, 10, auto_enrol=True)
    away = [scene()] * 90
    kinds = []
    for frame in film(
        [scene((RED, walker(10 + step))) for step in range(40)]
        + away
        + [scene((BLUE, walker(10 + step))) for step in range(40)]
        + away
        + [scene((RED, walker(200 - step))) for step in range(40)]
    ):
        live.look(frame)
        kinds += [(event.kind, event.sighting.name, event.sighting.track) for event in live.events]
    assert kinds == [("enrolled", "person-1", 1), ("enrolled", "person-2", 2), ("recognised", "person-1", 3)]
    assert len(people.gallery) == 2


def test_only_who_was_seen_long_enough_is_enrolled_by_itself(people: People) -> None:
    live = Live(DETECTOR, embedder(), people, 10, auto_enrol=True)
    watch(live, [scene((RED, walker(10)))] * SETTLED)
    assert len(people) == 0
    watch(live, [scene((RED, walker(10)))] * 2, SETTLED)
    assert len(people) == 1


def test_who_resembles_somebody_a_little_is_enrolled_only_after_long(people: People) -> None:
    know(people, Ann=(200, 0, 0))
    alike = (100, 160, 0)  # a cosine of 0.53 with Ann: uncertain
    assert people.decide(float(detect_vector(RED) @ detect_vector(alike))) == "uncertain"
    live = Live(DETECTOR, embedder(), people, 10, every=1, auto_enrol=True)
    long = round(10 * LONG)
    watch(live, [scene((alike, walker(10)))] * long)
    assert len(people) == 1
    watch(live, [scene((alike, walker(10)))] * 4, long)
    assert len(people) == 2


def test_who_matches_somebody_who_is_there_already_is_not_enrolled(people: People) -> None:
    """Two boxes on Ann."""
    know(people, Ann=RED)
    live = Live(DETECTOR, embedder(), people, 10, every=1, auto_enrol=True)
    watch(live, [scene((RED, walker(200)), ((200, 60, 60), walker(20)))] * 60)
    assert len(people) == 1


def test_nobody_is_enrolled_any_more_once_that_fails(
    people: People, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    know(people, Ann=RED)

    def full(*_: object) -> None:
        raise RunError("the disk is full")

    monkeypatch.setattr(people, "enrol", full)
    live = Live(DETECTOR, embedder(), people, 10, auto_enrol=True)
    seen = watch(live, [scene((BLUE, walker(20)), (RED, walker(200)))] * 20)
    assert names(seen[-1]) == {"Ann", None}
    assert caplog.text.count("the disk is full") == 1


def test_a_name_given_by_hand_holds_for_half_a_person(people: People) -> None:
    live = Live(DETECTOR, embedder(), people, 10, every=1)
    desk = walker(100, y=100, tall=140)  # down to the frame's edge
    watch(live, [scene((RED, desk))] * 4)
    live.enrol(1, "Gus")
    for first in (4, 5):
        (sighting,) = watch(live, [scene((RED, desk))], first)[0]
        assert sighting.name == "Gus"
        assert [event.kind for event in live.events] == (["enrolled"] if first == 4 else [])


def test_half_a_person_takes_longer(people: People) -> None:
    live = Live(DETECTOR, embedder(), people, 10, every=1, auto_enrol=True)
    desk = walker(100, y=100, tall=140)  # down to the frame's edge
    watch(live, [scene((RED, desk))] * HALF_SETTLED)
    assert len(people) == 0
    watch(live, [scene((RED, desk))] * 2, HALF_SETTLED)
    assert len(people) == 1


def test_a_part_of_a_person_is_named_only_after_long(people: People) -> None:
    know(people, Ann=RED)
    live = Live(DETECTOR, embedder(), people, 10, every=1)
    desk = walker(100, y=100, tall=140)  # down to the frame's edge
    seen = watch(live, [scene((RED, desk))] * (HALF_SETTLED + 1))
    assert [one.decision for sightings in seen[1:] for one in sightings] == ["uncertain"] * (HALF_SETTLED - 1) + [
        "match"
    ]


def test_a_passer_by_does_not_take_the_name_away(people: People) -> None:
    """Somebody nearer covers Ann for a moment: her box shows another colour."""
    know(people, Ann=RED, Bob=BLUE)
    found = [Boxes(np.array([walker(100)], np.float32), np.array([0.9], np.float32))]
    live = Live(Detector("a fake", lambda _: found[0]), embedder(), people, 10, every=1)
    seen = watch(live, [scene((RED, walker(100)))] * 10 + [scene((BLUE, walker(100)))] * 2)
    seen += watch(live, [scene((RED, walker(100)))] * 10, 12)
    assert {name for sightings in seen[1:] for name in names(sightings)} == {"Ann"}


def test_a_track_that_jumps_to_somebody_else_gets_the_other_name(people: People) -> None:
    know(people, Ann=RED, Bob=BLUE)
    box = Boxes(np.array([walker(100)], np.float32), np.array([0.9], np.float32))
    live = Live(Detector("a fake", lambda _: box), embedder(), people, 10, every=1)
    told = []
    for frame in film([scene((RED, walker(100)))] * 10 + [scene((BLUE, walker(100)))] * 10):
        live.look(frame)
        told += [event.sighting.name for event in live.events]
    assert told == ["Ann", "Bob"]


def test_a_track_is_embedded_every_nth_frame_once_it_is_settled(people: People) -> None:
    batches: list[int] = []

    def counted(pictures: np.ndarray) -> np.ndarray:
        batches.append(len(pictures))
        return embed(pictures)

    live = Live(DETECTOR, Embedder(embedder().contract, "a fake", counted), people, 10, every=5)
    watch(live, [scene((RED, walker(10)), (BLUE, walker(100)))] * 41)
    # Seen from the second frame on, both in one batch: five in a row, then every fifth frame.
    assert batches == [2] * (SETTLED + (40 - SETTLED) // 5)


def test_enrolling_by_hand_names_the_track_and_everybody_like_it(people: People) -> None:
    live = Live(DETECTOR, embedder(), people, 10)
    frames = film([scene((RED, walker(10)), (BLUE, walker(200)))] * 12)
    for _ in range(4):
        seen = live.look(next(frames))
    red = next(one.track for one in seen if one.corners[0] == 10)
    assert live.enrol(red, "Ann") == "Ann"
    last = live.look(next(frames))
    assert {one.corners[0]: one.name for one in last} == {10: "Ann", 200: None}
    assert [(event.kind, event.sighting.name) for event in live.events] == [("enrolled", "Ann")]
    live.look(next(frames))
    assert live.events == []
    assert live.enrol(3 - red) == "person-1"


@pytest.mark.parametrize("name", ["../x", "cam1"])
def test_a_bad_name_enrols_nobody(people: People, name: str) -> None:
    live = Live(DETECTOR, embedder(), people, 10)
    watch(live, [scene((RED, walker(10)))] * 3)
    with pytest.raises(InputError):
        live.enrol(1, name)
    with pytest.raises(InputError, match="gone"):
        live.enrol(2, "Ann")
    assert len(people) == 0


def test_an_enrolled_person_who_turns_round_is_kept_from_that_side_too(people: People) -> None:
    """The colour drifts from red over yellow to green; each step is like the last, the ends are not."""
    live = Live(DETECTOR, embedder(), people, 10, every=1, auto_enrol=True)
    turns = [(200, green, 0) for green in range(0, 200, 4)] + [(red, 200, 0) for red in range(200, 96, -4)]
    watch(live, [scene((colour, walker(10))) for colour in turns])
    assert len(people) == 1
    assert len(people.gallery) > 1
    turned = detect_vector((100, 200, 0))
    assert people.candidates(turned)[0].score > float(turned @ detect_vector(RED)) + 0.05


def test_still_pictures_are_each_looked_at_alone(people: People) -> None:
    know(people, Ann=RED)
    live = Live(DETECTOR, embedder(), people, 1)
    pictures = [scene((RED, walker(10))), scene((BLUE, walker(10))), scene((RED, walker(10)))]
    assert [names(sightings) for sightings in watch(live, pictures)] == [{"Ann"}, {None}, {"Ann"}]


def test_clear_is_not_cut_and_not_behind() -> None:
    pixels = scene()
    assert is_clear(walker(100), [], pixels)
    assert not is_clear(walker(0), [], pixels)
    assert not is_clear(walker(100, y=100, tall=140), [], pixels)
    nearer, farther = walker(120, y=70), walker(120, y=50)
    assert not is_clear(walker(100), [nearer], pixels)
    assert is_clear(walker(100), [farther], pixels)
    assert is_clear(walker(100), [walker(140, y=70)], pixels)  # a fifth of it
    assert not is_clear((100, 60, 210, 210), [], pixels)  # too wide for a whole person


def test_cutting_stays_inside_the_frame() -> None:
    pixels = scene((GREEN, walker(100)), (ORANGE, walker(270)))
    assert (cut(pixels, walker(100)) == GREEN).all()
    assert cut(pixels, (300.4, 200.0, 400.0, 300.0)).shape == (40, 20, 3)
    assert cut(pixels, (400.0, 300.0, 400.0, 300.0)).shape == (1, 1, 3)
