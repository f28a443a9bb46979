"""`bot calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot_deploy.choices import TARGET_FALSE_ACCEPT_RATE

from .model_choice import choose_model, open_model
from .options import JSON, NumberRange, runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bot_deploy.datasets import Crop


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data", required=True, help="Crops of identities from several cameras: a folder, .zip or .csv, or `synthetic`."
)
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
@runtime
@JSON
def calibrate(
    model: Path, data: str, far: float, plot: Path | None, device: str, threads: int, batch: int, as_json: bool
) -> None:
    """Find the cosine from which a match is the same person, and store it in MODEL.

    MODEL is an exported model: an .onnx or .engine file. For `box`, a copy of it gets the threshold, under runs/. Use
    identities that it was not trained on: on its own training identities it looks better than it is.
    """
    from bot_deploy.console import say, show_json
    from bot_deploy.datasets import check_sources, describe_dataset, open_dataset
    from bot_deploy.files import prepare_output
    from bot_deploy.matching.calibrate import (
        MAX_REJECTED_GENUINE,
        calibration_crops,
        calibration_from_scores,
        check_storable,
        score_crop_pairs,
        store_calibration,
    )
    from bot_deploy.models import box
    from bot_deploy.reports.calibration_plot import plot_calibration

    check_sources([data])
    model = choose_model(model)
    if model != box.PATH:  # the threshold for the built-in model goes into a copy
        check_storable(model)
    embedder = open_model(model, device, threads=threads, batch=batch)
    if model == box.PATH:
        model = _copy_box()
    plot = _plot_path(model, plot)
    if plot:
        prepare_output(plot, "a plot", {".png"})
    dataset = open_dataset(data)
    crops = calibration_crops(dataset)
    training = f"; its {_sizes(dataset.train)} for training are not used" if dataset.query and dataset.train else ""
    say(f"{dataset.name}: {_sizes(crops)}{training}")
    for line in describe_dataset(dataset):
        say(line)
    scores = score_crop_pairs(embedder, crops, dataset.name, far)
    calibration = calibration_from_scores(scores, dataset.name, far)
    store_calibration(model, calibration, embedder.contract)
    say(
        f"{calibration.genuine_pairs} genuine pairs, {calibration.impostor_pairs} pairs of different people",
        f"match from {calibration.threshold:.4f}: false-accept rate at most "
        f"{100 * calibration.target_false_accept_rate:g} %, "
        f"false-reject rate {100 * calibration.false_reject_rate:.1f} %",
        f"no match below {calibration.reject_threshold:.4f}: at most {100 * MAX_REJECTED_GENUINE:.0f} % of the genuine "
        "pairs score lower",
    )
    say(f"stored in {model}")
    if plot:
        plot_calibration(scores, calibration, plot)
        say(f"wrote {plot}")
    if as_json:
        document = {"model": str(model), "plot": str(plot) if plot else None, **vars(calibration)}
        show_json(document)


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


def _plot_path(model: Path, plot: Path | None) -> Path | None:
    """The path of the plot; None if none was given and matplotlib is not installed."""
    from bot_deploy.console import say
    from bot_deploy.telemetry import without_telemetry

    try:
        with without_telemetry():
            import matplotlib.figure  # noqa: F401 - only to see whether it is installed
    except ModuleNotFoundError:
        if plot:
            raise
        say("no plot, as matplotlib is not installed; pip install matplotlib")
        return None
    return plot or model.with_name(f"{model.name}.calibration.png")
