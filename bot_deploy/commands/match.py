"""`bot match`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot_deploy.choices import MIN_TIMESTAMP_S, TOP_MATCHES

from .model_choice import choose_model, open_model
from .options import COUNT, JSON, MODEL, Address, NumberRange, runtime

if TYPE_CHECKING:
    from bot_deploy.embedder import Embedder
    from bot_deploy.errors import ImageError
    from bot_deploy.gallery import Filters, Gallery
    from bot_deploy.matching.queries import Query


CAMERA = click.IntRange(0, 99_999)  # a camera ID in a file name has up to five digits


@click.command()
@click.argument("query", type=click.Path(path_type=Path))
@click.argument("gallery", type=Address(), metavar="GALLERY")
@MODEL
@click.option(
    "--same-person",
    is_flag=True,
    help="Take all images of the folder QUERY as one person: their mean embedding is searched (multi-shot).",
)
@click.option(
    "--top",
    type=COUNT,
    default=TOP_MATCHES,
    show_default=True,
    help="Number of images to list for each query.",
)
@click.option(
    "--min-score",
    type=NumberRange(-1, 1),
    default=-1,
    help="Lowest cosine of a listed image; the verdict keeps its own threshold.",
)
@click.option(
    "--rerank",
    is_flag=True,
    help="Sort the best 1000 matches by k-reciprocal re-ranking (Zhong et al., 2017). Scores stay cosines, so a lower "
    "rank may have a higher score; the verdict is about the first match.",
)
@click.option("--camera", "cameras", type=CAMERA, multiple=True, help="Search only this camera ID; repeatable.")
@click.option("--exclude-camera", "excluded", type=CAMERA, multiple=True, help="Leave out this camera ID; repeatable.")
@click.option("--exclude-same-camera", is_flag=True, help="Leave out the images of the query's own camera.")
@click.option(
    "--since",
    metavar="TIME",
    help="Earliest time, such as 2026-01-31T12:00 (UTC if it has no zone), or a frame number where the gallery's names "
    "have frame numbers, as in Market-1501.",
)
@click.option("--until", metavar="TIME", help="Latest time, as --since.")
@runtime
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="F.html",
    help="Write the rank lists as one HTML page, images included.",
)
@click.option("--montage", type=click.Path(path_type=Path), metavar="F.png", help="Write the rank lists as a figure.")
@click.option(
    "--csv", type=click.Path(path_type=Path), metavar="F.csv", help="Write a table with one row for each listed image."
)
@JSON
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
    exclude_same_camera: bool,
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
    """Find the person of QUERY in GALLERY.

    QUERY is an image, or a folder whose images are a query each. GALLERY is a folder of crops, an index made by `bot
    index`, a Milvus address (milvus://host:19530/name), or one image to compare with. The index of a folder is kept in
    your cache: the next time only new and changed files are embedded.
    """
    from bot_deploy.addresses import mask_address
    from bot_deploy.console import say, say_left_out, show, show_json
    from bot_deploy.errors import InputError
    from bot_deploy.files import require_path
    from bot_deploy.gallery import check_gallery, open_gallery
    from bot_deploy.images import broken_files
    from bot_deploy.matching.match import rank
    from bot_deploy.reports.montage import write_rank_list_figure
    from bot_deploy.reports.page import describe_filters, describe_queries, describe_threshold, write_html
    from bot_deploy.reports.tables import json_document, text_lines, write_csv

    # Wrong options and queries are reported before a large gallery is embedded.
    _prepare_outputs(html, montage, csv)
    if same_person and query.is_file():
        raise InputError(f"{query}: one image; name a folder of several images of that person", parameter="same_person")
    filters: Filters = {
        "cameras": cameras or None,
        "exclude_cameras": excluded or None,
        "since": _parse_time(since, "since"),
        "until": _parse_time(until, "until"),
    }
    check_gallery(gallery)
    model = choose_model(model)
    require_path(query, "image or folder of images")
    embedder = open_model(model, device, threads=threads, batch=batch)
    queries, broken_queries = _read_queries(
        query, embedder, same_person=same_person, exclude_same_camera=exclude_same_camera
    )
    opened_gallery, shown_gallery = open_gallery(gallery, embedder), mask_address(gallery)
    root, size = opened_gallery.root, len(opened_gallery)
    broken = {root / item.path: item.error for item in opened_gallery.broken()}
    say_left_out([f"{path}: {error}" for path, error in broken.items()])
    if not size:
        say(f"{shown_gallery}: an empty gallery, so nobody can be found in it; `bot index` or `bot demo` adds people")
    calibration = embedder.contract.calibration
    rankings = rank(
        queries,
        opened_gallery,
        calibration,
        top,
        min_score,
        rerank=rerank,
        exclude_same_camera=exclude_same_camera,
        **filters,
    )
    if size and not any(ranking.matches for ranking in rankings):
        _explain_filters(filters, opened_gallery)
    opened_gallery.close()
    documents = [json_document(ranking) for ranking in rankings]
    document = {
        **({"queries": documents} if query.is_dir() and not same_person else documents[0]),
        "model": str(model),
        "gallery": {"images": size, "broken": len(broken), "broken_files": broken_files(broken)},
        **({"broken_queries": broken_files(broken_queries)} if query.is_dir() else {}),
    }
    if as_json:
        show_json(document)
    else:
        show(*text_lines(rankings))
    if csv:
        write_csv(rankings, csv)
    if montage:
        write_rank_list_figure(rankings, montage)
    if html:
        details = {
            "Queries": describe_queries(rankings, len(broken_queries)),
            "Gallery": f"{shown_gallery}: {size} images" + (f", {len(broken)} more are broken" if broken else ""),
            "Model": f"{model} ({embedder.contract.arch}, {embedder.contract.embedding_space})",
            "Threshold": describe_threshold(calibration),
            "Order": "k-reciprocal re-ranking; scores are cosines" if rerank else "by cosine similarity",
            "Left out": describe_filters(filters, min_score, exclude_same_camera=exclude_same_camera),
        }
        write_html(rankings, details, root, html)
    for path in filter(None, (csv, montage, html)):
        say(f"wrote {path}")


def _prepare_outputs(html: Path | None, montage: Path | None, csv: Path | None) -> None:
    from bot_deploy import images
    from bot_deploy.files import prepare_output
    from bot_deploy.reports import page

    for path, kind, suffixes in (
        (html, "a page", page.SUFFIXES),
        (montage, "a figure", images.WRITABLE_SUFFIXES),
        (csv, "a table", {".csv"}),
    ):
        if path:
            prepare_output(path, kind, suffixes)


def _parse_time(text: str | None, parameter: str) -> float | None:
    from bot_deploy.errors import InputError
    from bot_deploy.gallery import parse_time

    try:
        return None if text is None else parse_time(text)
    except ValueError:
        raise InputError(
            f"{text}: not a time; write one such as 2026-01-31T12:00, or a number", parameter=parameter
        ) from None


def _read_queries(
    source: Path, embedder: Embedder, *, same_person: bool, exclude_same_camera: bool
) -> tuple[list[Query], dict[Path, ImageError]]:
    from bot_deploy.console import say_left_out
    from bot_deploy.matching.queries import cameras_of, merge_queries, read_queries

    queries, broken = read_queries(source, embedder)
    say_left_out(list(broken.values()))
    if exclude_same_camera:  # each image of a multi-shot query must have a camera
        for query in queries:
            cameras_of(query)
    return [merge_queries(source, queries)] if same_person else queries, broken


def _explain_filters(filters: Filters, gallery: Gallery) -> None:
    """Prints why a filter leaves nothing, if no image of `gallery` has a camera ID or a time."""
    from bot_deploy.console import say

    items = [item for item in gallery.items() if not item.error]
    for quantity, names, known in (
        ("camera ID", ("cameras",), any(item.camera is not None for item in items)),
        ("time", ("since", "until"), any(item.time is not None for item in items)),
    ):
        if not known and any(filters.get(name) is not None for name in names):
            say(
                f"no gallery image has a {quantity}; give it in file names such as c2_2026-01-31_12-00-00.jpg, or by "
                "`bot index --metadata`"
            )
    times = [item.time for item in items if item.time is not None]
    limits = [limit for limit in (filters.get("since"), filters.get("until")) if limit is not None]
    if times and any((limit >= MIN_TIMESTAMP_S) != (max(times) >= MIN_TIMESTAMP_S) for limit in limits):
        kind = "dates" if max(times) >= MIN_TIMESTAMP_S else f"frame numbers, up to {max(times):.0f}"
        say(f"the times of this gallery are {kind}; give --since and --until in the same way")
