"""`bot ablate`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--data", multiple=True, help="What to train on; repeat it to merge sets. `synthetic` by default.")
@click.option("--test", help="What to score on; the same by default (Table 3 wants another).")
@click.option("--table", "number", type=int, default=1, show_default=True, help="Of the paper: 1, 2, 3, 5 or 6.")
@click.option("--recipe", "name", default="strong", show_default=True, help="With every trick on.")
@click.option("--weights", help="Start from `imagenet`, a weights FILE, or `none`; the recipe's own by default.")
@click.option("--steps", help="Only these rows, by name or number from 1, with commas between.")
@click.option("--epochs", type=click.IntRange(min=1), help="Train this long, the schedule scaled to it.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Runs of each row, averaged.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the table; runs/ablation-TABLE by default.")
def ablate(
    data: tuple[str, ...],
    test: str | None,
    number: int,
    name: str,
    weights: str | None,
    steps: str | None,
    epochs: int | None,
    seeds: int,
    overrides: tuple[str, ...],
    out: Path | None,
) -> None:
    """Run a table of the paper, trick by trick; started again, it goes on where it was stopped."""
    from bot_deploy import runs
    from bot_deploy.choices import SYNTHETIC
    from bot_deploy.console import say
    from bot_deploy.datasets import open_dataset, open_merged
    from bot_deploy.errors import InputError
    from bot_deploy.train import ablation, recipe

    chosen = recipe.load(name, overrides, weights)
    if epochs:
        chosen = ablation.scaled(chosen, epochs)
    table = ablation.rungs(number, chosen)
    if steps:
        wanted = [step.strip() for step in steps.split(",")]
        names = {key: rung for row, rung in enumerate(table, start=1) for key in (str(row), rung.name)}
        unknown = [step for step in wanted if step not in names]
        if unknown:
            raise InputError(f"--steps: no row {', '.join(unknown)}; there are {', '.join(r.name for r in table)}")
        table = [names[step] for step in wanted]
    trained = open_merged(data or (SYNTHETIC,))
    scored = open_dataset(test) if test else trained
    out = out or runs.RUNS / f"ablation-{number}"
    ablation.run(chosen, table, seeds, trained, scored, out)
    say(f"wrote {out / 'table.md'}, table.csv and table.png")
    click.echo((out / "table.md").read_text(encoding="utf-8"))
