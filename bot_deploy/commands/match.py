"""`bot match`."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot_deploy.choices import TOP_MATCHES

from .options import runtime

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bot_deploy.embedder import Embedder
    from bot_deploy.errors import ImageError
    from bot_deploy.gallery import Filters, Gallery
    from bot_deploy.matching.match import Query


CAMERA = click.IntRange(0, 99_999)  # as many digits as a name may have


@click.command()
@click.argument("query", type=click.Path(path_type=Path))
@click.argument("gallery")
@click.option("--model", type=click.Path(path_type=Path), help="Exported model; the newest under runs/ by default.")
@click.option("--same-person", is_flag=True, help="QUERY is a folder of shots of one person: their vectors' mean.")
@click.option(
    "--top", type=click.IntRange(min=1), default=TOP_MATCHES, show_default=True, help="How many matches of a query."
)
@click.option("--min-score", type=click.FloatRange(-1, 1), default=-1, help="Leave out matches with a lower score.")
@click.option(
    "--rerank",
    is_flag=True,
    help="Put the best 1000 of a query in the order of k-reciprocal re-ranking (Zhong et al., 2017). Scores remain "
    "cosines, which then need not fall; the verdict is about the first.",
)
@click.option("--camera", "cameras", type=CAMERA, multiple=True, help="Only what this camera saw; may be repeated.")
@click.option("--exclude-camera", "excluded", type=CAMERA, multiple=True, help="Nothing that this camera saw.")
@click.option("--exclude-same-camera", "other_cameras", is_flag=True, help="Nothing that the query's camera saw.")
@click.option("--since", metavar="TIME", help="Nothing before, such as 2026-01-31T12:00 (UTC where no zone is given).")
@click.option("--until", metavar="TIME", help="Nothing after.")
@runtime
@click.option("--html", type=click.Path(path_type=Path), metavar="F.html", help="Also write a page to send around.")
@click.option("--montage", type=click.Path(path_type=Path), metavar="F.png", help="Also draw the rank lists.")
@click.option("--csv", type=click.Path(path_type=Path), metavar="F.csv", help="Also write a row for each match.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def match(
    query: Path,
    gallery: str,
    model: Path | None,
    same_person: bool,
    top: int,
    min_score: float,
    rerank: bool,
    cameras: tuple[int, ...],
    excluded: tuple[int, ...],
    other_cameras: bool,
    since: str | None,
    until: str | None,
    device: str,
    threads: int,
    batch: int,
    html: Path | None,
    montage: Path | None,
    csv: Path | None,
    as_json: bool,
) -> None:
    """Find the person on the picture QUERY, or each one in the folder QUERY, in GALLERY.

    GALLERY is a folder of crops, what `bot index` made, or a Milvus address. The index of a folder is kept in your
    cache: the next time, only what changed in it is embedded.
    """
    from bot_deploy import gallery as galleries
    from bot_deploy import runs
    from bot_deploy.console import say
    from bot_deploy.embedder import open_embedder
    from bot_deploy.errors import InputError
    from bot_deploy.matching import match as matching
    from bot_deploy.reports import page, tables
    from bot_deploy.reports.montage import write_montage

    # What is wrong with the options or the query is said before a long gallery is embedded.
    _check_outputs(html, montage, csv)
    if same_person and query.is_file():
        raise InputError(f"--same-person {query}: one picture; name a folder of several of that person")
    filters: galleries.Filters = {
        "cameras": cameras or None,
        "exclude_cameras": excluded or None,
        "since": _time("--since", since),
        "until": _time("--until", until),
    }
    if model is None:
        model = runs.newest_file("model.onnx", "`bot export` writes one, or name it with --model")
    embedder = open_embedder(model, device, threads=threads, batch=batch)
    say(f"model {model} on {embedder.backend}")
    queries, broken = _queries(query, embedder, same_person=same_person, other_cameras=other_cameras)
    people = _opened(gallery, embedder)
    missing = {people.root / row.path: f"{people.root / row.path}: {row.error}" for row in people.broken()}
    for text in missing.values():
        say(f"left out: {text}")
    calibration = embedder.contract.calibration
    rankings = matching.rank(
        queries, people, calibration, top, min_score, rerank=rerank, other_cameras=other_cameras, **filters
    )
    size = len(people)
    if size and not any(ranking.matches for ranking in rankings):
        _explain(filters, people)
    people.close()
    documents = [tables.document(ranking) for ranking in rankings]
    document = {
        **({"queries": documents} if query.is_dir() and not same_person else documents[0]),
        "model": str(model),
        "gallery": {"images": size, "broken": len(missing), "broken_files": _files(missing)},
        **({"broken_queries": _files(broken)} if query.is_dir() else {}),
    }
    click.echo(jsonlib.dumps(document) if as_json else tables.table(rankings))
    if csv:
        tables.write_csv(rankings, csv)
    if montage:
        write_montage(rankings, montage)
    if html:
        facts = {
            "Queries": page.counted(rankings, len(broken)),
            "Gallery": f"{gallery}: {size} images" + (f", {len(missing)} more are broken" if missing else ""),
            "Model": f"{model} ({embedder.contract.arch}, {embedder.contract.embedding_space})",
            "Threshold": page.threshold(calibration),
            "Order": "k-reciprocal re-ranking; scores are cosines" if rerank else "by cosine similarity",
            "Left out": page.left_out(filters, min_score, other_cameras=other_cameras),
        }
        page.write(rankings, facts, people.root, html)
    for path in filter(None, (csv, montage, html)):
        say(f"wrote {path}")


def _check_outputs(html: Path | None, montage: Path | None, csv: Path | None) -> None:
    from bot_deploy import images
    from bot_deploy.files import prepare_output
    from bot_deploy.reports import page

    for path, kind, suffixes in (
        (html, "a page", page.SUFFIXES),
        (montage, "a picture", images.SUFFIXES),
        (csv, "a table", {".csv"}),
    ):
        if path:
            prepare_output(path, kind, suffixes)


def _time(option: str, text: str | None) -> float | None:
    from bot_deploy.errors import InputError
    from bot_deploy.gallery import parse_time

    try:
        return None if text is None else parse_time(text)
    except ValueError:
        raise InputError(f"{option} {text}: write a time such as 2026-01-31T12:00, or a number") from None


def _queries(
    source: Path, embedder: Embedder, *, same_person: bool, other_cameras: bool
) -> tuple[list[Query], dict[Path, ImageError]]:
    from bot_deploy.console import say
    from bot_deploy.matching import match as matching

    queries, broken = matching.read_queries(source, embedder)
    for error in broken.values():
        say(f"left out: {error}")
    if other_cameras:  # each shot must have one
        for query in queries:
            matching.cameras_of(query)
    return [matching.merge_queries(source, queries)] if same_person else queries, broken


def _opened(gallery: str, embedder: Embedder) -> Gallery:
    from bot_deploy import gallery as galleries

    if galleries.is_gallery(gallery):
        return galleries.open_gallery(gallery, embedder.contract)
    people, _ = galleries.open_folder_gallery(Path(gallery), embedder)
    return people


def _explain(filters: Filters, people: Gallery) -> None:
    """Says why a filter left nothing, where no file could have passed it."""
    from bot_deploy.console import say

    seen = [(row.camera, row.time) for row in people.items() if not row.error]
    for what, names, known in (
        ("camera", ("cameras",), any(camera is not None for camera, _ in seen)),
        ("time", ("since", "until"), any(time is not None for _, time in seen)),
    ):
        if not known and any(filters.get(name) is not None for name in names):
            say(
                f"no {what} of any file is known: names such as c2_2026-01-31_12-00-00.jpg or `bot index --metadata` "
                "tell it"
            )


def _files(broken: Mapping[Path, object]) -> list[dict[str, str]]:
    return [{"path": str(path), "error": str(error)} for path, error in sorted(broken.items())]
