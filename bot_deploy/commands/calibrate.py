"""`bot calibrate`."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot_deploy.choices import TARGET_FALSE_ACCEPT_RATE

from .options import runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bot_deploy.datasets import Crop


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True, help="Crops of identities that several cameras saw: a folder, .zip or .csv.")
@click.option(
    "--far",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=TARGET_FALSE_ACCEPT_RATE,
    show_default=True,
    help="Share of pairs of different people to accept by mistake.",
)
@click.option("--plot", type=click.Path(path_type=Path), metavar="F.png", help="Beside the model by default.")
@runtime
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def calibrate(
    model: Path, data: str, far: float, plot: Path | None, device: str, threads: int, batch: int, as_json: bool
) -> None:
    """Find the cosine from which MODEL's matches count as the same person, and store it in MODEL.

    MODEL is what will run: an .onnx or .engine file. Identities that it was not trained on tell the truth; on its own
    training set it looks better than it is.
    """
    from bot_deploy.console import say
    from bot_deploy.datasets import open_dataset
    from bot_deploy.embedder import open_embedder
    from bot_deploy.evaluation.protocol import embed_crops
    from bot_deploy.files import prepare_output
    from bot_deploy.matching import calibrate as calibration

    calibration.check(model)
    embedder = open_embedder(model, device, threads=threads, batch=batch)
    say(f"model {model} on {embedder.backend}")
    plot = _picture(model, plot)
    if plot:
        prepare_output(plot, "a picture", {".png"})
    dataset = open_dataset(data)
    crops = [*dataset.query, *dataset.gallery] or list(dataset.train)
    rest = f"; {_of(dataset.train)} are for training" if dataset.query and dataset.train else ""
    say(f"{dataset.name}: {_of(crops)}{rest}")
    unknown = sum(not crop.has_known_camera for crop in crops)
    if unknown:
        say(
            f"{unknown} of them do not say which camera saw them, and count as seen by one each: if they are "
            "neighbouring frames, a person will score lower before another camera than is estimated here"
        )
    labels = [crop.identity for crop in crops], [crop.camera for crop in crops]
    calibration.check_pairs(*calibration.how_many(*labels), dataset.name, far)
    pairs = calibration.count_pairs(embed_crops(embedder, crops, "crops"), *labels)
    found = calibration.calibrate(pairs, dataset.name, far)
    calibration.store(model, found)
    say(
        f"{found.genuine} genuine pairs, {found.impostor} pairs of different people\n"
        f"match from {found.threshold:.4f}: false accepts {found.target:g}, "
        f"misses {100 * found.false_reject_rate:.1f} %\n"
        f"no match below {found.reject_threshold:.4f}: misses {100 * calibration.MISSED:.0f} % at most"
    )
    say(f"stored in {model}")
    if plot:
        calibration.draw(pairs, found, plot)
        say(f"drawn in {plot}")
    if as_json:
        click.echo(jsonlib.dumps({"model": str(model), "plot": str(plot) if plot else None, **vars(found)}))


def _of(crops: Sequence[Crop]) -> str:
    return f"{len(crops)} crops of {len({crop.identity for crop in crops})} identities"


def _picture(model: Path, plot: Path | None) -> Path | None:
    """Where to draw; nowhere when that was not asked for and matplotlib is not installed."""
    from bot_deploy.console import say

    try:
        import matplotlib.figure  # noqa: F401 - it is heavy, but used
    except ModuleNotFoundError:
        if plot:
            raise
        say("nothing will be drawn, as matplotlib is not installed; pip install matplotlib")
        return None
    return plot or model.with_name(f"{model.name}.calibration.png")
