"""How far the scores of a gallery have moved, against plain loops."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.fake_camera import CONTRACT, write_colour_model
from helpers.footage_index import write_footage_index

from bot_deploy.artifacts.contract import Calibration
from bot_deploy.commands.doctor import doctor as command
from bot_deploy.doctor.score_shift import measure_score_shift
from bot_deploy.errors import InputError
from bot_deploy.matching.calibrate import store_calibration
from bot_deploy.matching.tracks import TrackScores

CALIBRATION = Calibration(
    data="d", genuine_pairs=100, impostor_pairs=1000, target_false_accept_rate=0.01,
    threshold=0.6, reject_threshold=0.3, false_reject_rate=0.2,
    curve=((0.0, 0.5), (0.5, 0.05), (0.6, 0.01), (0.8, 0.0001)),
)  # fmt: skip


def scores_of(cosines: list[float], tracks: int = 30) -> TrackScores:
    empty, none = np.zeros(len(cosines), np.int64), np.zeros(0, np.float32)
    return TrackScores(np.array(cosines, np.float32), empty, empty, none, tracks, none, 0, 0.0)


def test_the_distance_is_the_largest_difference_of_the_shares() -> None:
    cosines = np.random.default_rng(0).normal(0.2, 0.25, 500).clip(-1, 1).tolist()
    shift = measure_score_shift(scores_of(cosines), CALIBRATION, "x")
    differences = [
        abs(sum(np.float32(one) >= cosine for one in cosines) / 500 - rate) for cosine, rate in CALIBRATION.curve
    ]
    assert shift.distance == pytest.approx(max(differences), abs=1e-6)
    assert shift.found_rate == pytest.approx(sum(one >= 0.6 for one in cosines) / 500)
    assert (shift.asked_rate, shift.threshold, shift.pairs) == (0.01, 0.6, 500)


@pytest.mark.parametrize(
    ("cosines", "is_labelled", "meaning"),
    [
        ([-0.5] * 500 + [0.3] * 450 + [0.55] * 40 + [0.7] * 10, False, "the threshold holds here"),
        ([-0.5] * 960 + [0.7] * 40, False, "does not hold here: it lets too many"),
        ([-0.5] * 1000, False, "lets no more strangers pass than asked, but"),
        ([-0.5] * 750 + [0.3] * 250, False, "lets no more strangers pass than asked, but"),
        ([-0.5] * 750 + [0.3] * 250, True, "the threshold holds here"),
        ([-0.5] * 20 + [0.3] * 18 + [0.7] * 2, False, "the threshold holds here"),  # 2 of 40 are no 5 %
    ],
)
def test_what_it_means(cosines: list[float], is_labelled: bool, meaning: str) -> None:
    calibration = replace(CALIBRATION, is_labelled=is_labelled)
    assert meaning in measure_score_shift(scores_of(cosines), calibration, "x").meaning


def test_command(tmp_path: Path) -> None:
    model = write_colour_model(tmp_path / "model.onnx")
    people = np.random.default_rng(1).normal(size=(30, 1, 3)).repeat(4, axis=1)
    people /= np.linalg.norm(people, axis=2, keepdims=True)
    write_footage_index(tmp_path / "x.gallery", CONTRACT, people.astype(np.float32))
    arguments = [str(model), "--gallery", str(tmp_path / "x.gallery"), "--json"]
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, InputError)
    assert "not calibrated" in str(result.exception)
    store_calibration(model, CALIBRATION)
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    # Three in view at one time, on each of two cameras; four crops each.
    pairs = [(people[one, 0] @ people[other, 0]) for one in range(30) for other in range(one) if one // 3 == other // 3]
    document = json.loads(result.stdout)["score_shift"]
    assert document["pairs"] == 2 * 16 * len(pairs)
    assert document["found_rate"] == pytest.approx(np.mean(np.array(pairs) >= 0.6), abs=1e-6)
    result = CliRunner().invoke(command, [str(model)])
    assert "give crops to examine" in str(result.exception)


def test_too_few_people_are_refused() -> None:
    with pytest.raises(InputError, match=r"x: only 12 people are in view .* index more footage"):
        measure_score_shift(scores_of([0.1], tracks=12), CALIBRATION, "x")
