"""How far the scores of a gallery are from those that the threshold was measured on; without labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.errors import InputError
from bot_deploy.matching.self_calibration import MIN_TRACKS, REMEDY

if TYPE_CHECKING:
    from bot_deploy.artifacts.contract import Calibration
    from bot_deploy.matching.tracks import TrackScores

# Limits by benchmarks/score_shift.py: at home the rate is at most 2.9 times the one asked. The distance is at most 0.06
# there, or 0.28 from a labelled calibration, because people in view of one camera are more alike than others.
MAX_RATE_RATIO = 3.0
MAX_DISTANCE, MAX_DISTANCE_OF_LABELLED = 0.1, 0.3


@dataclass(frozen=True)
class ScoreShift:
    """Impostor pairs of a gallery, compared with those of a calibration."""

    pairs: int
    distance: float  # Kolmogorov-Smirnov: the largest difference of the shares of pairs above a cosine, 0 to 1
    threshold: float
    asked_rate: float  # false-accept rate that the threshold was chosen for
    found_rate: float  # false-accept rate of the threshold in the gallery
    usual_distance: float  # up to which the cameras may be those of the calibration

    @property
    def meaning(self) -> str:
        """What the numbers mean for the threshold."""
        # With few pairs, a rate below the one asked cannot be told from it.
        measurable = max(self.asked_rate, 1 / self.pairs)
        if self.found_rate > MAX_RATE_RATIO * measurable:
            return (
                "the threshold does not hold here: it lets too many strangers pass; "
                "bot calibrate MODEL --gallery GALLERY measures one"
            )
        if self.distance > self.usual_distance:
            return (
                "the threshold lets no more strangers pass than asked, but these are other cameras or other people, so "
                "it may reject too many; bot calibrate MODEL --gallery GALLERY measures one"
            )
        return "the threshold holds here"

    def to_dict(self) -> dict[str, object]:
        return {**vars(self), "meaning": self.meaning}

    def text_lines(self) -> list[str]:
        found, asked = f"{100 * self.found_rate:.2g} % here", f"{100 * self.asked_rate:g} % was asked"
        limit = f"the same cameras give at most about {self.usual_distance:g}"
        return [
            f"{self.pairs} pairs of crops of people in view together",
            f"distance of their scores from those of the calibration: {self.distance:.3f} ({limit})",
            f"false-accept rate of the threshold {self.threshold:.3f}: {found}, {asked}",
            self.meaning,
        ]


def measure_score_shift(scores: TrackScores, calibration: Calibration, gallery: str) -> ScoreShift:
    """Compares the impostor pairs of a gallery with `calibration`, at the points of its curve.

    Raises:
        InputError: too few people are in view together; `gallery` names it in the message.
    """
    if scores.tracks < MIN_TRACKS:
        raise InputError(
            f"{gallery}: only {scores.tracks} people are in view of one camera together with another one; at least "
            f"{MIN_TRACKS} are needed; {REMEDY}"
        )
    ordered = np.sort(scores.impostors)
    cosines, rates = np.array(calibration.curve).T
    found = np.array([_share_above(ordered, cosine) for cosine in cosines])
    return ScoreShift(
        pairs=len(ordered),
        distance=round(float(np.abs(found - rates).max()), 6),
        threshold=calibration.threshold,
        asked_rate=calibration.target_false_accept_rate,
        found_rate=round(_share_above(ordered, calibration.threshold), 9),
        usual_distance=MAX_DISTANCE_OF_LABELLED if calibration.is_labelled else MAX_DISTANCE,
    )


def _share_above(ordered: np.ndarray[tuple[int], np.dtype[np.float32]], cosine: float) -> float:
    return float(1 - np.searchsorted(ordered, cosine) / len(ordered))
