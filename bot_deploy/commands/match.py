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
@click.argument("gallery")
@click.option("--model", type=click.Path(path_type=Path), help="Exported model; the newest under runs/ by default.")
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="How many matches.")
@click.option("--min-score", type=click.FloatRange(-1, 1), default=-1, help="Leave out matches with a lower score.")
@click.option("--camera", "cameras", type=int, multiple=True, help="Only what this camera saw; may be repeated.")
@click.option("--exclude-camera", "excluded", type=int, multiple=True, help="Nothing that this camera saw.")
@click.option("--exclude-same-camera", "other_cameras", is_flag=True, help="Nothing that the query's camera saw.")
@click.option("--since", metavar="TIME", help="Nothing before, such as 2026-01-31T12:00 (UTC where no zone is given).")
@click.option("--until", metavar="TIME", help="Nothing after.")
@runtime
@click.option("--montage", type=click.Path(path_type=Path), metavar="F.png", help="Also draw the rank list.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def match(
    query: Path,
    gallery: str,
    model: Path | None,
    top: int,
    min_score: float,
    cameras: tuple[int, ...],
    excluded: tuple[int, ...],
    other_cameras: bool,
    since: str | None,
    until: str | None,
    device: str,
    threads: int,
    batch: int,
    montage: Path | None,
    as_json: bool,
) -> None:
    """Find the person on the picture QUERY in GALLERY: a folder of crops, what `bot index` made, or a Milvus address.

    The index of a folder is kept in your cache: the next time, only what changed in it is embedded.
    """
    from bot_deploy import gallery as galleries
    from bot_deploy import images, report, runs
    from bot_deploy import match as matching
    from bot_deploy.embedder import open_embedder
    from bot_deploy.progress import say

    if model is None:
        model = runs.newest("model.onnx", "`bot export` writes one, or name it with --model")
    embedder = open_embedder(model, device, threads=threads, batch=batch)
    say(f"model {model} on {embedder.backend}")
    # What is wrong with the query or the options is said before a long gallery is embedded.
    images.load(query)
    if montage:
        report.check_picture(montage)
    filters: galleries.Filters = {
        "cameras": cameras or None,
        "exclude_cameras": (*excluded, *([_camera(query)] if other_cameras else [])) or None,
        "since": _time("--since", since),
        "until": _time("--until", until),
    }
    people: Gallery
    if galleries.is_gallery(gallery):
        people = galleries.open_gallery(gallery, embedder.contract)
    else:
        people, _ = galleries.of_folder(Path(gallery), embedder)
    broken = sorted((people.root / row.path, row.error) for row in people.broken())
    for path, error in broken:
        say(f"left out: {path}: {error}")
    ranking = matching.match(query, people, embedder, top, min_score, **filters)
    document = {
        **_document(ranking),
        "model": str(model),
        "gallery": {
            "images": len(people),
            "broken": len(broken),
            "broken_files": [{"path": str(path), "error": f"{path}: {error}"} for path, error in broken],
        },
    }
    people.close()
    click.echo(jsonlib.dumps(document) if as_json else _table(ranking))
    if montage:
        report.montage([ranking], montage)
        say(f"drew {montage}")


def _camera(query: Path) -> int:
    from bot_deploy.errors import InputError
    from bot_deploy.gallery import parse

    camera = parse(query.name).camera
    if camera is None:
        raise InputError(f"{query}: its name does not say which camera saw it; give that with --exclude-camera")
    return camera


def _time(option: str, text: str | None) -> float | None:
    from bot_deploy.errors import InputError
    from bot_deploy.gallery import instant

    try:
        return None if text is None else instant(text)
    except ValueError:
        raise InputError(f"{option} {text}: write a time such as 2026-01-31T12:00, or a number") from None


def _document(ranking: Ranking) -> dict[str, object]:
    return {
        "query": str(ranking.query),
        "matches": [
            {
                "path": str(match.path),
                "score": match.score,
                "rank": match.rank,
                "identity": match.identity,
                "camera": match.camera,
                "time": match.time,
            }
            for match in ranking.matches
        ],
        "verdict": ranking.verdict.words,
        "decision": ranking.verdict.decision,
        "false_accept_rate": ranking.verdict.false_accept_rate,
        "gallery_false_accept_rate": ranking.verdict.gallery_false_accept_rate,
    }


def _table(ranking: Ranking) -> str:
    lines = ["rank  score   path", *(f"{m.rank:4d}  {m.score:.4f}  {m.path}" for m in ranking.matches)]
    return "\n".join([*lines, ranking.verdict.words])
