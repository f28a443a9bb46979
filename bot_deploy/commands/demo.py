"""`bot demo`."""

from __future__ import annotations

import contextlib
import json as jsonlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot_deploy.choices import EMBED_EVERY_FRAMES, MAX_BOX_OVERLAP, MIN_PERSON_HEIGHT

from .options import runtime

if TYPE_CHECKING:
    from bot_deploy.demos.app import Summary


@click.command()
@click.option(
    "--source",
    default="0",
    show_default=True,
    help="A camera's number, a video, a folder of frames, or an address such as rtsp://user:password@host/stream.",
)
@click.option(
    "--gallery",
    help="Whom to recognise, and where to enrol: a folder of crops, what `bot index` made, or a Milvus address; "
    "people.gallery here by default, made if it is not there.",
)
@click.option("--model", type=click.Path(path_type=Path), help="Exported model; the newest under runs/ by default.")
@click.option(
    "--detector", type=click.Path(path_type=Path), metavar="F.onnx", help="YOLOX-style; OpenCV's HOG without."
)
@click.option("--auto-enrol", is_flag=True, help="Enrol people whom nobody knows, as person-1, person-2, ...")
@click.option("--min-score", type=click.FloatRange(-1, 1), help="Cosine of a match; as `bot calibrate` found, or 0.6.")
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=EMBED_EVERY_FRAMES,
    show_default=True,
    help="Embed a track every N frames.",
)
@click.option("--detector-score", type=click.FloatRange(0, 1), help="Leave out boxes with a lower score.")
@click.option(
    "--max-overlap",
    type=click.FloatRange(0, 1),
    default=MAX_BOX_OVERLAP,
    show_default=True,
    help="Of two boxes (IoU) before the worse is dropped.",
)
@click.option(
    "--min-height",
    type=click.IntRange(min=1),
    default=MIN_PERSON_HEIGHT,
    show_default=True,
    help="Of a person, in pixels.",
)
@click.option("--max-height", type=click.IntRange(min=1), help="Of a person, in pixels.")
@click.option(
    "--fps",
    type=click.FloatRange(min=0, min_open=True),
    help="Of the frames: 1 for a folder of them, or what the camera or video says. Tracked from 5 on.",
)
@click.option("--headless", is_flag=True, help="No window; for machines without a screen.")
@click.option("--output", type=click.Path(path_type=Path), metavar="F.mp4", help="Record what would be shown.")
@click.option(
    "--events",
    type=click.Path(path_type=Path),
    metavar="F.jsonl",
    help="Add a line for each recognition; - for stdout.",
)
@click.option("--snapshots", type=click.Path(path_type=Path), default=".", help="Folder for those that key s takes.")
@click.option("--max-frames", type=click.IntRange(min=1), help="Stop after so many.")
@runtime
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout at the end.")
def demo(
    source: str,
    gallery: str | None,
    model: Path | None,
    detector: Path | None,
    auto_enrol: bool,
    min_score: float | None,
    every: int,
    detector_score: float | None,
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
    """Recognise people before a camera, and enrol new ones.

    In the window: click a box and press e to enrol that person (type a name, or only Enter), space pauses, s saves a
    snapshot, q ends.
    """
    from bot_deploy import runs
    from bot_deploy.console import say
    from bot_deploy.demos import app
    from bot_deploy.demos.enrolment import open_people
    from bot_deploy.demos.recognition import Live
    from bot_deploy.demos.recorder import Recorder
    from bot_deploy.demos.window import Window
    from bot_deploy.embedder import open_embedder
    from bot_deploy.errors import InputError
    from bot_deploy.video.detectors import open_detector
    from bot_deploy.video.sources import open_source

    if as_json and events == Path("-"):
        raise InputError("--json and --events - both want stdout; give the events a file")
    for name in ("SIGTERM", "SIGHUP"):  # `systemctl stop` and a closed terminal are as clean an end as Ctrl-C
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)
    if model is None:
        model = runs.newest_file("model.onnx", "`bot export` writes one, or name it with --model")
    embedder = open_embedder(model, device, threads=threads, batch=batch)
    finder = open_detector(
        detector,
        threads=threads,
        min_score=detector_score,
        max_overlap=max_overlap,
        min_height=min_height,
        max_height=max_height,
    )
    with open_source(source) as frames:
        people = open_people(gallery, embedder, min_score)
        try:
            say(f"{frames.name}: people by {finder.name}, {model} on {embedder.backend}")
            say(f"gallery {people.gallery.address}: {len(people)} people; {people.rule}")
            frames.fps = fps or frames.fps
            live = Live(finder, embedder, people, frames.fps, timed=frames.live, every=every, auto_enrol=auto_enrol)
            # The window first: where there can be none, no file of an earlier run is replaced.
            with (
                contextlib.nullcontext() if headless else Window("bot demo") as window,
                Recorder(output, events, frames.fps) as recorder,
            ):
                summary = app.run(frames, live, recorder, window, max_frames=max_frames or 0, snapshots=snapshots)
        finally:
            people.gallery.close()
    click.echo(jsonlib.dumps(_document(summary)) if as_json else _table(summary), err=events == Path("-"))


def _document(summary: Summary) -> dict[str, object]:
    return {
        "frames": summary.frames,
        "dropped": summary.dropped,
        "seconds": round(summary.seconds, 3),
        "fps": round(summary.fps, 2),
        "recognised": list(summary.recognised.elements()),
        "enrolled": summary.enrolled,
        "stages": {stage: round(seconds, 3) for stage, seconds in summary.stages.items()},
    }


def _table(summary: Summary) -> str:
    whole = summary.seconds or 1.0
    shares = ", ".join(f"{stage} {100 * seconds / whole:.0f} %" for stage, seconds in summary.stages.items())
    return (
        f"{summary.frames} frames in {summary.seconds:.1f} s, {summary.fps:.1f} a second ({shares})\n"
        f"recognised {summary.recognised.total()} times ({len(summary.recognised)} people), "
        f"enrolled {len(summary.enrolled)}"
    )
