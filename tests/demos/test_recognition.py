"""Recognition on frames of coloured rectangles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.fake_camera import (
    BLUE,
    CONTRACT,
    DETECTOR,
    GREEN,
    RED,
    Box,
    embedder,
    enrol,
    enrolled_names,
    frames_of,
    scene,
    vector_of,
)

from bot_deploy.camera_means import CameraMeans, stored_means
from bot_deploy.demos.enrolment import Enroller, open_enrolment_gallery
from bot_deploy.demos.recognition import (
    MIN_EMBEDDINGS_TO_ENROL,
    MIN_PARTIAL_EMBEDDINGS,
    STRANGER_AFTER_S,
    LiveRecognizer,
    RecognitionEvent,
    TrackedPerson,
)
from bot_deploy.errors import InputError, RunError
from bot_deploy.footage.videos import FIRST_NAMED_CAMERA
from bot_deploy.gallery import Index, index_folder
from bot_deploy.matching.identify import PersonIdentifier
from bot_deploy.video.detectors import Detections, Detector
from bot_deploy.video.sources import open_source


def walker(x: float, y: float = 60, tall: float = 150) -> Box:
    return x, y, x + 50, y + tall


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Index]:
    opened = open_enrolment_gallery(str(tmp_path / "g"), embedder())
    yield opened
    opened.close()


def watch(
    recognizer: LiveRecognizer, pictures: list[np.ndarray], first: int = 0
) -> tuple[list[list[TrackedPerson]], list[RecognitionEvent]]:
    """The people on each frame, and the events of all frames."""
    results = [recognizer.process_frame(frame) for frame in frames_of(pictures, first=first)]
    return [result.persons for result in results], [event for result in results for event in result.events]


def names(persons: list[TrackedPerson]) -> set[str | None]:
    return {person.name for person in persons}


def test_people_are_named_where_they_are(gallery: Index) -> None:
    enrol(gallery, Ann=RED, Bob=BLUE)
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10)
    seen, _ = watch(recognizer, [scene((RED, walker(10 + step)), (BLUE, walker(200 - step))) for step in range(6)])
    assert seen[0] == []  # ByteTrack needs two detections
    for step, persons in enumerate(seen[1:], start=1):
        assert {person.name: person.xyxy for person in persons} == {"Ann": walker(10 + step), "Bob": walker(200 - step)}
    assert all(person.candidate and person.candidate.score == pytest.approx(1, abs=1e-3) for person in seen[-1])


def test_each_recognition_is_one_event(gallery: Index) -> None:
    enrol(gallery, Ann=RED)
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10)
    pictures = [scene((RED, walker(10 + step)), (GREEN, walker(200))) for step in range(30)]
    _, events = watch(recognizer, pictures)
    assert [(event.kind, event.person.name) for event in events] == [("recognised", "Ann")]


def test_a_stranger_is_unknown(gallery: Index) -> None:
    enrol(gallery, Ann=RED)
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10)
    seen, _ = watch(recognizer, [scene((BLUE, walker(10)))] * 5)
    (person,) = seen[-1]
    assert person.name is None
    assert person.decision == "no match"
    assert person.candidate
    assert person.candidate.score == pytest.approx(float(vector_of(RED) @ vector_of(BLUE)), abs=2e-3)


def test_one_person_has_one_track_on_a_frame(gallery: Index) -> None:
    """Two people look like Ann; the more similar one is Ann."""
    enrol(gallery, Ann=RED)
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10)
    pale = (200, 60, 60)
    seen, _ = watch(recognizer, [scene((RED, walker(200)), (pale, walker(20)))] * 5)
    assert {person.xyxy[0]: person.name for person in seen[-1]} == {200: "Ann", 20: None}


def test_a_person_who_returns_is_recognised_and_not_enrolled_twice(gallery: Index) -> None:
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10, auto_enrol=True)
    away = [scene()] * 90
    pictures = (
        [scene((RED, walker(10 + step))) for step in range(40)]
        + away
        + [scene((BLUE, walker(10 + step))) for step in range(40)]
        + away
        + [scene((RED, walker(200 - step))) for step in range(40)]
    )
    _, events = watch(recognizer, pictures)
    found = [(event.kind, event.person.name, event.person.track_id) for event in events]
    assert found == [
        ("enrolled", "person-1", 1),
        ("left", "person-1", 1),
        ("enrolled", "person-2", 2),
        ("left", "person-2", 2),
        ("recognised", "person-1", 3),
    ]
    ends = [(event.person.first_seen, event.person.last_seen) for event in events if event.kind == "left"]
    assert ends == [(0.1, 3.9), (13.1, 16.9)]
    assert [event.person.last_seen for event in recognizer.finish()[0]] == [29.9]
    assert recognizer.finish()[0] == []
    assert len(gallery) == 2


@pytest.mark.parametrize("pause", [0.0, 30.0])
def test_a_pause_of_a_motion_recorder_keeps_tracking(pause: float, gallery: Index, tmp_path: Path) -> None:
    """Sixty frames, ten a second, of one person; with the pause, the mean rate is below two a second."""
    path = tmp_path / "motion.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", 1000)  # without loss, because the detector goes by exact colours
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "bgr0"
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(scene((RED, walker(10 + number))), format="rgb24")
            frame.pts, frame.time_base = round(100 * number + 1000 * pause * (number >= 30)), Fraction(1, 1000)
            container.mux(stream.encode(frame.reformat(format="bgr0")))
        container.mux(stream.encode(None))
    with open_source(str(path)) as source:
        recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, source.fps, auto_enrol=True)
        results = [recognizer.process_frame(frame) for frame in source]
    assert enrolled_names(gallery) == {"person-1"}
    tracks = [[person.track_id for person in result.persons] for result in results]
    # ByteTrack needs two detections; after half a minute it starts a new track.
    assert tracks == [[], *[[1]] * 29, *([[], *[[2]] * 29] if pause else [[1]] * 30)]


def test_automatic_enrolment_needs_enough_embeddings(gallery: Index) -> None:
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10, auto_enrol=True)
    watch(recognizer, [scene((RED, walker(10)))] * MIN_EMBEDDINGS_TO_ENROL)
    assert len(enrolled_names(gallery)) == 0
    watch(recognizer, [scene((RED, walker(10)))] * 2, MIN_EMBEDDINGS_TO_ENROL)
    assert len(enrolled_names(gallery)) == 1


def test_an_uncertain_person_is_enrolled_only_after_some_seconds(gallery: Index) -> None:
    enrol(gallery, Ann=(200, 0, 0))
    alike = (100, 160, 0)  # a cosine of 0.53 with Ann: uncertain
    assert PersonIdentifier(gallery, None).decide_score(float(vector_of(RED) @ vector_of(alike)), 1) == "uncertain"
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10, embed_every=1, auto_enrol=True)
    frames = round(10 * STRANGER_AFTER_S)
    watch(recognizer, [scene((alike, walker(10)))] * frames)
    assert len(enrolled_names(gallery)) == 1
    watch(recognizer, [scene((alike, walker(10)))] * 4, frames)
    assert len(enrolled_names(gallery)) == 2


def test_an_uncertain_sighting_is_one_event(gallery: Index) -> None:
    enrol(gallery, Ann=(200, 0, 0))
    alike = (100, 160, 0)  # see above
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10, embed_every=1)
    _, events = watch(recognizer, [scene((alike, walker(10)))] * 20 + [scene()] * 30)
    kinds = [(event.kind, event.person.decision, event.frame.time) for event in events]
    assert kinds == [("uncertain", "uncertain", MIN_EMBEDDINGS_TO_ENROL / 10), ("left", "uncertain", 1.9)]
    assert all(event.person.candidate and event.person.candidate.name == "Ann" for event in events)
    # Too short to be sure of it while it lasts.
    _, events = watch(recognizer, [scene((alike, walker(10)))] * 3 + [scene()] * 30, first=100)
    assert [(event.kind, event.person.last_seen) for event in events] == [("uncertain", 10.2), ("left", 10.2)]


def test_a_stranger_makes_no_event(gallery: Index) -> None:
    enrol(gallery, Ann=RED)
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10)
    _, events = watch(recognizer, [scene((BLUE, walker(10)))] * 20 + [scene()] * 30)
    assert events == []
    assert recognizer.finish() == {0: []}


def test_a_second_track_of_a_known_person_is_not_enrolled(gallery: Index) -> None:
    """Two boxes on Ann."""
    enrol(gallery, Ann=RED)
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10, embed_every=1, auto_enrol=True)
    watch(recognizer, [scene((RED, walker(200)), ((200, 60, 60), walker(20)))] * 60)
    assert len(enrolled_names(gallery)) == 1


def test_a_post_is_not_enrolled_until_it_walks(gallery: Index) -> None:
    """The detector is not sure of what stands still."""
    doubtful = Detector(
        "doubtful", lambda pixels: replace(DETECTOR.detect(pixels), confidence=np.array([0.6], np.float32))
    )
    recognizer = LiveRecognizer(doubtful, embedder(), gallery, 10, embed_every=1, auto_enrol=True)
    watch(recognizer, [scene((RED, walker(10)))] * 60)
    assert len(enrolled_names(gallery)) == 0
    watch(recognizer, [scene((RED, walker(10 + 4 * step))) for step in range(60)], 60)
    assert len(enrolled_names(gallery)) == 1


def test_automatic_enrolment_stops_after_a_failure(
    gallery: Index, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    enrol(gallery, Ann=RED)

    def full(*_: object) -> None:
        raise RunError("the disk is full")

    monkeypatch.setattr(Enroller, "enrol", full)
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10, auto_enrol=True)
    seen, _ = watch(recognizer, [scene((BLUE, walker(20)), (RED, walker(200)))] * 20)
    assert names(seen[-1]) == {"Ann", None}
    assert caplog.text.count("the disk is full") == 1


def test_a_name_given_by_hand_stays_on_an_occluded_track(gallery: Index) -> None:
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10, embed_every=1)
    desk = walker(100, y=100, tall=140)  # down to the frame's edge
    watch(recognizer, [scene((RED, desk))] * 4)
    recognizer.enrol(1, "Gus")
    for first in (4, 5):
        ((person,),), events = watch(recognizer, [scene((RED, desk))], first)
        assert person.name == "Gus"
        assert [event.kind for event in events] == (["enrolled"] if first == 4 else [])


def test_an_occluded_person_is_enrolled_later(gallery: Index) -> None:
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10, embed_every=1, auto_enrol=True)
    desk = walker(100, y=100, tall=140)  # down to the frame's edge
    watch(recognizer, [scene((RED, desk))] * MIN_PARTIAL_EMBEDDINGS)
    assert len(enrolled_names(gallery)) == 0
    watch(recognizer, [scene((RED, desk))] * 2, MIN_PARTIAL_EMBEDDINGS)
    assert len(enrolled_names(gallery)) == 1


def test_an_occluded_person_is_named_later(gallery: Index) -> None:
    enrol(gallery, Ann=RED)
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10, embed_every=1)
    desk = walker(100, y=100, tall=140)  # down to the frame's edge
    seen, _ = watch(recognizer, [scene((RED, desk))] * (MIN_PARTIAL_EMBEDDINGS + 1))
    decisions = [person.decision for persons in seen[1:] for person in persons]
    assert decisions == ["uncertain"] * (MIN_PARTIAL_EMBEDDINGS - 1) + ["match"]


def test_a_passer_by_does_not_take_the_name_away(gallery: Index) -> None:
    """A nearer person covers Ann for a moment: her box shows another colour."""
    enrol(gallery, Ann=RED, Bob=BLUE)
    box = Detections(np.array([walker(100)], np.float32), np.array([0.9], np.float32))
    recognizer = LiveRecognizer(Detector("a fake", lambda _: box), embedder(), gallery, 10, embed_every=1)
    red, blue = scene((RED, walker(100))), scene((BLUE, walker(100)))
    seen, _ = watch(recognizer, [red] * 10 + [blue] * 2 + [red] * 10)
    assert {name for persons in seen[1:] for name in names(persons)} == {"Ann"}


def test_a_track_that_jumps_to_another_person_gets_the_other_name(gallery: Index) -> None:
    enrol(gallery, Ann=RED, Bob=BLUE)
    box = Detections(np.array([walker(100)], np.float32), np.array([0.9], np.float32))
    recognizer = LiveRecognizer(Detector("a fake", lambda _: box), embedder(), gallery, 10, embed_every=1)
    _, events = watch(recognizer, [scene((RED, walker(100)))] * 10 + [scene((BLUE, walker(100)))] * 10)
    assert [(event.kind, event.person.name) for event in events] == [
        ("recognised", "Ann"),
        ("left", "Ann"),
        ("recognised", "Bob"),
    ]


def test_enrolling_by_hand_names_the_track(gallery: Index) -> None:
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10)
    frames = frames_of([scene((RED, walker(10)), (BLUE, walker(200)))] * 12)
    for _ in range(4):
        persons, _ = recognizer.process_frame(next(frames))
    red = next(person.track_id for person in persons if person.xyxy[0] == 10)
    assert recognizer.enrol(red, "Ann") == "Ann"
    persons, events = recognizer.process_frame(next(frames))
    assert {person.xyxy[0]: person.name for person in persons} == {10: "Ann", 200: None}
    assert [(event.kind, event.person.name) for event in events] == [("enrolled", "Ann")]
    assert recognizer.process_frame(next(frames)).events == []
    assert recognizer.enrol(3 - red) == "person-1"


@pytest.mark.parametrize("name", ["../x", "cam1"])
def test_a_bad_name_enrols_nobody(gallery: Index, name: str) -> None:
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10)
    watch(recognizer, [scene((RED, walker(10)))] * 3)
    with pytest.raises(InputError):
        recognizer.enrol(1, name)
    with pytest.raises(InputError, match="gone"):
        recognizer.enrol(2, "Ann")
    assert len(enrolled_names(gallery)) == 0


def test_other_views_of_an_automatically_enrolled_person_are_enrolled(gallery: Index) -> None:
    """The colour drifts from red over yellow to green; each step is like the last, the ends are not."""
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10, embed_every=1, auto_enrol=True)
    turns = [(200, green, 0) for green in range(0, 200, 4)] + [(red, 200, 0) for red in range(200, 96, -4)]
    watch(recognizer, [scene((colour, walker(10))) for colour in turns])
    assert len(enrolled_names(gallery)) == 1
    assert len(gallery) > 1
    turned = vector_of((100, 200, 0))
    best = PersonIdentifier(gallery, None).candidates(turned)[0]
    assert best.score > float(turned @ vector_of(RED)) + 0.05


def test_single_pictures_are_recognised_one_by_one(gallery: Index) -> None:
    enrol(gallery, Ann=RED)
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 1)
    pictures = [scene((RED, walker(10))), scene((BLUE, walker(10))), scene((RED, walker(10)))]
    assert [names(persons) for persons in watch(recognizer, pictures)[0]] == [{"Ann"}, {None}, {"Ann"}]


def test_enrolled_crops_have_the_number_of_their_camera(gallery: Index) -> None:
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10, camera_numbers=[7])
    watch(recognizer, [scene((RED, walker(10 + step))) for step in range(4)])
    recognizer.enrol(1, "Ann")
    named = LiveRecognizer(DETECTOR, embedder(), gallery, 10, camera_numbers=[FIRST_NAMED_CAMERA + 5])
    watch(named, [scene((BLUE, walker(10 + step))) for step in range(4)])
    named.enrol(1, "Bob")
    cameras = {item.identity: (item.camera, "_c" in item.path) for item in gallery.items()}
    assert cameras == {"Ann": (7, True), "Bob": (FIRST_NAMED_CAMERA + 5, False)}
    # The index of the folder of crops finds nothing new.
    update = index_folder(gallery, gallery.root, embedder())
    assert (update.new, update.changed, update.removed) == (0, 0, 0)
    assert {item.identity: (item.camera, "_c" in item.path) for item in gallery.items()} == cameras


def test_an_adapted_model_learns_a_new_camera_once_from_each_person(gallery: Index) -> None:
    enrol(gallery, Ann=RED)
    overall = np.array([0.2, 0.2, 0.2], np.float32)
    means = stored_means(CameraMeans(overall, {3: overall}, {3: 100}), 100)
    adapted = embedder(replace(CONTRACT, camera_means=means))
    recognizer = LiveRecognizer(DETECTOR, adapted, gallery, 10, embed_every=1, camera_numbers=[8])
    seen: list[tuple[int, np.ndarray]] = []
    learn = recognizer.identifier.learn_camera

    def learn_and_note(camera: int, vector: np.ndarray) -> None:
        seen.append((camera, vector))
        learn(camera, vector)

    recognizer.identifier.learn_camera = learn_and_note  # type: ignore[method-assign]
    watch(recognizer, [scene((RED, walker(10 + step)), (BLUE, walker(200 - step))) for step in range(20)])
    assert [camera for camera, _ in seen] == [8, 8]
    assert sorted(int(vector.argmax()) for _, vector in seen) == [0, 2]
    score = recognizer.identifier.candidates(vector_of(RED), 8)[0].score
    learned = (vector_of(RED) + vector_of(BLUE) + 25 * overall) / 27
    query, known = vector_of(RED) - learned, vector_of(RED) - overall
    assert score == pytest.approx(float(query @ known / np.linalg.norm(query) / np.linalg.norm(known)), abs=1e-3)
