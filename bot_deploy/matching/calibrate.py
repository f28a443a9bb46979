"""From scores to an answer: which cosine means "the same person", at what rate of false accepts.

Pairs of crops of one identity before different cameras are genuine, pairs of different identities are impostors; the
false-accept rate of a threshold is the share of impostor pairs that reach it (as in biometrics: ISO/IEC 19795-1).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bot_deploy.artifacts import engine_file, onnx_file
from bot_deploy.artifacts.contract import Calibration
from bot_deploy.choices import TARGET_FALSE_ACCEPT_RATE
from bot_deploy.datasets import JUNK
from bot_deploy.errors import InputError
from bot_deploy.files import check_writable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot_deploy.embedder import Vectors

BINS = 20_000  # of the cosines from -1 to 1
BLOCK = 256  # rows of similarities held at once
MISSED = 0.05  # of the genuine pairs: below the score that so many of them miss, it is "no match"
LEAST_PAIRS = 100  # that a rate rests on: a target of 1e-3 wants 100,000 impostor pairs
DISTRACTOR = 0  # an identity that nobody has


@dataclass(frozen=True)
class Pairs:
    """How many pairs have a cosine in each of BINS bins from -1 to 1."""

    genuine: npt.NDArray[np.int64]
    impostor: npt.NDArray[np.int64]

    def rates(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """False-accept and false-reject rate of the lower edge of each bin as the threshold, each [BINS]."""
        accepted = np.cumsum(self.impostor[::-1])[::-1] / max(1, self.impostor.sum())
        missed = (np.cumsum(self.genuine) - self.genuine) / max(1, self.genuine.sum())
        return accepted, missed


def edges() -> npt.NDArray[np.float64]:
    """The lower edges of the bins, cosines [BINS]."""
    return np.arange(BINS, dtype=np.float64) * (2 / BINS) - 1


def count_pairs(vectors: Vectors, identities: Sequence[int], cameras: Sequence[int]) -> Pairs:
    """Counts all pairs among unit `vectors` [N, D].

    Junk (identity -1) is left out. Of one identity before one camera, frames follow each other and are alike for
    reasons that no other camera shares: such pairs do not count. Two distractors (identity 0) may be one person.
    """
    ids, cams = np.asarray(identities), np.asarray(cameras)
    known = ids != JUNK
    vectors, ids, cams = vectors[known], ids[known], cams[known]
    genuine, impostor = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    for start in range(0, len(vectors), BLOCK):
        rows = slice(start, start + BLOCK)
        bins = ((vectors[rows] @ vectors[start:].T + 1) * (BINS / 2)).astype(np.int32).clip(0, BINS - 1)
        later = np.arange(bins.shape[1]) > np.arange(bins.shape[0])[:, None]  # each pair once
        same = ids[rows, None] == ids[start:]
        apart = cams[rows, None] != cams[start:]
        someone = ids[rows, None] != DISTRACTOR
        genuine += np.bincount(bins[later & same & apart & someone], minlength=BINS)
        impostor += np.bincount(bins[later & ~same], minlength=BINS)
    return Pairs(genuine, impostor)


def how_many(identities: Sequence[int], cameras: Sequence[int]) -> tuple[int, int]:
    """The numbers of genuine and impostor pairs that `count_pairs` will find, which takes no embeddings."""
    crops = Counter(pair for pair in zip(identities, cameras, strict=True) if pair[0] != JUNK)
    people: Counter[int] = Counter()
    for (identity, _), count in crops.items():
        people[identity] += count
    impostor = math.comb(people.total(), 2) - sum(math.comb(count, 2) for count in people.values())
    together = sum(math.comb(count, 2) for identity, count in people.items() if identity != DISTRACTOR)
    before_one_camera = sum(math.comb(count, 2) for (identity, _), count in crops.items() if identity != DISTRACTOR)
    return together - before_one_camera, impostor


def calibrate(pairs: Pairs, data: str, target: float = TARGET_FALSE_ACCEPT_RATE) -> Calibration:
    """The thresholds for a false-accept rate of `target`.

    Raises:
        InputError: too few pairs to tell such a rate.
    """
    genuine, impostor = int(pairs.genuine.sum()), int(pairs.impostor.sum())
    check_pairs(genuine, impostor, data, target)
    accepted, missed = pairs.rates()
    cosines = edges()
    threshold = float(cosines[np.argmax(accepted <= target)])  # the rates fall with the cosine
    reject = min(threshold, float(cosines[np.argmax(missed >= MISSED)]))
    return Calibration(
        data=data,
        genuine=genuine,
        impostor=impostor,
        target=target,
        threshold=round(threshold, 6),
        reject_threshold=round(reject, 6),
        false_reject_rate=round(float(missed[np.argmax(accepted <= target)]), 6),
        curve=_curve(accepted, cosines, impostor),
    )


def check_pairs(genuine: int, impostor: int, data: str, target: float = TARGET_FALSE_ACCEPT_RATE) -> None:
    """Refuses too few pairs to tell a false-accept rate of `target`.

    Raises:
        InputError: what is missing.
    """
    if not 0 < target < 1:
        raise InputError(f"a false-accept rate is between 0 and 1, not {target}")
    if genuine < LEAST_PAIRS:
        raise InputError(
            f"{data}: {genuine} pairs of one person before two cameras, but a threshold takes {LEAST_PAIRS}; "
            "give more identities that several cameras saw"
        )
    if impostor * target < LEAST_PAIRS:
        least = _rounded_up(LEAST_PAIRS / max(1, impostor))
        raise InputError(
            f"{data}: {impostor} pairs of different people cannot show a false-accept rate of {target:g}; "
            + (f"ask for {least:g} or more, or give more identities" if least < 1 else "give more identities")
        )


def _rounded_up(rate: float) -> float:
    """To one digit."""
    step = 10.0 ** math.floor(math.log10(rate))
    return float(f"{math.ceil(rate / step) * step:.1g}")


def _curve(
    accepted: npt.NDArray[np.float64], cosines: npt.NDArray[np.float64], impostor: int
) -> tuple[tuple[float, float], ...]:
    """(cosine, false-accept rate) at four rates to a decade, down to what ten pairs show."""
    points: list[tuple[float, float]] = []
    rate = 10 ** (-1 / 4)
    while rate * impostor >= 10:  # noqa: PLR2004 - fewer are chance
        row = int(np.argmax(accepted <= rate))
        point = (round(float(cosines[row]), 6), float(f"{accepted[row]:.4g}"))
        if accepted[row] > 0 and (not points or point[0] > points[-1][0]):
            points.append(point)
        rate *= 10 ** (-1 / 4)
    return tuple(points)


def draw(pairs: Pairs, calibration: Calibration, path: Path) -> None:
    """The ROC and both histograms of scores, with the thresholds, as a PNG."""
    from matplotlib.figure import Figure

    from bot_deploy.files import write_atomically

    accepted, missed = pairs.rates()
    cosines = edges()
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    scores, roc = figure.subplots(1, 2)
    step = BINS // 200
    for counts, label, colour in ((pairs.impostor, "different people", "C3"), (pairs.genuine, "one person", "C2")):
        share = counts.reshape(-1, step).sum(1) / counts.sum()
        scores.stairs(share, np.append(cosines[::step], 1), fill=True, alpha=0.5, color=colour, label=label)
    scores.axvline(calibration.threshold, color="k", label=f"match from {calibration.threshold:.3f}")
    scores.axvline(
        calibration.reject_threshold,
        color="k",
        linestyle=":",
        label=f"no match below {calibration.reject_threshold:.3f}",
    )
    scores.set(xlabel="cosine", ylabel="share of pairs", title=calibration.data)
    scores.legend()
    seen = accepted > 0
    roc.semilogx(accepted[seen], 1 - missed[seen])
    roc.plot(calibration.target, 1 - calibration.false_reject_rate, "ko")
    roc.set(xlabel="false-accept rate", ylabel="share of genuine pairs accepted", ylim=(0, 1), title="ROC")
    roc.grid(visible=True, which="both", alpha=0.3)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def check(model: Path) -> None:
    """Refuses early what `store` would not write to: a checkpoint, a file or folder that is write-protected.

    Raises:
        InputError: a checkpoint: thresholds belong to what runs.
        RunError: it cannot be written.
    """
    if model.suffix == ".pt":
        raise InputError(f"{model}: calibrate what will run; `bot export` first")
    if model.is_file():  # what is none is refused when it is opened
        check_writable(engine_file.sidecar_path(model) if model.suffix == ".engine" else model)


def store(model: Path, calibration: Calibration) -> None:
    """Writes `calibration` into the contract of the artifact `model`, in place of an older one.

    Raises:
        InputError: not a model of ours; a checkpoint: thresholds belong to what runs.
        RunError: it cannot be written.
    """
    check(model)
    if model.suffix == ".engine":
        _, sidecar = engine_file.read(model)
        calibrated = replace(sidecar, contract=replace(sidecar.contract, calibration=calibration))
        engine_file.write_sidecar(model, calibrated)
    else:
        onnx_file.store_contract(model, replace(onnx_file.read_contract(model), calibration=calibration))
