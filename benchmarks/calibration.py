"""Measures whether a calibrated threshold keeps its false-accept rate on other people.

    python benchmarks/calibration.py --model model.onnx --data Market-1501.zip

The threshold is chosen on the training identities, and measured on the test identities (query and gallery together).
"""

from __future__ import annotations

from pathlib import Path

import click

from bot_deploy.datasets import Crop, open_dataset
from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.evaluation.protocol import embed_crops
from bot_deploy.matching import calibrate


@click.command()
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Exported model or checkpoint.")
@click.option("--data", required=True, help="Data set with training and test identities.")
def main(model: Path, data: str) -> None:
    """Print the table of benchmarks/README.md."""
    embedder, dataset = open_embedder(model), open_dataset(data)
    train_pairs = _count_pairs(embedder, dataset.train, "training identities")
    test_pairs = _count_pairs(embedder, [*dataset.query, *dataset.gallery], "test identities")
    false_accept_rates, false_reject_rates = test_pairs.rates()
    print(
        "| target false-accept rate | threshold | on test identities | false rejects, training | false rejects, test |"
    )
    print("| ---: | ---: | ---: | ---: | ---: |")
    for target in (1e-2, 1e-3, 1e-4):
        calibration = calibrate.calibrate(train_pairs, "training identities", target)
        row = int((calibrate.edges() < calibration.threshold - 1e-9).sum())
        rate = false_accept_rates[row]
        print(
            f"| {target:g} | {calibration.threshold:.4f} | {rate:.2e} ({rate / target:.2f}x) | "
            f"{100 * calibration.false_reject_rate:.1f} % | {100 * false_reject_rates[row]:.1f} % |"
        )
    print(f"\n{train_pairs.impostor.sum()} and {test_pairs.impostor.sum()} pairs of different people")


def _count_pairs(embedder: Embedder, crops: list[Crop] | tuple[Crop, ...], label: str) -> calibrate.Pairs:
    vectors = embed_crops(embedder, crops, label)
    return calibrate.count_pairs(vectors, [crop.identity for crop in crops], [crop.camera for crop in crops])


if __name__ == "__main__":
    main()
