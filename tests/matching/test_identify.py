"""Identification: candidates for an embedding, and the decision for a score."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_camera import BLUE, CONTRACT, GREEN, ORANGE, RED, crop_of, embedder, enrol, vector_of
from PIL import Image

from bot_deploy import gallery as galleries
from bot_deploy.artifacts.contract import Calibration
from bot_deploy.camera_means import CameraMeans
from bot_deploy.gallery import Index
from bot_deploy.matching.identify import (
    SEARCH_SIZE,
    UNCALIBRATED_THRESHOLD,
    UNCERTAIN_MARGIN,
    PersonIdentifier,
    person_name,
)
from bot_deploy.matching.verdict import OTHER_CAMERAS
from bot_deploy.video.track_embedding import UNCALIBRATED_OUTLIER

CALIBRATION = Calibration(
    data="x",
    genuine_pairs=9,
    impostor_pairs=9,
    target_false_accept_rate=1e-3,
    threshold=0.7,
    reject_threshold=0.3,
    false_reject_rate=0.1,
    curve=((0.0, 0.5), (0.3, 0.01), (0.7, 0.001)),
)


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Index]:
    with closing(galleries.open_or_create_index(str(tmp_path / "g"), CONTRACT, tmp_path / "crops")) as opened:
        yield opened


def test_several_images_of_one_person_are_one_candidate_with_the_best_score(gallery: Index) -> None:
    enrol(gallery, Ann=RED, Bob=BLUE)
    enrol(gallery, Ann=ORANGE)
    ann, bob = PersonIdentifier(gallery, None).candidates(vector_of(ORANGE))
    assert (ann.name, bob.name) == ("Ann", "Bob")
    assert ann.score == pytest.approx(1, abs=1e-3)
    assert bob.score == pytest.approx(vector_of(ORANGE) @ vector_of(BLUE), abs=1e-3)


def test_many_images_of_one_person_hide_no_other_person(gallery: Index) -> None:
    for shade in range(SEARCH_SIZE + 6):
        enrol(gallery, Ann=(200, shade, 0))
    enrol(gallery, Bob=BLUE)
    candidates = PersonIdentifier(gallery, None).candidates(vector_of(RED))
    assert [candidate.name for candidate in candidates] == ["Ann", "Bob"]


def test_junk_and_distractors_are_no_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "crops"
    folder.mkdir()
    for name, colour in (("0007_c1s1_000001_00", RED), ("-1_c1s1_000001_01", BLUE), ("0000_c1s1_000001_02", GREEN)):
        Image.fromarray(crop_of(colour)).save(folder / f"{name}.png")
    opened, _ = galleries.open_folder_gallery(folder, embedder())
    with closing(opened):
        assert sorted(str(person_name(item)) for item in opened.items()) == ["0007", "None", "None"]
        candidates = PersonIdentifier(opened, None).candidates(vector_of(BLUE))
        assert [candidate.name for candidate in candidates] == ["0007"]


def test_decisions_without_calibration(gallery: Index) -> None:
    identifier = PersonIdentifier(gallery, None)
    scores = (UNCALIBRATED_THRESHOLD, UNCALIBRATED_THRESHOLD - 0.01, UNCALIBRATED_THRESHOLD - UNCERTAIN_MARGIN - 0.01)
    assert [identifier.decide_score(score, 1) for score in scores] == ["match", "uncertain", "no match"]
    assert identifier.outlier_threshold == pytest.approx(UNCALIBRATED_THRESHOLD - UNCERTAIN_MARGIN)
    assert identifier.describe_rule().endswith("0.600 or more; not calibrated; `bot calibrate` finds a threshold")
    assert PersonIdentifier(gallery, None, 0.8).decide_score(0.79, 1) == "uncertain"


def test_decisions_follow_the_calibration(gallery: Index) -> None:
    enrol(gallery, Ann=RED)
    identifier = PersonIdentifier(gallery, CALIBRATION)
    assert [identifier.decide_score(score, 1) for score in (0.71, 0.69, 0.29)] == ["match", "uncertain", "no match"]
    assert identifier.decide_score(0.71, 10**9) == "uncertain"  # strangers in so many images score as high
    assert identifier.outlier_threshold == 0.3
    by_tracks = PersonIdentifier(gallery, replace(CALIBRATION, is_labelled=False))
    assert by_tracks.outlier_threshold == UNCALIBRATED_OUTLIER  # that of strangers says nothing about one track
    assert [identifier.reaches_threshold(score) for score in (0.71, 0.69)] == [True, False]
    here = PersonIdentifier(gallery, replace(CALIBRATION, cameras=(1, 2)))
    assert here.describe_rule([1, None]) == "a match needs a cosine of 0.700 or more; calibrated"
    elsewhere = f"a match needs a cosine of 0.700 or more; {OTHER_CAMERAS}"
    assert here.describe_rule([1, 3]) == elsewhere
    assert PersonIdentifier(gallery, replace(CALIBRATION, cameras=())).describe_rule([1]) == elsewhere


def test_a_minimum_score_replaces_the_calibration(gallery: Index) -> None:
    identifier = PersonIdentifier(gallery, CALIBRATION, 0.4)
    assert identifier.decide_score(0.45, 1) == "match"
    assert identifier.reaches_threshold(0.45)
    assert identifier.outlier_threshold == pytest.approx(0.4 - UNCERTAIN_MARGIN)


def test_an_adapted_model_uses_the_mean_of_the_camera_and_learns_those_of_new_ones(gallery: Index) -> None:
    enrol(gallery, Ann=RED, Bob=BLUE)
    overall, third = np.array([0.1, 0.1, 0.1], np.float32), np.array([0.5, 0.0, 0.1], np.float32)
    identifier = PersonIdentifier(gallery, None, means=CameraMeans(overall, {3: third, 4: overall}, {3: 100, 4: 24}))

    def score(mean: np.ndarray, name: str) -> float:
        query, known = vector_of(ORANGE) - mean, vector_of(RED if name == "Ann" else BLUE) - overall
        return float(query @ known / np.linalg.norm(query) / np.linalg.norm(known))

    for camera, mean in ((None, overall), (3, third), (8, overall)):
        for found in identifier.candidates(vector_of(ORANGE), camera):
            assert found.score == pytest.approx(score(mean, found.name), abs=1e-3)
    for _ in range(5):
        identifier.learn_camera(3, vector_of(GREEN))  # the model is adapted to this one
        identifier.learn_camera(8, vector_of(GREEN))
    identifier.learn_camera(4, vector_of(GREEN))  # too few crops for a mean of its own
    assert identifier.means
    assert (identifier.means.crops[3], identifier.means.crops[4]) == (100, 25)
    learned = (5 * vector_of(GREEN) + 25 * overall) / 30
    for camera, mean in ((3, third), (8, learned)):
        for found in identifier.candidates(vector_of(ORANGE), camera):
            assert found.score == pytest.approx(score(mean, found.name), abs=1e-3)
