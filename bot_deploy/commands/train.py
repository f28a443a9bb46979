"""`bot train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .model_choice import choose_model, say_terms
from .options import OFFLINE, RecipeCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bot_deploy.train.recipe import Recipe


@click.command(cls=RecipeCommand)
@click.option(
    "--data", multiple=True, help="Folder, .zip or .csv of crops; repeat it to merge data sets; default: synthetic."
)
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    help="Name of a built-in recipe, or a .toml file; default: quick. On synthetic data the default is synthetic, "
    "except with --weights box; without labels it is unlabelled.",
)
@click.option(
    "--weights",
    help="Initial weights: `imagenet`, `box`, a FILE, a run's folder, or `none`; default: those of the recipe.",
)
@click.option(
    "--teacher",
    metavar="MODEL",
    help="Model whose embeddings the new one follows, beside the labels: a file, or a name of `bot models`.",
)
@click.option(
    "--unlabelled",
    "--unlabeled",
    "unlabelled",
    multiple=True,
    metavar="PATH",
    help="Folder, .zip or index (`bot index`) of crops of unknown people, for the teacher; without --data and "
    "--teacher, people are found by clustering. Repeatable.",
)
@click.option(
    "--compatible-with",
    metavar="MODEL",
    help="Earlier model, whose galleries the new one can search: a file, or a name of `bot models`.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder of the run; default: runs/RECIPE.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Value of a recipe key; repeatable.")
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the run in --out (default: the newest run) with its own settings. --set epochs=40 adds epochs; "
    "--data is for data that have moved.",
)
@OFFLINE
def train(
    data: tuple[str, ...],
    recipe: str | None,
    weights: str | None,
    teacher: str | None,
    unlabelled: tuple[str, ...],
    compatible_with: str | None,
    out: Path | None,
    overrides: tuple[str, ...],
    resume: bool,
) -> None:
    """Train a model; writes model.pt, metrics.csv and curves.png."""
    from bot_deploy import runs
    from bot_deploy.choices import SYNTHETIC
    from bot_deploy.console import say
    from bot_deploy.datasets import describe_dataset, open_dataset, training_notes
    from bot_deploy.errors import InputError
    from bot_deploy.train import run_files
    from bot_deploy.train.recipe import load_recipe

    # Wrong paths are reported before PyTorch is imported.
    _check_files([*data, *unlabelled], weights)
    teacher = str(choose_model(teacher)) if teacher else None
    earlier = str(choose_model(compatible_with)) if compatible_with else None
    if resume and out is None:
        out = runs.newest_file(run_files.CONFIG_NAME, "nothing to resume").parent
    without_labels = bool(unlabelled) and not data and not teacher
    if out and resume and not recipe and (out / run_files.CONFIG_NAME).exists():
        # The run's own settings, with those changes that are named now: more epochs, or data that have moved.
        own = run_files.read_config(out)
        settings = load_recipe(out / run_files.CONFIG_NAME, overrides, weights) if overrides or weights else own.recipe
        data, teacher, unlabelled = data or own.sources, teacher or own.teacher, unlabelled or own.unlabelled
        earlier, without_labels = earlier or own.compatible_with, own.labels_are_found
    elif out and resume and not (data or recipe or overrides or weights):
        own = run_files.read_config(out)
        settings, data, teacher, unlabelled = own.recipe, own.sources, own.teacher, own.unlabelled
        earlier, without_labels = own.compatible_with, own.labels_are_found
    else:
        data = data or (() if without_labels else (SYNTHETIC,))
        recipe = recipe or _default_recipe(data, weights)
        settings = load_recipe(recipe, overrides, weights)
        if out is None and "WORLD_SIZE" in os.environ:
            raise InputError("name the folder of the run, so that all processes of torchrun share it", parameter="out")
        out = out or runs.new_folder(_run_name(recipe))
    if without_labels:
        _train_without_labels(settings, unlabelled or data, out, earlier, resume=resume)
        return
    dataset = open_dataset(*data)
    if os.environ.get("RANK", "0") == "0":
        for line in (
            *describe_dataset(dataset),
            *training_notes(dataset, settings.identities_per_batch, settings.images_per_identity),
        ):
            say(line)
    _prepare_torch()
    from bot_deploy.train import loop

    path = loop.train(
        settings, dataset, out, resume=resume, teacher=teacher, unlabelled=unlabelled, compatible_with=earlier
    )
    if os.environ.get("RANK", "0") == "0":
        say(f"wrote {path}; next: bot export {out}")


def _train_without_labels(
    settings: Recipe, crops: Sequence[str], out: Path, earlier: str | None, *, resume: bool
) -> None:
    """`bot train --unlabelled` without labels and without a teacher."""
    from bot_deploy.console import say
    from bot_deploy.errors import InputError

    if earlier:
        raise InputError("people who are found by clustering have no earlier vectors", parameter="compatible_with")
    _prepare_torch()
    from bot_deploy.train.pseudo_labels import train_unlabeled

    path = train_unlabeled(settings, crops, out, resume=resume)
    say(f"wrote {path}; next: bot export {out}")


def _prepare_torch() -> None:
    import torch

    from bot_deploy.train.cpu_settings import speed_up_cpu

    if not torch.cuda.is_available():
        speed_up_cpu()


def _default_recipe(data: tuple[str, ...], weights: str | None) -> str:
    """The recipe for these sources; there are none where nothing is labelled."""
    from bot_deploy.choices import SYNTHETIC
    from bot_deploy.models import box

    if not data:
        return "unlabelled"
    return "synthetic" if data == (SYNTHETIC,) and weights != box.NAME else "quick"


def _check_files(sources: Sequence[str], weights: str | None) -> None:
    """Raises an InputError for a path that does not exist."""
    from bot_deploy.datasets import check_sources
    from bot_deploy.train import run_files

    check_sources(sources)
    if weights not in {None, "", "imagenet", "none"}:
        say_terms(run_files.weights_file(str(weights)))


def _run_name(recipe: str) -> str:
    """The name of a run with this recipe: that of the recipe or its file, or of the run whose config.toml it is."""
    path = Path(recipe)
    return path.resolve().parent.name if path.name == "config.toml" else path.stem
