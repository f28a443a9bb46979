"""The verdict on a score, by a calibration with four points."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bot_deploy.artifacts import read_contract
from bot_deploy.artifacts.contract import Calibration
from bot_deploy.matching.verdict import false_accept_rate, gallery_false_accept_rate, make_verdict
from bot_deploy.models import box

CALIBRATION = Calibration(
    data="d", genuine_pairs=100, impostor_pairs=1000, target_false_accept_rate=0.01,
    threshold=0.6, reject_threshold=0.3, false_reject_rate=0.2,
    curve=((0.0, 0.5), (0.5, 0.05), (0.6, 0.01), (0.8, 0.0001)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("score", "rate"),
    [(-0.5, 1.0), (0.0, 0.5), (0.25, (0.5 * 0.05) ** 0.5), (0.5, 0.05), (0.7, 0.001), (0.8, 0.0001), (0.99, 0.0001)],
)
def test_rate_between_points_is_geometric(score: float, rate: float) -> None:
    assert false_accept_rate(CALIBRATION, score) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("rate", "images", "probability"),
    [(0.5, 1, 0.5), (0.5, 2, 0.75), (0.01, 100, 1 - 0.99**100), (1.0, 3, 1.0), (1e-9, 1000, 1e-6), (0.3, 0, 0.0)],
)
def test_rate_in_a_gallery(rate: float, images: int, probability: float) -> None:
    assert gallery_false_accept_rate(rate, images) == pytest.approx(probability, rel=1e-3)


@pytest.mark.parametrize(
    ("score", "images", "decision"),
    [
        (0.75, 10, "match"),
        (0.6, 10, "match"),
        (0.59, 10, "uncertain"),
        (0.3, 10, "uncertain"),
        (0.29, 10, "no match"),
        (0.6, 1000, "uncertain"),  # ten strangers in a thousand score as high
        (0.8, 1000, "match"),
        (None, 0, "no match"),
        (None, 10, "no match"),
    ],
)
def test_decision(score: float | None, images: int, decision: str) -> None:
    verdict = make_verdict(CALIBRATION, score, images)
    assert verdict.decision == decision
    assert verdict.explanation.startswith(f"{decision}: ")
    if score is not None:
        rate = false_accept_rate(CALIBRATION, score)
        assert verdict.false_accept_rate == pytest.approx(rate)
        assert verdict.gallery_false_accept_rate == pytest.approx(1 - (1 - rate) ** images)


def test_explanation() -> None:
    assert make_verdict(CALIBRATION, 0.6, 1000).explanation == (
        "uncertain: the best score is 0.600 (false-accept rate 1 % for a pair, 100 % for a gallery of 1000 images); "
        "strangers often score as high in this many images"
    )


@pytest.mark.parametrize(
    ("calibrated", "cameras", "others"),
    [
        ((1, 2), (1, 2), ()),
        ((1, 2), (None, 2), ()),
        ((1, 2), (None, None), ()),
        ((1, 2), (3, 2), (3,)),
        ((1, 2), (5, 3), (3, 5)),
        ((), (1, None), (1,)),  # the built-in model
    ],
)
@pytest.mark.parametrize("score", [0.1, 0.5, 0.75])
def test_a_threshold_of_other_cameras(
    calibrated: tuple[int, ...], cameras: tuple[int | None, ...], others: tuple[int, ...], score: float
) -> None:
    calibration = replace(CALIBRATION, cameras=calibrated)
    verdict, usual = make_verdict(calibration, score, 10, cameras=cameras), make_verdict(calibration, score, 10)
    assert verdict.other_cameras == others
    assert verdict.decision == usual.decision
    note = "; calibrated on other cameras (`bot calibrate` measures a threshold for yours)"
    assert verdict.explanation == usual.explanation + (note if others else "")


def test_a_threshold_that_came_with_the_model_is_of_other_cameras() -> None:
    """Nobody has the cameras that it was measured on, known or not."""
    shipped = read_contract(box.PATH).calibration
    assert shipped
    for cameras in ((None, None), (None, 1)):
        assert "; calibrated on other cameras" in make_verdict(shipped, 0.7, 10, cameras=cameras).explanation
    # Crops without cameras in their names may be those of the user.
    own = replace(shipped, data="my crops")
    assert "other cameras" not in make_verdict(own, 0.7, 10, cameras=(None, None)).explanation


def test_a_model_without_calibration() -> None:
    verdict = make_verdict(None, 0.99, 10)
    assert verdict.decision == "uncalibrated"
    assert "bot calibrate" in verdict.explanation
    assert verdict.false_accept_rate is None
