"""Calibration: which cosine means "the same person", at a given false-accept rate.

The false-accept rate of a threshold is the share of impostor pairs whose cosine reaches it; the false-reject rate is
the share of genuine pairs whose cosine does not.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bot_deploy.artifacts import engine_file, read_contract, write_contract
from bot_deploy.artifacts.contract import Calibration
from bot_deploy.camera_means import camera_means_of
from bot_deploy.choices import TARGET_FALSE_ACCEPT_RATE
from bot_deploy.datasets import Dataset, open_dataset
from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.errors import InputError, RunError
from bot_deploy.evaluation.protocol import embed_crops
from bot_deploy.files import check_writable

from .pairs import PairScores, bin_edges, count_pairs, score_pairs

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.datasets import Crop

logger = logging.getLogger(__name__)

ONE_TAKE = (
    "where they are neighbouring frames, do not trust the false-reject rate and the limit of `no match`, because a "
    "person scores lower at another time or on another camera"
)
MAX_REJECTED_GENUINE = 0.05  # share of genuine pairs with a cosine below `Calibration.reject_threshold`
MIN_PAIRS = 100  # pairs that a rate must rest on: a rate of 1e-3 needs 100,000 impostor pairs
MIN_CURVE_PAIRS = 10  # impostor pairs that a point of `Calibration.curve` must rest on
CURVE_POINTS_PER_DECADE = 4


def calibrate(
    model: Embedder | str | Path,
    data: Dataset | str | Path,
    target_false_accept_rate: float = TARGET_FALSE_ACCEPT_RATE,
) -> Calibration:
    """The calibration of `model`, measured on the identities of `data`; `store_calibration` keeps it in the model.

    Args:
        model: an embedder, or the file that it is opened from.
        data: crops of identities from several cameras: a data set, or where it is opened from. The model must not
            have been trained on these identities: on them it looks better than it is.
        target_false_accept_rate: share of impostor pairs that the threshold may accept, between 0 and 1.

    Raises:
        InputError: there are too few pairs to measure such a rate; model or data cannot be opened.
    """
    embedder = model if isinstance(model, Embedder) else open_embedder(model)
    dataset = data if isinstance(data, Dataset) else open_dataset(data)
    crops = calibration_crops(dataset)
    scores = score_crop_pairs(embedder, crops, dataset.name, target_false_accept_rate)
    return calibration_from_scores(scores, dataset.name, target_false_accept_rate, known_cameras(crops))


def known_cameras(crops: Sequence[Crop]) -> set[int]:
    """The cameras of `crops`, without unknown ones."""
    return {crop.known_camera for crop in crops if crop.known_camera is not None}


def calibration_crops(dataset: Dataset) -> list[Crop]:
    """Query and gallery of `dataset`, or its training crops if it has neither."""
    return [*dataset.query, *dataset.gallery] or list(dataset.train)


def score_crop_pairs(
    embedder: Embedder, crops: Sequence[Crop], data: str, target_false_accept_rate: float = TARGET_FALSE_ACCEPT_RATE
) -> PairScores:
    """The scores of all pairs of `crops`; `data` names them in errors.

    A genuine pair is of two cameras. A crop of an unknown camera counts as of a camera of its own, and so does each
    crop where all are from one camera; a warning says what that does to the false-reject rate.

    Raises:
        InputError: there are too few pairs to measure `target_false_accept_rate`. Then nothing is embedded.
    """
    identities, cameras = [crop.identity for crop in crops], [crop.camera for crop in crops]
    unknown = sum(not crop.has_known_camera for crop in crops)
    if crops and len(set(cameras)) == 1:
        logger.warning(f"{data}: all crops are from camera {cameras[0]}; {ONE_TAKE}")
        cameras = list(range(len(crops)))
    elif unknown:
        logger.warning(f"{data}: {unknown} of {len(crops)} crops have no camera ID; {ONE_TAKE}")
    check_pair_counts(*count_pairs(identities, cameras), data, target_false_accept_rate)
    vectors = embed_crops(embedder, crops, "crops")
    means = camera_means_of(embedder.contract)
    if means:  # as the galleries of an adapted model are searched
        vectors = means.center(vectors, [crop.known_camera for crop in crops])
    return score_pairs(vectors, identities, cameras)


def calibration_from_scores(
    scores: PairScores,
    data: str,
    target_false_accept_rate: float = TARGET_FALSE_ACCEPT_RATE,
    cameras: Collection[int] = (),
) -> Calibration:
    """The calibration with the lowest threshold that keeps to `target_false_accept_rate`.

    Args:
        scores: of genuine and impostor pairs.
        data: the name of the data that they come from.
        target_false_accept_rate: share of impostor pairs that the threshold may accept, between 0 and 1.
        cameras: the known cameras of the data.

    Raises:
        InputError: there are too few pairs to measure such a rate.
    """
    genuine, impostor = int(scores.genuine_counts.sum()), int(scores.impostor_counts.sum())
    check_pair_counts(genuine, impostor, data, target_false_accept_rate)
    calibration = choose_thresholds(scores, data, target_false_accept_rate)
    return replace(calibration, cameras=tuple(sorted(cameras)))


def choose_thresholds(scores: PairScores, data: str, target_false_accept_rate: float) -> Calibration:
    """As `calibration_from_scores`, for any number of pairs."""
    genuine, impostor = int(scores.genuine_counts.sum()), int(scores.impostor_counts.sum())
    false_accepts, false_rejects = scores.error_rates()
    cosines = bin_edges()
    # The first such bin: the rate falls as the cosine rises.
    lowest = np.argmax(false_accepts <= target_false_accept_rate)
    threshold = float(cosines[lowest])
    reject_threshold = min(threshold, float(cosines[np.argmax(false_rejects >= MAX_REJECTED_GENUINE)]))
    return Calibration(
        data=data,
        genuine_pairs=genuine,
        impostor_pairs=impostor,
        target_false_accept_rate=target_false_accept_rate,
        threshold=round(threshold, 6),
        reject_threshold=round(reject_threshold, 6),
        false_reject_rate=round(float(false_rejects[lowest]), 6),
        curve=_curve(false_accepts, cosines, impostor),
    )


def check_pair_counts(
    genuine: int, impostor: int, data: str, target_false_accept_rate: float = TARGET_FALSE_ACCEPT_RATE
) -> None:
    """Checks that the pairs are enough to measure `target_false_accept_rate`.

    Raises:
        InputError: they are not; the message says how many are needed.
    """
    if not 0 < target_false_accept_rate < 1:
        raise InputError(f"a false-accept rate must be between 0 and 1, not {target_false_accept_rate}")
    if genuine < MIN_PAIRS:
        raise InputError(
            f"{data}: only {genuine} genuine pairs (one person, two cameras); at least {MIN_PAIRS} are needed; "
            "give more identities with crops from several cameras"
        )
    if impostor * target_false_accept_rate < MIN_PAIRS:
        lowest = round_up(MIN_PAIRS / max(1, impostor))
        raise InputError(
            f"{data}: {impostor} pairs of different people are too few for a false-accept rate of "
            f"{target_false_accept_rate:g}; "
            + (f"choose {lowest:g} or more, or give more identities" if lowest < 1 else "give more identities"),
            parameter="far" if lowest < 1 else "data",
        )


def round_up(rate: float) -> float:
    """`rate` rounded up to one significant digit."""
    step = 10.0 ** math.floor(math.log10(rate))
    return float(f"{math.ceil(rate / step) * step:.1g}")


def _curve(
    false_accepts: npt.NDArray[np.float64], cosines: npt.NDArray[np.float64], impostor: int
) -> tuple[tuple[float, float], ...]:
    """Points (cosine, false-accept rate) at CURVE_POINTS_PER_DECADE, down to the rate of MIN_CURVE_PAIRS pairs."""
    points: list[tuple[float, float]] = []
    step = 10 ** (-1 / CURVE_POINTS_PER_DECADE)
    rate = step
    while rate * impostor >= MIN_CURVE_PAIRS:
        row = int(np.argmax(false_accepts <= rate))
        point = (round(float(cosines[row]), 6), float(f"{false_accepts[row]:.4g}"))
        if false_accepts[row] > 0 and (not points or point[0] > points[-1][0]):
            points.append(point)
        rate *= step
    return tuple(points)


def check_storable(model: Path) -> None:
    """Checks that `store_calibration` can write to the model file `model`.

    Raises:
        InputError: it is a checkpoint. A calibration belongs to the exported model.
        RunError: the file or its folder is write-protected.
    """
    if model.suffix == ".pt":
        raise InputError(f"{model}: a checkpoint; calibrate the exported model (`bot export` writes it)")
    if model.is_file():  # opening the model reports any other path
        check_writable(engine_file.sidecar_path(model) if model.suffix == ".engine" else model)


def store_calibration(model: str | Path, calibration: Calibration, measured_contract: Contract | None = None) -> None:
    """Writes `calibration` into the contract of the model file `model`, in place of an older one.

    Args:
        model: the exported model.
        calibration: its thresholds.
        measured_contract: the contract of the embedder that gave the scores; None if the file cannot have changed
            since.

    Raises:
        InputError: no model of ours, or a checkpoint. A calibration belongs to the exported model.
        RunError: the file cannot be written, or it has become another model than that of
            `measured_contract`.
    """
    model = Path(model)
    check_storable(model)
    contract = read_contract(model)
    if measured_contract and replace(measured_contract, calibration=contract.calibration) != contract:
        raise RunError(f"{model}: was replaced by another model during the calibration; calibrate again")
    write_contract(model, replace(contract, calibration=calibration))
