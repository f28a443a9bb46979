"""Calibration without labels: thresholds from the tracks of a gallery's own cameras.

Crops of one camera are more alike than crops of two, so impostor pairs of one camera give a threshold that accepts no
more across cameras.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.choices import TARGET_FALSE_ACCEPT_RATE
from bot_deploy.errors import InputError

from .calibrate import choose_thresholds, round_up
from .pairs import bin_edges

if TYPE_CHECKING:
    from collections.abc import Collection

    from bot_deploy.artifacts.contract import Calibration

    from .tracks import TrackScores

MIN_TRACKS = 20  # that share a view with another one; the bootstrap draws from them
MIN_ERRORS = 30  # impostor pairs above the threshold: the rule of 30 (Doddington et al., Speech Communication, 2000)
MIN_GENUINE_PAIRS = 100
# Pairs of tracks on two cameras, from which they are the genuine pairs. Where two cameras show other people, 2 to 4 %
# of the possible pairs are found all the same; where they show the same people, 11 to 50 % (benchmarks/README.md).
MIN_PAIRS_ACROSS, MIN_SHARE_ACROSS = 20, 0.1
MAX_REJECTED_IMPOSTORS = 0.5  # share of impostor pairs with a cosine below `Calibration.reject_threshold`
BOOTSTRAPS, INTERVAL = 400, (2.5, 97.5)  # percentiles
MAX_DRAWN_RATE = 20  # times the rate of all tracks, that a threshold may have in a draw of them
REMEDY = "index more footage, of times with several people in view (bot index VIDEO... -o GALLERY)"


def calibrate_by_tracks(
    scores: TrackScores,
    data: str,
    cameras: Collection[int],
    target_false_accept_rate: float = TARGET_FALSE_ACCEPT_RATE,
) -> Calibration:
    """The calibration with the lowest threshold that keeps to `target_false_accept_rate`, without labels.

    The genuine pairs are those across cameras where there are enough. They were found by their likeness, and crops of
    one track say little about another time or camera. So "no match" is said only below the cosine that half of the
    impostor pairs reach, or below that of 95 % of the genuine pairs if it is lower.

    Args:
        scores: of the tracks of a gallery.
        data: the name of the gallery.
        cameras: its cameras.
        target_false_accept_rate: share of impostor pairs that the threshold may accept, between 0 and 1.

    Raises:
        InputError: there are too few pairs to measure such a rate.
    """
    check_track_counts(scores, data, target_false_accept_rate)
    pairs = scores.histograms(across=has_enough_across(scores))
    calibration = choose_thresholds(pairs, data, target_false_accept_rate)
    below = np.cumsum(pairs.impostor_counts) / pairs.impostor_counts.sum()
    common = float(bin_edges()[np.argmax(below > MAX_REJECTED_IMPOSTORS)])
    return replace(
        calibration,
        reject_threshold=min(calibration.reject_threshold, round(common, 6)),
        is_labelled=False,
        cameras=tuple(sorted(cameras)),
        threshold_interval=bootstrap_threshold(scores, target_false_accept_rate),
    )


def has_enough_across(scores: TrackScores) -> bool:
    """Whether the genuine pairs across cameras are enough to calibrate with."""
    enough_tracks = scores.pairs_across >= MIN_PAIRS_ACROSS and scores.share_across >= MIN_SHARE_ACROSS
    return enough_tracks and len(scores.across) >= MIN_GENUINE_PAIRS


def check_track_counts(scores: TrackScores, data: str, target_false_accept_rate: float) -> None:
    """Checks that the pairs are enough to measure `target_false_accept_rate`.

    Raises:
        InputError: they are not; the message says how many are needed.
    """
    if not 0 < target_false_accept_rate < 1:
        raise InputError(f"a false-accept rate must be between 0 and 1, not {target_false_accept_rate}")
    if scores.tracks < MIN_TRACKS:
        raise InputError(
            f"{data}: only {scores.tracks} people are in view of one camera together with another one; at least "
            f"{MIN_TRACKS} are needed; {REMEDY}"
        )
    if len(scores.genuine) < MIN_GENUINE_PAIRS and not has_enough_across(scores):
        raise InputError(
            f"{data}: only {len(scores.genuine)} pairs of crops of one person in view, seconds apart; at least "
            f"{MIN_GENUINE_PAIRS} are needed; {REMEDY}"
        )
    impostors = len(scores.impostors)
    if impostors * target_false_accept_rate < MIN_ERRORS:
        lowest = round_up(MIN_ERRORS / impostors)
        raise InputError(
            f"{data}: {impostors} pairs of people in view together are too few for a false-accept rate of "
            f"{target_false_accept_rate:g}; " + (f"choose {lowest:g} or more, or " if lowest < 1 else "") + REMEDY,
            parameter="far" if lowest < 1 else "",
        )


def bootstrap_threshold(scores: TrackScores, target_false_accept_rate: float) -> tuple[float, float]:
    """The interval of the threshold, if other people had been in view: tracks are drawn with replacement.

    A pair counts as often as both of its tracks are drawn, because the pairs of one track are not independent.
    """
    present, places = np.unique(np.concatenate([scores.first, scores.second]), return_inverse=True)
    first, second = np.split(places, 2)
    pairs, counts = np.unique(first * len(present) + second, return_counts=True)
    # The highest scores are enough: in a draw, the threshold is not far from that of all tracks.
    kept = min(len(first), math.ceil(MAX_DRAWN_RATE * target_false_accept_rate * len(first)))
    highest = np.argsort(-scores.impostors, kind="stable")[:kept]
    cosines, first, second = scores.impostors[highest], first[highest], second[highest]
    rng = np.random.default_rng(0)
    thresholds = []
    for _ in range(BOOTSTRAPS):
        drawn = np.bincount(rng.integers(len(present), size=len(present)), minlength=len(present))
        total = int((drawn[pairs // len(present)] * drawn[pairs % len(present)] * counts).sum())
        weights = np.cumsum(drawn[first] * drawn[second])
        if total:
            accepted = int(np.searchsorted(weights, target_false_accept_rate * total, side="right"))
            thresholds.append(cosines[min(accepted, len(cosines) - 1)])
    low, high = np.percentile(thresholds, INTERVAL)
    return round(float(np.clip(low, -1, 1)), 6), round(float(np.clip(high, -1, 1)), 6)
