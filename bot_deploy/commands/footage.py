"""What commands do with videos."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from .model_choice import choose_model, open_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from bot_deploy.embedder import Embedder
    from bot_deploy.errors import ImageError
    from bot_deploy.footage import FootageUpdate
    from bot_deploy.gallery import LocalIndex
    from bot_deploy.images import Pixels
    from bot_deploy.matching.match import Ranking
    from bot_deploy.matching.queries import Query
    from bot_deploy.video.detectors import Detector
    from bot_deploy.video.tracks import Xyxy


class Runtime(NamedTuple):
    """The models of a command, and on what they run."""

    model: Path | None
    detector: Path | None
    device: str
    threads: int
    batch: int


def check_one_source(
    crops: object, gallery: str | None, videos: Sequence[Path], detector: Path | None, message: str
) -> None:
    """Reports what is missing, or does not fit together, before any model is opened.

    Raises:
        InputError: not one of crops, gallery and videos is given (`message`), or something else is wrong with them.
    """
    from bot_deploy.errors import InputError
    from bot_deploy.footage import find_videos
    from bot_deploy.gallery import check_gallery

    if sum(map(bool, (crops, gallery, videos))) != 1:
        raise InputError(message)
    if detector is not None and not videos:
        raise InputError("only videos are searched for people", parameter="detector")
    if gallery:
        check_gallery(gallery)
    elif videos:
        find_videos(videos)


def open_footage_detector(detector: Path | None, threads: int) -> Detector:
    """The detector for videos; prints which one it is."""
    from bot_deploy.console import say
    from bot_deploy.video.detectors import FALLBACK_DETECTOR, choose_detector, open_detector
    from bot_deploy.video.opencv import configure_opencv

    configure_opencv()  # before anything else imports OpenCV
    chosen = choose_detector(detector)
    if detector is None and str(chosen) == FALLBACK_DETECTOR:
        say_how_to_get_a_better_detector()
    opened = open_detector(chosen, threads=threads)
    say(f"detector {opened.name}")
    return opened


def open_video_indexes(
    videos: Sequence[Path], embedder: Embedder, detector: Path | None, threads: int
) -> Iterator[LocalIndex]:
    """The indexes of videos and folders of videos, which are kept in the cache."""
    from bot_deploy.footage import open_footage_gallery

    opened = open_footage_detector(detector, threads)
    for video in videos:
        index, update = open_footage_gallery(video, embedder, opened)
        say_broken(update)
        yield index


def say_how_to_get_a_better_detector() -> None:
    """Prints how to get a network in place of HOG."""
    from bot_deploy.console import say
    from bot_deploy.models.table import PREFERRED_DETECTOR

    say(
        f"{PREFERRED_DETECTOR} is not in the cache, so OpenCV's HOG looks for people, and misses many of them; "
        f"--detector {PREFERRED_DETECTOR} fetches it (3.7 MB)"
    )


def read_moment_query(
    query: Path, box: tuple[int, int, int, int] | None, embedder: Embedder, detector: Path | None, threads: int
) -> tuple[list[Query], dict[Path, ImageError]]:
    """The query for the person at a moment of a video, such as entrance.mp4@00:12:31, and no broken ones."""
    from bot_deploy.footage.moments import parse_moment, read_moment
    from bot_deploy.matching.queries import read_query

    moment = parse_moment(query)
    assert moment is not None
    pixels = read_moment(moment, box, lambda: open_footage_detector(detector, threads), _ask_for_person)
    return [replace(read_query(pixels, embedder), path=query)], {}


def with_camera_of_video(query: Query, cameras: Mapping[str, int]) -> Query:
    """`query`, the person at a moment of a video, with the number that the video's camera has among `cameras`."""
    from bot_deploy.footage.moments import parse_moment
    from bot_deploy.footage.videos import camera_number, find_camera

    moment = parse_moment(query.path)
    assert moment is not None
    return replace(query, cameras=(camera_number(find_camera(moment.video, None).value, cameras),))


