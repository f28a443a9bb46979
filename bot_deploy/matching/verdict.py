"""The verdict on the best match: is it the same person? The model's calibration decides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from bot_deploy.artifacts.contract import SHIPPED_CALIBRATION

if TYPE_CHECKING:
    from collections.abc import Collection

    from bot_deploy.artifacts.contract import Calibration

MATCH, UNCERTAIN, NO_MATCH, UNCALIBRATED = "match", "uncertain", "no match", "uncalibrated"
OTHER_CAMERAS = "calibrated on other cameras (`bot calibrate` measures a threshold for yours)"
MAX_GALLERY_FALSE_ACCEPT_RATE = 0.5  # above it, strangers in the gallery often score as high


@dataclass(frozen=True)
class Verdict:
    """The answer to a query: "match", "uncertain", "no match" or "uncalibrated", and a sentence that explains it."""

    decision: str
    explanation: str
    false_accept_rate: float | None = None  # share of impostor pairs that score as high
    gallery_false_accept_rate: float | None = None  # probability that some stranger in this gallery scores as high
    other_cameras: tuple[int, ...] = ()  # of the pair, that the calibration does not cover


def make_verdict(
    calibration: Calibration | None,
    score: float | None,
    images: int,
    unit: str = "image",
    cameras: Collection[int | None] = (),
) -> Verdict:
    """The verdict on the best match of a search.

    Args:
        calibration: of the model; None if it has none.
        score: of the best match; None if there is no match.
        images: number of the gallery images that were searched.
        unit: what they are in messages: an image, or an appearance in a video.
        cameras: of the query and of the match; None: an unknown one.
    """
    if calibration is None:
        return Verdict(
            UNCALIBRATED,
            f"{UNCALIBRATED}: scores rank the gallery, but do not say whether the person is in it "
            "(`bot calibrate` measures a threshold)",
        )
    if score is None:
        reason = (
            f"none of the {unit}s ({images}) has a high enough score"
            if images
            else f"there is no {unit} to compare with"
        )
        return Verdict(NO_MATCH, f"{NO_MATCH}: {reason}")
    rate = false_accept_rate(calibration, score)
    gallery_rate = gallery_false_accept_rate(rate, images)
    figures = (
        f"{score:.3f} (false-accept rate {_percent(rate)} for a pair, {_percent(gallery_rate)} for a gallery of "
        f"{images} {unit}{'' if images == 1 else 's'})"
    )
    if score < calibration.reject_threshold:
        decision, reason = NO_MATCH, f"the best score is only {figures}"
    elif score < calibration.threshold:
        decision, reason = UNCERTAIN, f"the best score is {figures}; a match begins at {calibration.threshold:.3f}"
    elif gallery_rate > MAX_GALLERY_FALSE_ACCEPT_RATE:
        decision, reason = UNCERTAIN, f"the best score is {figures}; strangers often score as high in this many {unit}s"
    else:
        decision, reason = MATCH, f"the best score is {figures}"
    others = other_cameras(calibration, cameras)
    note = f"; {OTHER_CAMERAS}" if others or is_shipped(calibration) else ""
    return Verdict(decision, f"{decision}: {reason}{note}", rate, gallery_rate, others)


def is_shipped(calibration: Calibration) -> bool:
    """Whether `calibration` came with a model of ours, measured on cameras that no user has."""
    return not calibration.cameras and calibration.data.startswith(SHIPPED_CALIBRATION)


def other_cameras(calibration: Calibration, cameras: Collection[int | None]) -> tuple[int, ...]:
    """Those of `cameras` that `calibration` was not measured on; None is an unknown one, and not among them.

    Numbers are compared, so cameras of two places that have the same numbers are not told apart. A calibration that
    does not say its cameras is that of the built-in model, or an older one: it covers none.
    """
    return tuple(sorted({camera for camera in cameras if camera is not None} - set(calibration.cameras)))


def false_accept_rate(calibration: Calibration, score: float) -> float:
    """The share of impostor pairs that score at least `score`.

    Between two points of the calibration's curve the logarithm of the rate is interpolated. Beyond the last point
    too few pairs were measured, so its rate is returned as an upper bound.
    """
    curve = calibration.curve
    if score < curve[0][0]:
        return 1.0
    for (low, rate_at_low), (high, rate_at_high) in pairwise(curve):
        if score < high:
            share = (score - low) / (high - low)
            return math.exp((1 - share) * math.log(rate_at_low) + share * math.log(rate_at_high))
    return curve[-1][1]


def gallery_false_accept_rate(rate: float, images: int) -> float:
    """1 - (1 - rate)^images: the probability that at least one of `images` images of strangers is accepted."""
    if rate >= 1:
        return 1.0 if images else 0.0
    return -math.expm1(images * math.log1p(-rate))


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.3g} %"  # noqa: PLR2004 - 100 %, not 1e+02 %
