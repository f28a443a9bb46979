"""Measures the threshold that a network of `bot models` gets with its name, and writes it where the package has it.

    BOT_OFFLINE=1 BOT_MODELS=FOLDER python benchmarks/named_calibration.py retail-0265 --data Market-1501-v15.09.15.zip

As for the built-in model, it is chosen for one false accept in 1,000 pairs of training identities.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from bot_deploy import console
from bot_deploy.datasets import open_dataset
from bot_deploy.embedder import open_embedder
from bot_deploy.evaluation.embeddings import embed_or_reuse
from bot_deploy.export.by_name import calibration_path, prepare_model
from bot_deploy.matching.calibrate import calibration_from_scores
from bot_deploy.matching.pairs import score_pairs
from bot_deploy.models.table import NamedModel, find_named_network


@click.command()
@click.argument("name")
@click.option("--data", required=True, help="Data set whose training identities are scored.")
@click.option("--device", default="openvino", help="Device that embeds the crops.")
def main(name: str, data: str, device: str) -> None:
    """Write the calibration of the network NAME."""
    console.show_library_output()
    network = find_named_network(name)
    if not isinstance(network, NamedModel):
        raise click.UsageError(f"no ReID network {name} in the table of models")
    path, crops = prepare_model(network), open_dataset(data).train
    vectors = embed_or_reuse(open_embedder(path, device), crops, "training", model=path)
    scores = score_pairs(vectors, [crop.identity for crop in crops], [crop.camera for crop in crops])
    calibration = calibration_from_scores(scores, f"training identities of {Path(data).name}")
    calibration_path(name).write_text(json.dumps(dataclasses.asdict(calibration)) + "\n", encoding="utf-8")
    print(dataclasses.replace(calibration, curve=()))


if __name__ == "__main__":
    main()
