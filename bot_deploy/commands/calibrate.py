"""`bot calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot_deploy.choices import TARGET_FALSE_ACCEPT_RATE

from .footage import check_one_source, open_video_indexes
from .model_choice import choose_model, open_model
from .options import DETECTOR, FOOTAGE, JSON, Address, NumberRange, model_argument, runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bot_deploy.artifacts.contract import Calibration
    from bot_deploy.datasets import Crop
    from bot_deploy.embedder import Embedder
    from bot_deploy.matching.pairs import PairScores
    from bot_deploy.matching.tracks import Track


@click.command()
@model_argument(required=True)
@click.option("--data", help="Crops of identities from several cameras: a folder, .zip or .csv, or `synthetic`.")
@click.option(
    "--gallery", type=Address(), metavar="INDEX", help="Index of videos from `bot index`; no labels are needed."
)
@FOOTAGE
@click.option(
    "--far",
    type=NumberRange(0, 1, min_open=True, max_open=True),
    default=TARGET_FALSE_ACCEPT_RATE,
    show_default=True,
    help="False-accept rate: share of pairs of different people that may count as a match.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="F.png",
    help="Plot of scores, thresholds and ROC; default: beside the model.",
)
@DETECTOR
@runtime
@JSON
def calibrate(
    model: Path,
    data: str | None,
    gallery: str | None,
    videos: tuple[Path, ...],
    far: float,
    plot: Path | None,
    detector: Path | None,
    device: str,
    threads: int,
    batch: int,
    as_json: bool,
) -> None:
    """Find the cosine from which a match is the same person, and store it in MODEL.

    MODEL is an exported model: an .onnx or .engine file. For `box`, a copy of it gets the threshold, under runs/. With
    --data, use identities that it was not trained on: on its own training identities it looks better than it is.

    With --gallery or --footage nobody has to be labelled: two people in view of one camera at one time are different
    people, and a track is one person.
    """
    from bot_deploy.console import say, show_json
    from bot_deploy.datasets import check_sources
    from bot_deploy.files import prepare_output
    from bot_deploy.matching.calibrate import check_storable, store_calibration
    from bot_deploy.models import box
    from bot_deploy.reports.calibration_plot import plot_calibration

    check_one_source(
        data,
        gallery,
        videos,
        detector,
        "give one of labelled crops (--data), an index of videos (--gallery) and videos (--footage)",
    )
    if data:
        check_sources([data])
    model = choose_model(model)
    if model != box.PATH:  # the threshold for the built-in model goes into a copy
        check_storable(model)
    embedder = open_model(model, device, threads=threads, batch=batch)
    draws = _can_draw(plot)
    if plot or (draws and model != box.PATH):
        prepare_output(plot or _plot_path(model), "a plot", {".png"})
    if data:
        scores, calibration = _measure_crops(data, embedder, far)
    else:
        scores, calibration = _measure_tracks(gallery, videos, embedder, detector, threads, far)
    if model == box.PATH:
        model = _copy_box()
    plot = (plot or _plot_path(model)) if draws else None
    store_calibration(model, calibration, embedder.contract)
    say(*_describe(calibration), f"stored in {model}")
    if plot:
        plot_calibration(scores, calibration, plot)
        say(f"wrote {plot}")
    if as_json:
        document = {"model": str(model), "plot": str(plot) if plot else None, **vars(calibration)}
        show_json(document)


def _measure_crops(data: str, embedder: Embedder, far: float) -> tuple[PairScores, Calibration]:
    """Scores and calibration of labelled crops."""
    from bot_deploy.console import say
    from bot_deploy.datasets import describe_dataset, open_dataset
    from bot_deploy.matching.calibrate import (
        calibration_crops,
        calibration_from_scores,
        known_cameras,
        score_crop_pairs,
    )

    dataset = open_dataset(data)
    crops = calibration_crops(dataset)
    training = f"; its {_sizes(dataset.train)} for training are not used" if dataset.query and dataset.train else ""
    say(f"{dataset.name}: {_sizes(crops)}{training}")
    for line in describe_dataset(dataset):
        say(line)
    scores = score_crop_pairs(embedder, crops, dataset.name, far)
    return scores, calibration_from_scores(scores, dataset.name, far, known_cameras(crops))


def _measure_tracks(
    gallery: str | None, videos: Sequence[Path], embedder: Embedder, detector: Path | None, threads: int, far: float
) -> tuple[PairScores, Calibration]:
    """Scores and calibration of the tracks in an index of videos, or in videos."""
    from bot_deploy.addresses import mask_address
    from bot_deploy.camera_means import camera_means_of
    from bot_deploy.console import say
    from bot_deploy.footage import Footage
    from bot_deploy.gallery import open_index
    from bot_deploy.matching.centered_gallery import CenteredGallery
    from bot_deploy.matching.self_calibration import calibrate_by_tracks, has_enough_across
    from bot_deploy.matching.tracks import read_tracks, score_tracks

    means = camera_means_of(embedder.contract)
    indexes = (
        [open_index(gallery, embedder.contract)] if gallery else open_video_indexes(videos, embedder, detector, threads)
    )
    tracks: list[Track] = []
    numbers: dict[str, int] = {}  # of the cameras
    for index in indexes:
        with index:
            footage = Footage(index)
            tracks += read_tracks(CenteredGallery(index, means) if means else index, footage)
            numbers |= footage.cameras
    name = mask_address(gallery) if gallery else ", ".join(map(str, videos))
    say(f"{name}: {len(tracks)} appearances, cameras: {len(numbers)}; no labels are used")
    scores = score_tracks(tracks)
    across = has_enough_across(scores)
    # Only those with people in view together: the others were not measured.
    measured = {str(tracks[number].camera) for number in {*scores.first.tolist(), *scores.second.tolist()}}
    calibration = calibrate_by_tracks(scores, name, {numbers[camera] for camera in measured}, far)
    if across:
        say(f"{scores.pairs_across} pairs of tracks on two cameras, each other's nearest by far, count as one person")
    else:
        say("pairs of one person are crops of one track, seconds apart; too few people are surely on two cameras")
    return scores.histograms(across=across), calibration


def _describe(calibration: Calibration) -> list[str]:
    """`calibration` as lines."""
    from bot_deploy.matching.calibrate import MAX_REJECTED_GENUINE

    missed = f"{100 * calibration.false_reject_rate:.1f} %"
    match = f"match from {calibration.threshold:.4f}"
    rate = f"false-accept rate at most {100 * calibration.target_false_accept_rate:g} %"
    no_match = f"no match below {calibration.reject_threshold:.4f}"
    genuine, impostors = calibration.genuine_pairs, calibration.impostor_pairs
    if calibration.threshold_interval is None:
        return [
            f"{genuine} genuine pairs, {impostors} pairs of different people",
            f"{match}: {rate}, false-reject rate {missed}",
            f"{no_match}: at most {100 * MAX_REJECTED_GENUINE:.0f} % of the genuine pairs score lower",
        ]
    low, high = calibration.threshold_interval
    return [
        f"{impostors} pairs of crops of people in view together, {genuine} of one person",
        f"{match} (95 % interval {low:.4f} to {high:.4f}): {rate}",
        f"{missed} of the pairs of one person score lower; in truth it is more, which only labels can tell",
        f"{no_match}: at least half of the pairs of different people score higher",
    ]


def _copy_box() -> Path:
    """A copy of the built-in model under runs/, where `bot match` finds it; the package itself is never changed."""
    import shutil

    from bot_deploy import runs
    from bot_deploy.errors import RunError
    from bot_deploy.models import box

    copy = runs.new_folder(box.NAME) / runs.ONNX_NAME
    try:
        copy.parent.mkdir(parents=True)
        shutil.copyfile(box.PATH, copy)
    except OSError as error:
        raise RunError(f"{copy}: cannot be written ({error.strerror or error})") from None
    return copy


def _sizes(crops: Sequence[Crop]) -> str:
    return f"{len(crops)} crops of {len({crop.identity for crop in crops})} identities"


def _plot_path(model: Path) -> Path:
    """Where the plot is written by default."""
    return model.with_name(f"{model.name}.calibration.png")


def _can_draw(plot: Path | None) -> bool:
    """Whether matplotlib is installed; ModuleNotFoundError if it is not, and `plot` was asked for."""
    from bot_deploy.console import say
    from bot_deploy.telemetry import without_telemetry

    try:
        with without_telemetry():
            import matplotlib.figure  # noqa: F401 - only to see whether it is installed
    except ModuleNotFoundError:
        if plot:
            raise
        say("no plot, as matplotlib is not installed; pip install matplotlib")
        return False
    return True
