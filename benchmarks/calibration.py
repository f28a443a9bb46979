"""Measures whether a calibrated threshold keeps its false-accept rate on other people.

    python benchmarks/calibration.py --model model.onnx --data Market-1501.zip

The threshold is chosen on the training identities, and measured on the test identities (query and gallery together).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot_deploy.datasets import Crop, open_dataset
from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.matching.calibrate import calibration_from_scores, score_crop_pairs
from bot_deploy.matching.pairs import PairScores, bin_edges

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command()
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Exported model or checkpoint.")
@click.option("--data", required=True, help="Data set with training and test identities.")
def main(model: Path, data: str) -> None:
    """Print the table of benchmarks/README.md."""
    embedder, dataset = open_embedder(model), open_dataset(data)
    train_scores = _scores(embedder, dataset.train, "training identities")
    test_scores = _scores(embedder, [*dataset.query, *dataset.gallery], "test identities")
    false_accept_rates, false_reject_rates = test_scores.error_rates()
    print(
        "| target false-accept rate | threshold | on test identities | false rejects, training | false rejects, test |"
    )
    print("| ---: | ---: | ---: | ---: | ---: |")
    for target in (1e-2, 1e-3, 1e-4):
        calibration = calibration_from_scores(train_scores, "training identities", target)
        row = int((bin_edges() < calibration.threshold - 1e-9).sum())
        rate = false_accept_rates[row]
        print(
            f"| {target:g} | {calibration.threshold:.4f} | {rate:.2e} ({rate / target:.2f}x) | "
            f"{100 * calibration.false_reject_rate:.1f} % | {100 * false_reject_rates[row]:.1f} % |"
        )
    print(f"\n{train_scores.impostor_counts.sum()} and {test_scores.impostor_counts.sum()} pairs of different people")


def _scores(embedder: Embedder, crops: Sequence[Crop], data: str) -> PairScores:
    return score_crop_pairs(embedder, crops, data, target_false_accept_rate=1e-2)


if __name__ == "__main__":
    main()
