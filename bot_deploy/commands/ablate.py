"""`bot ablate`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from .options import COUNT, OFFLINE, RecipeCommand, RenamedOption


@click.command(cls=RecipeCommand)
@click.option("--data", multiple=True, help="Data to train on; repeat it to merge data sets; default: synthetic.")
@click.option("--test", help="Data to evaluate on; default: --data. Table 3 needs another data set.")
@click.option("--table", type=int, default=1, show_default=True, help="Number of the paper's table: 1, 2, 3, 5 or 6.")
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    default="strong",
    show_default=True,
    help="Recipe with all tricks on: the name of a built-in recipe, or a .toml file.",
)
@click.option(
    "--weights",
    help="Initial weights: `imagenet`, `box`, a FILE, a run's folder, or `none`; default: those of the recipe.",
)
@click.option(
    "--rows",
    "--steps",
    cls=RenamedOption,
    help="Rows of the table, by name or number from 1, separated by commas; default: all.",
)
@click.option("--epochs", type=COUNT, help="Number of epochs; the schedule is scaled to it.")
@click.option(
    "--seeds",
    type=COUNT,
    default=1,
    show_default=True,
    help="Number of trainings of each row; their scores are averaged.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Value of a recipe key; repeatable.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder of the table; default: runs/ablation-TABLE.")
@OFFLINE
def ablate(
    data: tuple[str, ...],
    test: str | None,
    table: int,
    recipe: str,
    weights: str | None,
    rows: str | None,
    epochs: int | None,
    seeds: int,
    overrides: tuple[str, ...],
    out: Path | None,
) -> None:
    """Reproduce a table of the paper: train one model for each row. A run that was stopped continues."""
    from bot_deploy import runs
    from bot_deploy.choices import SYNTHETIC
    from bot_deploy.console import say, show
    from bot_deploy.datasets import check_sources, describe_dataset, open_dataset, training_notes
    from bot_deploy.errors import InputError
    from bot_deploy.train import run_files
    from bot_deploy.train.recipe import load_recipe

    # Wrong paths are reported before PyTorch is imported.
    check_sources([*data, *([test] if test else [])])
    if weights not in {None, "", "imagenet", "none"}:
        run_files.weights_file(str(weights))

    import torch

    from bot_deploy.train import ablation
    from bot_deploy.train.cpu_settings import speed_up_cpu

    settings = load_recipe(recipe, overrides, weights)
    if epochs:
        settings = ablation.scale_schedule(settings, epochs)
    variants = ablation.table_variants(table, settings)
    if rows:
        chosen = [row.strip() for row in rows.split(",")]
        by_name = {key: variant for number, variant in enumerate(variants, 1) for key in (str(number), variant.name)}
        unknown = [row for row in chosen if row not in by_name]
        if unknown:
            names = ", ".join(variant.name for variant in variants)
            raise InputError(f"no row {', '.join(unknown)}; choose from {names}", parameter="rows")
        variants = [by_name[row] for row in chosen]
    train_data = open_dataset(*(data or (SYNTHETIC,)))
    test_data = open_dataset(test) if test else train_data
    notes = training_notes(
        dataclasses.replace(train_data, query=test_data.query, gallery=test_data.gallery),
        settings.identities_per_batch,
        settings.images_per_identity,
    )
    for line in (*describe_dataset(train_data), *(describe_dataset(test_data) if test else []), *notes):
        say(line)
    out = out or runs.RUNS / f"ablation-{table}"
    if not torch.cuda.is_available():
        speed_up_cpu()
    ablation.run_ablation(settings, variants, seeds, train_data, test_data, out)
    say(f"wrote {out / 'table.md'}, table.csv and table.png")
    show(*(out / "table.md").read_text(encoding="utf-8").split("\n"))
