"""`bot demo`."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot_deploy.choices import EMBED_EVERY_FRAMES, MAX_BOX_OVERLAP, MAX_FPS, MIN_FPS, MIN_PERSON_HEIGHT

from .footage import say_how_to_get_a_better_detector
from .model_choice import choose_model, open_model
from .options import COUNT, DETECTOR, MODEL, Address, NumberRange, RenamedOption, runtime

if TYPE_CHECKING:
    from bot_deploy.demos.app import Summary


@click.command()
@click.option(
    "--source",
    "sources",
    type=Address(),
    multiple=True,
    metavar="SOURCE",
    default=("0",),
    show_default="0",
    help="Camera number, video, folder of frames, or address such as rtsp://user:password@host/stream; env:NAME and "
    "@FILE take it from an environment variable or a file. Give it again for each further camera.",
)
@click.option(
    "--camera",
    "names",
    multiple=True,
    metavar="NAME",
    help="Name of the camera, for the events; one for each source. Default: from the address, as `bot index` does.",
)
@click.option(
    "--start",
    "starts",
    multiple=True,
    metavar="TIME",
    help="When a recording begins, such as 2026-01-31T12:00; one for each source. Default: from its name or metadata.",
)
@click.option(
    "--gallery",
    type=Address(),
    metavar="GALLERY",
    help="Gallery of the known people, also for enrolment: a folder of crops, an index made by `bot index`, or a "
    "Milvus address (milvus://host:19530/name); default: people.gallery in this folder, created if it does not exist.",
)
@MODEL
@DETECTOR
@click.option("--auto-enrol", is_flag=True, help="Enrol strangers automatically, as person-1, person-2, ...")
@click.option(
    "--threshold",
    "--min-score",
    "threshold",
    cls=RenamedOption,
    type=NumberRange(-1, 1),
    help="Cosine from which a person is recognised; default: by `bot calibrate`, or 0.6.",
)
@click.option(
    "--embed-every",
    "--every",
    cls=RenamedOption,
    type=COUNT,
    default=EMBED_EVERY_FRAMES,
    show_default=True,
    help="Number of frames between two embeddings of a track.",
)
@click.option(
    "--min-confidence",
    "--detector-score",
    cls=RenamedOption,
    type=NumberRange(0, 1),
    help="Lowest confidence of a detection; default: the detector's.",
)
@click.option(
    "--max-overlap",
    type=NumberRange(0, 1),
    default=MAX_BOX_OVERLAP,
    show_default=True,
    help="Greatest overlap (IoU) of two boxes; above it, the box with the lower confidence is dropped.",
)
@click.option(
    "--min-height",
    type=COUNT,
    default=MIN_PERSON_HEIGHT,
    show_default=True,
    help="Lowest height of a person, in pixels.",
)
@click.option("--max-height", type=COUNT, help="Greatest height of a person, in pixels.")
@click.option(
    "--fps",
    type=NumberRange(MIN_FPS, MAX_FPS),
    help="Frames per second of the source; default: 1 for a folder, else the rate of the camera or video. "
    "Below 5, people are not tracked.",
)
@click.option("--headless", is_flag=True, help="Open no window, for machines without a screen.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="F.mp4",
    help="Video to write: the frames as the window shows them.",
)
@click.option(
    "--events",
    type=click.Path(path_type=Path),
    metavar="F.jsonl",
    help="File to append to: one line of JSON for each recognition, enrolment and uncertain sighting, and for the end "
    "of each such appearance; - for stdout.",
)
@click.option(
    "--snapshots",
    type=click.Path(path_type=Path),
    default=".",
    help="Folder for the snapshots of the key s; default: this folder.",
)
@click.option("--max-frames", type=COUNT, help="Stop after this number of frames of a camera.")
@runtime
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout at the end.")
def demo(
    sources: tuple[str, ...],
    names: tuple[str, ...],
    starts: tuple[str, ...],
    gallery: str | None,
    model: Path | None,
    detector: Path | None,
    auto_enrol: bool,
    threshold: float | None,
    embed_every: int,
    min_confidence: float | None,
    max_overlap: float,
    min_height: int,
    max_height: int | None,
    fps: float | None,
    headless: bool,
    output: Path | None,
    events: Path | None,
    snapshots: Path,
    max_frames: int | None,
    device: str,
    threads: int,
    batch: int,
    as_json: bool,
) -> None:
    """Recognise the people in front of one or several cameras, and enrol new ones.

    In the window: click a box and press e to enrol that person (type a name, or press only Enter). Space pauses, s
    saves a snapshot, q quits.
    """
    from bot_deploy.video.opencv import configure_opencv

    configure_opencv()  # before anything else imports OpenCV

    from bot_deploy.console import say, show, show_json
    from bot_deploy.demos import app
    from bot_deploy.demos.cameras import name_cameras
    from bot_deploy.demos.enrolment import open_enrolment_gallery
    from bot_deploy.demos.recognition import LiveRecognizer
    from bot_deploy.demos.recorder import Recorder
    from bot_deploy.demos.window import Window
    from bot_deploy.errors import InputError
    from bot_deploy.files import check_no_input
    from bot_deploy.footage import Footage
    from bot_deploy.footage.videos import camera_number
    from bot_deploy.video.detectors import FALLBACK_DETECTOR, choose_detector, open_detector
    from bot_deploy.video.sources import check_source
    from bot_deploy.video.sources.together import open_sources
    from bot_deploy.video.tracks import MIN_TRACKING_FPS

    if as_json and events == Path("-"):
        raise InputError("--json and --events - both write to stdout; give the events a file")
    _end_cleanly_on_signals()
    # Wrong paths are reported before a model is opened.
    for source in sources:
        check_source(source)
    for written in filter(None, (output, events)):
        check_no_input(written, map(Path, sources))
    chosen = choose_detector(detector)
    if detector is None and chosen == Path(FALLBACK_DETECTOR):
        say_how_to_get_a_better_detector()
    model = choose_model(model)
    embedder = open_model(model, device, threads=threads, batch=batch)
    person_detector = open_detector(
        chosen,
        threads=threads,
        min_confidence=min_confidence,
        max_overlap=max_overlap,
        min_height=min_height,
        max_height=max_height,
    )
    with (
        open_sources(sources, fps=fps) as opened,
        contextlib.closing(open_enrolment_gallery(gallery, embedder)) as people,
    ):
        cameras, known_cameras = name_cameras(opened, sources, names, starts), Footage(people).cameras
        numbers = [camera_number(camera.name, known_cameras) for camera in cameras]
        recognizer = LiveRecognizer(
            person_detector,
            embedder,
            people,
            *(camera.source.fps for camera in cameras),
            threshold=threshold,
            embed_every=embed_every,
            auto_enrol=auto_enrol,
            camera_numbers=numbers,
        )
        for camera in cameras:
            named = f", camera {camera.name}" if len(cameras) > 1 else ""
            say(f"{camera.source.name}: detector {person_detector.name}{named}")
            if camera.source.fps < MIN_TRACKING_FPS:
                say(
                    f"{camera.source.fps:g} frames per second: people are not tracked below {MIN_TRACKING_FPS}. Each "
                    "frame is searched by itself, and nobody is enrolled automatically"
                )
        known = len(recognizer.enroller.names)
        say(f"gallery {gallery or people.address}: {known} people; {recognizer.identifier.describe_rule(numbers)}")
        # The window first: if it cannot open, the files of an earlier run stay.
        with (
            contextlib.nullcontext() if headless else Window("bot demo") as window,
            Recorder(output, events, max(camera.source.fps for camera in cameras)) as recorder,
        ):
            summary = app.run(cameras, recognizer, recorder, window, max_frames=max_frames or 0, snapshots=snapshots)
    if as_json:
        show_json(_document(summary))
    else:
        (say if events == Path("-") else show)(*_lines(summary))


def _end_cleanly_on_signals() -> None:
    """Makes `systemctl stop` and a closed terminal end the run as Ctrl-C does."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):  # a job in the background ignores Ctrl-C
        handler = signal.default_int_handler
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, handler)


def _document(summary: Summary) -> dict[str, object]:
    return {
        "frames": summary.frames,
        "dropped": summary.dropped,
        "seconds": round(summary.seconds, 3),
        "fps": round(summary.fps, 2),
        "cameras": dict(summary.cameras),
        "recognised": list(summary.recognised.elements()),
        "enrolled": summary.enrolled,
        "stages": {stage: round(seconds, 3) for stage, seconds in summary.stages.items()},
    }


def _lines(summary: Summary) -> tuple[str, ...]:
    total = summary.seconds or 1.0
    shares = ", ".join(f"{stage} {100 * seconds / total:.0f} %" for stage, seconds in summary.stages.items())
    each = ", ".join(f"{name} {frames}" for name, frames in summary.cameras.items())
    return (
        f"{summary.frames} frames in {summary.seconds:.1f} s, {summary.fps:.1f} per second ({shares})",
        *([f"frames of each camera: {each}"] if len(summary.cameras) > 1 else []),
        f"recognised {summary.recognised.total()} times ({len(summary.recognised)} people), enrolled "
        + str(len(summary.enrolled)),
    )
