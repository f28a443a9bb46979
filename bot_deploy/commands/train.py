"""`bot train`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--data", default="synthetic", show_default=True, help="Folder or .zip of crops, or `synthetic`.")
@click.option("--recipe", "name", default="quick", show_default=True, help="How to train; see train/recipes/.")
@click.option("--weights", help="Start from `imagenet`, a weights FILE, or `none`; the recipe's own by default.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run; runs/RECIPE by default.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the recipe; repeatable."
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out (the newest one by default).")
def train(
    data: str, name: str, weights: str | None, out: Path | None, overrides: tuple[str, ...], resume: bool
) -> None:
    """Train a model; writes model.pt, metrics.csv and curves.png."""
    from bot_deploy import runs
    from bot_deploy.datasets import open_dataset
    from bot_deploy.progress import say
    from bot_deploy.train import loop, recipe

    if weights:
        overrides = (*overrides, f"weights={weights}")
    chosen = recipe.load(name, overrides)
    if out is None:
        out = runs.newest("config.toml", "nothing to resume").parent if resume else runs.new_folder(name)
    path = loop.train(chosen, open_dataset(data), out, resume=resume)
    say(f"wrote {path}; next: bot export {out}")
