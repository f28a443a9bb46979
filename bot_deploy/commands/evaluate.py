"""`bot eval`."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path

import click

from bot_deploy.commands.options import runtime


@click.command("eval")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data", default="synthetic", show_default=True, help="Folder or .zip with query and gallery, or `synthetic`."
)
@runtime
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def evaluate(model: Path, data: str, device: str, threads: int, batch: int, as_json: bool) -> None:
    """Score MODEL by the Market-1501 protocol: rank-1, rank-5, rank-10, mAP, mINP."""
    from bot_deploy.datasets import open_dataset
    from bot_deploy.embedder import open_embedder
    from bot_deploy.evaluation import evaluate_dataset
    from bot_deploy.progress import say

    embedder = open_embedder(model, device, threads=threads, batch=batch)
    say(f"{model} on {embedder.backend}")
    scores = evaluate_dataset(embedder, open_dataset(data))
    click.echo(jsonlib.dumps(scores.to_dict()) if as_json else str(scores))
