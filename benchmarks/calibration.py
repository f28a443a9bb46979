"""Measures whether a calibrated threshold keeps its false-accept rate on other people.

    python benchmarks/calibration.py --model model.onnx --data Market-1501.zip
    python benchmarks/calibration.py --model box --other VIPeR.v1.0.zip --other people

With --data, the threshold is chosen on the training identities, and measured on the test identities (query and gallery
together). With --other, the stored threshold of the model is measured on the test identities of other data sets, and
the verdict on a score just above it is shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot_deploy.datasets import Crop, open_dataset
from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.matching.calibrate import calibration_from_scores, score_crop_pairs
from bot_deploy.matching.pairs import PairScores, bin_edges
from bot_deploy.matching.verdict import make_verdict
from bot_deploy.models.cache import find_model

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command()
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Exported model or checkpoint.")
@click.option("--data", help="Data set with training and test identities.")
@click.option("--other", "others", multiple=True, help="Data set that the model was not calibrated on; repeatable.")
def main(model: Path, data: str | None, others: tuple[str, ...]) -> None:
    """Print the tables of benchmarks/README.md."""
    embedder = open_embedder(find_model(model))
    if data:
        measure_on_test_identities(embedder, data)
    if others:
        measure_elsewhere(embedder, others)


def measure_elsewhere(embedder: Embedder, others: Sequence[str]) -> None:
    """Prints what the stored threshold of `embedder` does on other data sets."""
    calibration = embedder.contract.calibration
    if not calibration:
        raise click.UsageError("--other needs a model with a calibration")
    row = int((bin_edges() < calibration.threshold - 1e-9).sum())
    print("| set | threshold | pairs of different people | accepted | rate | pairs of one person | rejected |")
    print("| --- " + "| ---: " * 6 + "|")
    for name in others:
        dataset = open_dataset(name)
        scores = _scores(embedder, [*dataset.query, *dataset.gallery], name)
        impostors, genuine = scores.impostor_counts, scores.genuine_counts
        print(
            f"| {Path(name).name} | {calibration.threshold:.3f} | {impostors.sum()} | {impostors[row:].sum()} | "
            f"{impostors[row:].sum() / impostors.sum():.2e} | {genuine.sum()} | "
            f"{100 * genuine[:row].sum() / genuine.sum():.1f} % |"
        )
    verdict = make_verdict(calibration, calibration.threshold + 0.001, images=100, cameras=(1, 2))
    print(f"\nthe verdict just above the threshold, in a gallery of 100 images: {verdict.explanation}")


def measure_on_test_identities(embedder: Embedder, data: str) -> None:
    """Prints what thresholds that are chosen on training identities do on test identities."""
    dataset = open_dataset(data)
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