def _ask_for_person(frame: Pixels, boxes: Sequence[Xyxy]) -> int | None:
    """The number of the person whom the user clicks in a window; None in a script, or where no window can be opened."""
    from bot_deploy.console import say
    from bot_deploy.demos.choosing import choose_person
    from bot_deploy.errors import RunError

    if not sys.stdin.isatty() or not sys.stderr.isatty():
        return None
    say(f"{len(boxes)} people are found: click one in the window; Escape lists their boxes")
    try:
        return choose_person(frame, boxes)
    except RunError:
        return None


def write_clips(rankings: Sequence[Ranking], folder: Path) -> None:
    """Writes the clip of each match from a video: entrance-1f0c6a2b-0012.webm; prints which cannot be cut."""
    from bot_deploy.console import say
    from bot_deploy.errors import InputError, RunError
    from bot_deploy.files import write_atomically
    from bot_deploy.footage.clips import cut_clip

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror or error})") from None
    found = {
        match.appearance.short_key: match.appearance for one in rankings for match in one.matches if match.appearance
    }
    for key, appearance in found.items():
        try:
            clip = cut_clip(appearance)
        except InputError as error:
            say(str(error))
            continue
        path = folder / f"{key.replace('/', '-')}.webm"
        write_atomically(path, lambda temporary, clip=clip: temporary.write_bytes(clip))  # type: ignore[misc]


def index_videos(
    sources: Sequence[Path],
    out: str,
    runtime: Runtime,
    *,
    camera: str | None,
    start: str | None,
    replace: bool,
    ann: str | None,
    as_json: bool,
) -> None:
    """`bot index` with videos."""
    from bot_deploy import gallery as galleries
    from bot_deploy.console import show, show_json
    from bot_deploy.footage import find_videos, index_footage
    from bot_deploy.footage.records import footage_folder

    from .index import renewed_lines, update_search

    started = time.perf_counter()
    find_videos(sources)  # a wrong path is reported before models are opened
    model = choose_model(runtime.model)
    embedder = open_model(model, runtime.device, threads=runtime.threads, batch=runtime.batch)
    detector = open_footage_detector(runtime.detector, runtime.threads)
    with galleries.open_or_create_index(out, embedder.contract, footage_folder(out)) as gallery:
        update = index_footage(gallery, sources, embedder, detector, camera=camera, start=start, replace=replace)
        document: dict[str, object] = {
            "gallery": out,
            "model": str(model),
            "detector": detector.name,
            "images": len(gallery),
            **footage_document(update),
            "renewed": galleries.renew_vectors(gallery, embedder),
            **update_search(gallery, ann),
        }
    say_broken(update)
    document["seconds"] = round(time.perf_counter() - started, 3)
    if as_json:
        show_json(document)
    else:
        show(*_summary(out, update), *renewed_lines(document))


def footage_document(update: FootageUpdate) -> dict[str, object]:
    """`update` for JSON."""
    return {
        "appearances": sum(video.appearances for video in update.videos),
        "videos": [
            {
                "path": str(video.video),
                "camera": video.camera,
                "start": video.start,
                "video_seconds": round(video.seconds, 3),
                "seconds": round(video.wall_seconds, 3),
                "appearances": video.appearances,
                "left_out": dict(video.left_out),
            }
            for video in update.videos
        ],
        "broken": len(update.broken),
        "stages": {stage: round(seconds, 3) for stage, seconds in update.stages.items()},
    }


def say_broken(update: FootageUpdate) -> None:
    """Prints which videos cannot be read."""
    from bot_deploy.console import say_left_out

    say_left_out([str(error) for error in update.broken.values()])


def _summary(out: str, update: FootageUpdate) -> list[str]:
    read = [video for video in update.videos if video.wall_seconds]
    appearances = sum(video.appearances for video in update.videos)
    left_out = sum(video.left_out.total() for video in update.videos)
    line = f"{out}: {appearances} appearances in {len(update.videos)} videos ({len(read)} read now)"
    return [line + (f"; {left_out} tracks are left out because they are no people" if left_out else "")]
