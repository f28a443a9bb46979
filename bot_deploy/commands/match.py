"""`bot match`."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot_deploy.commands.options import runtime

if TYPE_CHECKING:
    from bot_deploy.gallery import Gallery
    from bot_deploy.match import Ranking


@click.command()
@click.argument("query", type=click.Path(path_type=Path))
@click.argument("gallery", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="Exported model; the newest under runs/ by default.")
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="How many matches.")
@runtime
@click.option("--montage", type=click.Path(path_type=Path), metavar="F.png", help="Also draw the rank list.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def match(
    query: Path,
    gallery: Path,
    model: Path | None,
    top: int,
    device: str,
    threads: int,
    batch: int,
    montage: Path | None,
    as_json: bool,
) -> None:
    """Find the person on the picture QUERY among the crops in the folder GALLERY."""
    from bot_deploy import gallery as galleries
    from bot_deploy import images, report, runs
    from bot_deploy import match as matching
    from bot_deploy.embedder import open_embedder
    from bot_deploy.progress import say

    if model is None:
        model = runs.newest("model.onnx", "`bot export` writes one, or name it with --model")
    embedder = open_embedder(model, device, threads=threads, batch=batch)
    say(f"model {model} on {embedder.backend}")
    # What is wrong with the query or the picture's name is said before a long gallery is embedded.
    images.load(query)
    if montage:
        report.check_picture(montage)
    people = galleries.embed_folder(gallery, embedder)
    for _, error in people.broken:
        say(f"left out: {error}")
    ranking = matching.match(query, people, embedder, top)
    click.echo(jsonlib.dumps(_document(ranking, people, model)) if as_json else _table(ranking))
    if montage:
        report.montage([ranking], montage)
        say(f"drew {montage}")


def _document(ranking: Ranking, gallery: Gallery, model: Path) -> dict[str, object]:
    return {
        "query": str(ranking.query),
        "matches": [{"path": str(m.path), "score": m.score, "rank": m.rank} for m in ranking.matches],
        "verdict": ranking.verdict,
        "model": str(model),
        "gallery": {
            "images": len(gallery.paths),
            "broken": len(gallery.broken),
            "broken_files": [{"path": str(path), "error": str(error)} for path, error in gallery.broken],
        },
    }


def _table(ranking: Ranking) -> str:
    lines = ["rank  score   path", *(f"{m.rank:4d}  {m.score:.4f}  {m.path}" for m in ranking.matches)]
    return "\n".join([*lines, ranking.verdict])
