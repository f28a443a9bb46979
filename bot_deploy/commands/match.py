"""`bot match`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot_deploy.choices import MIN_TIMESTAMP_S, TOP_MATCHES

from .footage import open_footage_detector, read_moment_query, say_broken, with_camera_of_video, write_clips
from .model_choice import choose_model, open_model, say_cameras
from .options import COUNT, DETECTOR, JSON, MODEL, Address, Box, Camera, NumberRange, runtime

if TYPE_CHECKING:
    from bot_deploy.embedder import Embedder
    from bot_deploy.errors import ImageError
    from bot_deploy.gallery import Filters, Gallery
    from bot_deploy.matching.match import Ranking
    from bot_deploy.matching.queries import Query


@click.command()
@click.argument("query", type=click.Path(path_type=Path))
@click.argument("gallery", type=Address(), metavar="GALLERY")
@MODEL
@click.option(
    "--box",
    type=Box(),
    metavar="X,Y,W,H",
    help="Where the person is on the frame of VIDEO@TIME: left, top, width, height in pixels. Default: the only person "
    "there.",
)
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
@click.option(
    "--camera",
    "cameras",
    type=Camera(),
    multiple=True,
    help="Search only this camera: an ID, or the name of a camera of videos; repeatable.",
)
@click.option("--exclude-camera", "excluded", type=Camera(), multiple=True, help="Leave out this camera; repeatable.")
@click.option("--exclude-same-camera", is_flag=True, help="Leave out the images of the query's own camera.")
@click.option(
    "--since",
    metavar="TIME",
    help="Earliest time, such as 2026-01-31T12:00 (UTC if it has no zone), or a frame number where the gallery's names "
    "have frame numbers, as in Market-1501.",
)
@click.option("--until", metavar="TIME", help="Latest time, as --since.")
@DETECTOR
@runtime
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="F.html",
    help="Write the rank lists as one HTML page, images included.",
)
@click.option(
    "--clips",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write a short clip of each match from a video to this folder, as WebM.",
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
    box: tuple[int, int, int, int] | None,
    same_person: bool,
    top: int,
    min_score: float,
    rerank: bool,
    cameras: tuple[str, ...],
    excluded: tuple[str, ...],
    exclude_same_camera: bool,
    since: str | None,
    until: str | None,
    detector: Path | None,
    device: str,
    threads: int,
    batch: int,
    html: Path | None,
    clips: Path | None,
    montage: Path | None,
    csv: Path | None,
    as_json: bool,
) -> None:
    """Find the person of QUERY in GALLERY.

    QUERY is an image, a folder whose images are a query each, or a moment of a video: entrance.mp4@00:12:31. GALLERY
    is a folder of crops, an index made by `bot index`, a Milvus address (milvus://host:19530/name), a video or a folder
    of videos, or one image to compare with. The index of a folder or a video is kept in your cache: the next time only
    new and changed files are read.

    In videos, a match is an appearance: a person in view, on one camera, from one time to another.
    """
    from bot_deploy.addresses import mask_address
    from bot_deploy.camera_means import camera_means_of
    from bot_deploy.console import say, say_left_out, show, show_json
    from bot_deploy.footage import Footage
    from bot_deploy.footage.moments import parse_moment
    from bot_deploy.images import broken_files
    from bot_deploy.matching.match import rank
    from bot_deploy.reports.page import describe_filters, describe_queries, describe_threshold, write_html
    from bot_deploy.reports.tables import json_document, text_lines

    # Wrong options and queries are reported before a large gallery is embedded.
    _prepare_outputs(query, html, montage, csv)
    filters: Filters = {"since": _parse_time(since, "since"), "until": _parse_time(until, "until")}
    _check_gallery(gallery, None if parse_moment(query) else detector, (*cameras, *excluded))
    model = choose_model(model)
    _check_query(query, box, same_person=same_person)
    embedder = open_model(model, device, threads=threads, batch=batch)
    if parse_moment(query):
        queries, broken_queries = read_moment_query(query, box, embedder, detector, threads)
    else:
        queries, broken_queries = _read_queries(
            query, embedder, same_person=same_person, exclude_same_camera=exclude_same_camera
        )
    opened_gallery, shown_gallery = _open_gallery(gallery, embedder, detector, threads), mask_address(gallery)
    click.get_current_context().call_on_close(opened_gallery.close)  # also where it turns out to be damaged
    footage = Footage(opened_gallery)
    if parse_moment(query):
        queries = [with_camera_of_video(one, footage.cameras) for one in queries]
    filters["cameras"] = tuple(map(footage.find_camera, cameras)) or None
    filters["exclude_cameras"] = tuple(map(footage.find_camera, excluded)) or None
    root, size = opened_gallery.root, len(opened_gallery)
    broken = {root / item.path: item.error for item in opened_gallery.broken()}
    say_left_out([f"{path}: {error}" for path, error in broken.items()])
    if not size:
        say(f"{shown_gallery}: an empty gallery, so nobody can be found in it; `bot index` or `bot demo` adds people")
    if size and embedder.contract.camera_means:
        items = (item.camera for item in opened_gallery.items())
        say_cameras(embedder.contract, itertools.chain(*(query.cameras for query in queries), items))
    calibration = embedder.contract.calibration
    rankings = rank(
        queries,
        opened_gallery,
        calibration,
        top,
        min_score,
        means=camera_means_of(embedder.contract),
        rerank=rerank,
        exclude_same_camera=exclude_same_camera,
        **filters,
    )
    if size and not any(ranking.matches for ranking in rankings):
        _explain_filters(filters, opened_gallery)
    documents = [json_document(ranking) for ranking in rankings]
    document = {
        **({"queries": documents} if query.is_dir() and not same_person else documents[0]),
        "model": str(model),
        "gallery": {
            "images": size,
            **({"appearances": len(footage)} if footage else {}),
            "broken": len(broken),
            "broken_files": broken_files(broken),
        },
        **({"broken_queries": broken_files(broken_queries)} if query.is_dir() else {}),
    }
    if as_json:
        show_json(document)
    else:
        show(*text_lines(rankings))
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
    _write_files(rankings, csv, montage, clips)
    for path in filter(None, (csv, montage, html, clips)):
        say(f"wrote {path}")


def _check_query(query: Path, box: tuple[int, int, int, int] | None, *, same_person: bool) -> None:
    """Reports a query that is missing, or an option that does not fit it, before any model is opened."""
    from bot_deploy.errors import InputError
    from bot_deploy.files import require_path
    from bot_deploy.footage.moments import parse_moment

    moment = parse_moment(query)
    require_path(moment.video if moment else query, "image or folder of images")
    if box and not moment:
        raise InputError(f"{query}: a box is for a moment of a video, such as entrance.mp4@00:12:31", parameter="box")
    if same_person and (moment or query.is_file()):
        raise InputError(f"{query}: one image; name a folder of several images of that person", parameter="same_person")


def _check_gallery(address: str, detector: Path | None, cameras: tuple[str, ...]) -> None:
    """Reports a gallery that is missing, or an option that does not fit it, before any model is opened."""
    from bot_deploy.errors import InputError
    from bot_deploy.footage import holds_footage
    from bot_deploy.gallery import check_gallery, is_index

    if holds_footage(Path(address)):
        return
    check_gallery(address)
    if detector is not None:
        raise InputError("only videos are searched for people, and this gallery is none", parameter="detector")
    named = [camera for camera in cameras if not camera.isdecimal()]
    if named and not is_index(address):
        raise InputError(f"{named[0]}: only cameras of videos have names; give an ID of a camera", parameter="camera")


def _open_gallery(address: str, embedder: Embedder, detector: Path | None, threads: int) -> Gallery:
    from bot_deploy.footage import holds_footage, open_footage_gallery
    from bot_deploy.gallery import open_gallery

    if not holds_footage(Path(address)):
        return open_gallery(address, embedder)
    index, update = open_footage_gallery(Path(address), embedder, open_footage_detector(detector, threads))
    say_broken(update)
    return index


def _write_files(rankings: list[Ranking], csv: Path | None, montage: Path | None, clips: Path | None) -> None:
    from bot_deploy.reports.montage import write_rank_list_figure
    from bot_deploy.reports.tables import write_csv

    if csv:
        write_csv(rankings, csv)
    if montage:
        write_rank_list_figure(rankings, montage)
    if clips:
        write_clips(rankings, clips)


def _prepare_outputs(query: Path, html: Path | None, montage: Path | None, csv: Path | None) -> None:
    from bot_deploy import images
    from bot_deploy.files import prepare_output
    from bot_deploy.footage.moments import parse_moment
    from bot_deploy.reports import page

    for path, kind, suffixes in (
        (html, "a page", page.SUFFIXES),
        (montage, "a figure", images.WRITABLE_SUFFIXES),
        (csv, "a table", {".csv"}),
    ):
        if path:
            moment = parse_moment(query)
            prepare_output(path, kind, suffixes, [moment.video if moment else query])


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
        kind = (
            "dates"
            if max(times) >= MIN_TIMESTAMP_S
            else f"seconds of the video or frame numbers, up to {max(times):.0f}"
        )
        say(f"the times of this gallery are {kind}; give --since and --until in the same way")
