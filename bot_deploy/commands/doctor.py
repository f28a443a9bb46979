"""`bot doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from .model_choice import choose_model, open_model
from .options import JSON, RenamedOption, runtime


@click.command()
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option(
    "--images",
    "folder",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of crops, cut as your application cuts them.",
)
@click.option(
    "--max-crops",
    "--count",
    cls=RenamedOption,
    type=click.IntRange(2, 1_000_000),
    default=200,
    show_default=True,
    help="Maximum number of crops, evenly spread.",
)
@runtime
@JSON
def doctor(
    model: Path | None, folder: Path, max_crops: int, device: str, threads: int, batch: int, as_json: bool
) -> None:
    """Measure on your own crops what wrong preprocessing would do to MODEL, and look for signs of it.

    Without MODEL, the newest export is examined, or else the built-in model.

    Cosines compare a crop that is preprocessed wrongly with the same crop preprocessed correctly: the loss if only
    the query or only the gallery is wrong. The other columns compare crops that are all preprocessed wrongly: the
    share with another nearest crop, and the mean cosine between different crops. Near 1, the model cannot tell people
    apart. Warnings are advice; the exit code stays 0.
    """
    from bot_deploy.console import say_left_out, show, show_json
    from bot_deploy.doctor import diagnose
    from bot_deploy.files import require_path

    require_path(folder, "folder of crops")
    model = choose_model(model)
    embedder = open_model(model, device, threads=threads, batch=batch, check=False)
    diagnosis = diagnose(embedder, folder, max_crops)
    say_left_out(list(diagnosis.broken.values()))
    if as_json:
        show_json({"model": str(model), **diagnosis.to_dict()})
    else:
        show(*diagnosis.text_lines())
