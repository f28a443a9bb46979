"""`bot train`."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command()
@click.option("--data", multiple=True, help="Folder, .zip or .csv of crops; repeat to merge. `synthetic` by default.")
@click.option("--recipe", "name", help="How to train, a name in train/recipes/; `quick`, or `synthetic` on synthetic.")
@click.option("--weights", help="Start from `imagenet`, a weights FILE, or `none`; the recipe's own by default.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run; runs/RECIPE by default.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe; repeatable."
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out (the newest by default), as it was begun.")
def train(
    data: tuple[str, ...],
    name: str | None,
    weights: str | None,
    out: Path | None,
    overrides: tuple[str, ...],
    resume: bool,
) -> None:
    """Train a model; writes model.pt, metrics.csv and curves.png."""
    from bot_deploy import runs
    from bot_deploy.choices import SYNTHETIC
    from bot_deploy.console import say
    from bot_deploy.datasets import open_merged
    from bot_deploy.errors import InputError
    from bot_deploy.train import loop, recipe, run_files

    if resume and out is None:
        out = runs.newest_file(run_files.CONFIG, "nothing to resume").parent
    if out and resume and not (data or name or overrides or weights):
        chosen, data = run_files.read_config(out)
    else:
        data = data or (SYNTHETIC,)
        name = name or ("synthetic" if data == (SYNTHETIC,) else "quick")
        chosen = recipe.load(name, overrides, weights)
        if out is None and "WORLD_SIZE" in os.environ:
            raise InputError("name the folder of the run with --out, so that all processes of torchrun mean the same")
        out = out or runs.new_folder(name)
    path = loop.train(chosen, open_merged(data), out, resume=resume)
    if os.environ.get("RANK", "0") == "0":
        say(f"wrote {path}; next: bot export {out}")
