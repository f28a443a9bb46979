"""`bot calibrate`."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path

import click

from bot_deploy.commands.options import runtime


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True, help="Crops of identities that several cameras saw: a folder, .zip or .csv.")
@click.option("--far", default=1e-3, show_default=True, help="Share of pairs of different people to accept by mistake.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="F.png", help="Beside the model by default.")
@runtime
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def calibrate(
    model: Path, data: str, far: float, plot: Path | None, device: str, threads: int, batch: int, as_json: bool
) -> None:
    """Find the cosine from which MODEL's matches count as the same person, and store it in MODEL.

    Identities that the model was not trained on tell the truth; on its own training set it looks better than it is.
    """
    from bot_deploy import calibrate as calibration
    from bot_deploy.datasets import open_dataset
    from bot_deploy.embedder import open_embedder
    from bot_deploy.evaluation import embed_crops
    from bot_deploy.progress import say

    embedder = open_embedder(model, device, threads=threads, batch=batch)
    say(f"model {model} on {embedder.backend}")
    dataset = open_dataset(data)
    crops = [*dataset.query, *dataset.gallery] or list(dataset.train)
    vectors = embed_crops(embedder, crops, "crops")
    pairs = calibration.count_pairs(vectors, [crop.identity for crop in crops], [crop.camera for crop in crops])
    found = calibration.calibrate(pairs, dataset.name, far)
    calibration.store(model, found)
    say(
        f"{found.genuine} genuine pairs, {found.impostor} pairs of different people\n"
        f"match from {found.threshold:.4f}: false accepts {found.target:g}, misses {100 * found.missed:.1f} %\n"
        f"no match below {found.reject:.4f}: misses {100 * calibration.MISSED:.0f} % at most"
    )
    plot = plot or model.with_name(f"{model.name}.calibration.png")
    calibration.draw(pairs, found, plot)
    say(f"stored in {model}; drawn in {plot}")
    if as_json:
        click.echo(jsonlib.dumps({"model": str(model), "plot": str(plot), **vars(found)}))
