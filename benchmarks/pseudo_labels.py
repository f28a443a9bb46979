"""Training without labels against training with them: the same network, crops and epochs.

    python benchmarks/pseudo_labels.py --weights box --data synthetic --set height=128 --set width=64 --set epochs=6

The training crops of --data are copied under names that tell nothing but their cameras. The table has the initial
weights, the model of `bot train --unlabelled`, and that of `bot train` with the labels.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from bot_deploy import console
from bot_deploy.datasets import Dataset, open_dataset
from bot_deploy.evaluation.protocol import Scores, evaluate_dataset
from bot_deploy.train import load_recipe, train
from bot_deploy.train.cpu_settings import speed_up_cpu
from bot_deploy.train.pseudo_labels import train_unlabeled
from bot_deploy.train.run_files import weights_file


def hide_labels(dataset: Dataset, folder: Path) -> None:
    """Copies the training crops to `folder` as c1/000001.jpg: camera and number."""
    for number, crop in enumerate(dataset.train):
        place = folder / f"c{crop.camera}" / f"{number:06d}{Path(crop.path.name).suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(crop.path.read_bytes())


@click.command()
@click.option("--weights", default="box", show_default=True, help="Initial weights: a model or a run.")
@click.option("--data", default="synthetic", show_default=True, help="Data set with training, query and gallery crops.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Value of a recipe key; repeatable.")
def main(weights: str, data: str, overrides: tuple[str, ...]) -> None:
    """Print a table of the scores."""
    console.show_library_output()
    speed_up_cpu()
    dataset, recipe = open_dataset(data), load_recipe("unlabelled", overrides, weights)
    print("| training | rank-1 | mAP |\n|---|---|---|")
    print(f"| none | {show(evaluate_dataset(weights_file(weights), dataset))} |", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hide_labels(dataset, folder / "crops")
        found = train_unlabeled(recipe, [folder / "crops"], folder / "without")
        print(f"| without labels | {show(evaluate_dataset(found, dataset))} |", flush=True)
        taught = train(recipe, dataset, folder / "with")
        print(f"| with labels | {show(evaluate_dataset(taught, dataset))} |", flush=True)


def show(scores: Scores) -> str:
    """Rank-1 and mAP."""
    return f"{scores.rank1:.2f} | {scores.mAP:.2f}"


if __name__ == "__main__":
    main()
