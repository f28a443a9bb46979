"""Does a threshold keep its false-accept rate on people that it was not chosen on?

    python benchmarks/calibration.py --model model.onnx --data Market-1501.zip

Chosen on the training identities, measured on the identities of the official test split (query and gallery together).
"""

from __future__ import annotations

from pathlib import Path

import click

from bot_deploy.datasets import Crop, open_dataset
from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.evaluation.protocol import embed_crops
from bot_deploy.matching import calibrate


@click.command()
@click.option("--model", type=click.Path(path_type=Path), required=True)
@click.option("--data", required=True)
def main(model: Path, data: str) -> None:
    """Prints the table of benchmarks/README.md."""
    embedder, dataset = open_embedder(model), open_dataset(data)
    chosen_on = _pairs(embedder, dataset.train, "training identities")
    measured_on = _pairs(embedder, [*dataset.query, *dataset.gallery], "test identities")
    accepted, missed = measured_on.rates()
    print("| asked for | threshold | false accepts, test identities | missed, training | missed, test |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for target in (1e-2, 1e-3, 1e-4):
        found = calibrate.calibrate(chosen_on, "training identities", target)
        row = int((calibrate.edges() < found.threshold - 1e-9).sum())
        print(
            f"| {target:g} | {found.threshold:.4f} | {accepted[row]:.2e} ({accepted[row] / target:.2f}x) | "
            f"{100 * found.false_reject_rate:.1f} % | {100 * missed[row]:.1f} % |"
        )
    print(f"\n{chosen_on.impostor.sum()} and {measured_on.impostor.sum()} pairs of different people")


def _pairs(embedder: Embedder, crops: list[Crop] | tuple[Crop, ...], label: str) -> calibrate.Pairs:
    vectors = embed_crops(embedder, crops, label)
    return calibrate.count_pairs(vectors, [crop.identity for crop in crops], [crop.camera for crop in crops])


if __name__ == "__main__":
    main()
