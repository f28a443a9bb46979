"""A calibration as a plot: the scores of genuine and impostor pairs, and the ROC curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.escaping import escape
from bot_deploy.files import write_atomically
from bot_deploy.matching.pairs import BINS, bin_edges
from bot_deploy.telemetry import without_telemetry

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.artifacts.contract import Calibration
    from bot_deploy.matching.pairs import PairScores

BARS = 200  # of a histogram; each is the sum of BINS / BARS bins


def plot_calibration(scores: PairScores, calibration: Calibration, path: Path) -> None:
    """Writes the PNG `path`: both histograms of `scores` with the thresholds, and the ROC curve.

    Raises:
        RunError: the file cannot be written.
    """
    with without_telemetry():
        from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    histograms, roc = figure.subplots(1, 2)
    cosines, bins_per_bar = bin_edges(), BINS // BARS
    for counts, label, colour in (
        (scores.impostor_counts, "different people", "C3"),
        (scores.genuine_counts, "one person", "C2"),
    ):
        shares = counts.reshape(-1, bins_per_bar).sum(1) / counts.sum()
        edges = np.append(cosines[::bins_per_bar], 1)
        histograms.stairs(shares, edges, fill=True, alpha=0.5, color=colour, label=label)
    threshold, reject_threshold = calibration.threshold, calibration.reject_threshold
    histograms.axvline(threshold, color="k", label=f"match from {threshold:.3f}")
    histograms.axvline(reject_threshold, color="k", linestyle=":", label=f"no match below {reject_threshold:.3f}")
    histograms.set(xlabel="cosine", ylabel="share of pairs")
    histograms.set_title(escape(calibration.data), parse_math=False)  # "$" in a name begins no formula
    histograms.legend()
    false_accepts, false_rejects = scores.error_rates()
    positive = false_accepts > 0  # the axis is logarithmic
    roc.semilogx(false_accepts[positive], 1 - false_rejects[positive])
    roc.plot(calibration.target_false_accept_rate, 1 - calibration.false_reject_rate, "ko")
    roc.set(xlabel="false-accept rate", ylabel="share of genuine pairs accepted", ylim=(0, 1), title="ROC")
    roc.grid(visible=True, which="both", alpha=0.3)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))
