"""A model that follows an earlier one: how well it searches the earlier one's gallery, and its own.

    python benchmarks/compatibility.py --model box --data synthetic --weight 0 --weight 1 --weight 10

For each weight of the compatibility loss, the earlier model is trained further on the training crops of --data. Its
query crops are then searched in gallery crops that the earlier model has embedded, and in those of the new one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from bot_deploy import console
from bot_deploy.datasets import open_dataset
from bot_deploy.evaluation.protocol import Scores, evaluate_dataset
from bot_deploy.models.cache import find_model
from bot_deploy.train import load_recipe, train
from bot_deploy.train.cpu_settings import speed_up_cpu

# A training of minutes.
SETTINGS = ("epochs=3", "warmup_epochs=1", "milestones=[2]", "lr=2e-4", "eval_every=0")


@click.command()
@click.option("--model", default="box", show_default=True, help="The earlier model: a file or a name.")
@click.option("--data", default="synthetic", show_default=True, help="Data set with training, query and gallery crops.")
@click.option("--weight", "weights", type=float, multiple=True, required=True, help="compatibility_weight; repeatable.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Value of a recipe key; repeatable.")
def main(model: str, data: str, weights: tuple[float, ...], overrides: tuple[str, ...]) -> None:
    """Print a table of the scores, rank-1 / mAP."""
    console.show_library_output()
    speed_up_cpu()
    dataset, earlier = open_dataset(data), find_model(model)
    old = evaluate_dataset(earlier, dataset)
    print("| compatibility_weight | old in old | new in old | old in new | new in new |\n" + "|---" * 5 + "|")
    for weight in weights:
        settings = (*SETTINGS, f"compatibility_weight={weight}", *overrides)
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            new = train(load_recipe("quick", settings, str(earlier)), dataset, run, compatible_with=earlier)
            scores = (
                old,
                evaluate_dataset(new, dataset, gallery_model=earlier),
                evaluate_dataset(earlier, dataset, gallery_model=new),
                evaluate_dataset(new, dataset),
            )
        print(f"| {weight:g} | {' | '.join(map(show, scores))} |", flush=True)


def show(scores: Scores) -> str:
    """Rank-1 / mAP."""
    return f"{scores.rank1:.2f} / {scores.mAP:.2f}"


if __name__ == "__main__":
    main()
