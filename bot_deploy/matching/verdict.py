"""Is the best match the same person? The answer in words, by the calibration that travels with the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bot_deploy.artifacts.contract import Calibration

MATCH, UNCERTAIN, NO_MATCH, UNCALIBRATED = "match", "uncertain", "no match", "uncalibrated"
LIKELY = 0.5  # that a stranger scores as high somewhere in the gallery: then a score alone proves nothing


@dataclass(frozen=True)
class Verdict:
    """`decision` is one of the four words above, `explanation` the sentence that begins with it."""

    decision: str
    explanation: str
    false_accept_rate: float | None = None  # share of pairs of different people that score as high
    gallery_false_accept_rate: float | None = None  # chance that a stranger does, somewhere in this gallery


def decide(calibration: Calibration | None, score: float | None, gallery: int) -> Verdict:
    """What the best `score` (None: nothing was found) among so many images of the `gallery` says."""
    if calibration is None:
        return Verdict(
            UNCALIBRATED,
            f"{UNCALIBRATED}: scores rank the gallery, but do not yet say whether the person is in it "
            "(`bot calibrate` tells)",
        )
    if score is None:
        none = (
            f"none of {gallery} images scores as high as was asked for"
            if gallery
            else "there is nothing to compare with"
        )
        return Verdict(NO_MATCH, f"{NO_MATCH}: {none}")
    rate = false_accept_rate(calibration, score)
    chance = gallery_false_accept_rate(rate, gallery)
    figures = (
        f"{score:.3f}; of pairs of different people {_percent(rate)} score as high, and a stranger would somewhere in "
        f"{gallery} images with a chance of {_percent(chance)}"
    )
    if score < calibration.reject_threshold:
        decision, because = NO_MATCH, f"the best scores only {figures}"
    elif score < calibration.threshold:
        decision, because = UNCERTAIN, f"the best scores {figures}; a match begins at {calibration.threshold:.3f}"
    elif chance > LIKELY:
        decision, because = (
            UNCERTAIN,
            f"the best would be a match, but in a gallery this large that says little: {figures}",
        )
    else:
        decision, because = MATCH, f"the best scores {figures}"
    return Verdict(decision, f"{decision}: {because}", rate, chance)


def false_accept_rate(calibration: Calibration, score: float) -> float:
    """The share of pairs of different people that score as high, by its logarithm between the points of the curve.

    Past the last point too few pairs were seen to tell; its rate is the bound.
    """
    curve = calibration.curve
    if score < curve[0][0]:
        return 1.0
    for (low, more), (high, fewer) in pairwise(curve):
        if score < high:
            share = (score - low) / (high - low)
            return math.exp((1 - share) * math.log(more) + share * math.log(fewer))
    return curve[-1][1]


def gallery_false_accept_rate(rate: float, size: int) -> float:
    """1 - (1 - rate)^size: the chance that one of `size` images of others scores as a share `rate` of pairs do."""
    return 1.0 if rate >= 1 and size else -math.expm1(size * math.log1p(-rate)) if rate < 1 else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.3g} %"  # noqa: PLR2004 - 100 %, not 1e+02 %
