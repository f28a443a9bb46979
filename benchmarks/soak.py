r"""Memory of the live demo over a long time: its loop runs on generated frames, with people who come and go.

python benchmarks/soak.py --minutes 30

Everything of `bot demo --auto-enrol --output --events` runs, apart from the networks: the detector and the embedder
read the coloured rectangles that stand for people. Prints the slope of the memory per 100,000 frames after a start.
"""

from __future__ import annotations

import itertools
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from bot_deploy.artifacts.contract import Contract
from bot_deploy.demos import app
from bot_deploy.demos.cameras import Camera
from bot_deploy.demos.enrolment import open_enrolment_gallery
from bot_deploy.demos.recognition import LiveRecognizer
from bot_deploy.demos.recorder import Recorder
from bot_deploy.embedder import Embedder
from bot_deploy.video.detectors import Detections, Detector
from bot_deploy.video.sources import Frame
from bot_deploy.video.sources.base import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels

FPS = 25
HEIGHT, WIDTH = 240, 320  # pixels of a frame
PERSON_HEIGHT, PERSON_WIDTH = 120, 40  # pixels
MAX_PRESENT = 3  # people on a frame
PEOPLE = 30  # different people; with automatic enrolment, each is enrolled when it comes for the first time
DIM = 64  # of the embeddings
START_SHARE = 0.3  # of the run, in which caches fill and people are enrolled; it is left out of the slope
SAMPLE_EVERY_FRAMES = 100
GOAL_MIB = 10.0  # per 100,000 frames


class Street(Source):
    """Frames on which people walk from left to right; a person's number is the colour of the rectangle."""

    def __init__(self, seconds: float) -> None:
        super().__init__("a street", FPS)
        self.samples: list[tuple[int, float]] = []  # frames, resident MiB
        self.visits = 0
        self._end = time.monotonic() + seconds

    def __iter__(self) -> Iterator[Frame]:
        rng = np.random.default_rng(0)
        walkers: list[list[int]] = []  # person, left, lane, pixels per frame
        for number in itertools.count():
            if number % SAMPLE_EVERY_FRAMES == 0:
                self.samples.append((number, resident_mib()))
                if time.monotonic() > self._end:
                    return
            if len(walkers) < MAX_PRESENT and rng.random() < 0.05:
                lane = int(rng.choice(sorted({0, 1, 2} - {walker[2] for walker in walkers})))
                walkers.append([int(rng.integers(PEOPLE)), 4, lane, int(rng.integers(2, 6))])
                self.visits += 1
            pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            for person, left, lane, _ in walkers:
                top = 4 + 36 * lane
                pixels[top : top + PERSON_HEIGHT, left : left + PERSON_WIDTH] = (person + 1, 40 + lane, 200)
            yield Frame(pixels, number, number / FPS)
            for walker in walkers:
                walker[1] += walker[3]
            walkers = [walker for walker in walkers if walker[1] + PERSON_WIDTH < WIDTH]

    def close(self) -> None:
        self._end = 0.0


def detect(pixels: Pixels) -> Detections:
    """The box of each rectangle, cut by nearer ones."""
    boxes = []
    for lane in range(MAX_PRESENT):
        rows, columns = np.nonzero(pixels[:, :, 1] == 40 + lane)
        if len(rows):
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.full(len(boxes), 0.9, np.float32))


def make_embedder() -> Embedder:
    """Crops of one person have one embedding, and those of different people are nearly orthogonal."""
    table = np.random.default_rng(1).normal(size=(256, DIM))
    table /= np.linalg.norm(table, axis=1, keepdims=True)

    def embed(crops: Pixels) -> Vectors:
        persons = np.median(crops[:, :, :, 0].reshape(len(crops), -1), axis=1).round().astype(int)
        return np.asarray(table[persons], np.float32)

    return Embedder(Contract(arch="soak", height=32, width=16, dim=DIM, fingerprint="soak"), "a table", embed)


def resident_mib() -> float:
    """Resident memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def slope_mib(samples: list[tuple[int, float]]) -> float:
    """Least-squares slope of resident memory, in MiB per 100,000 frames, after the start phase."""
    frames, mib = np.array(samples[round(START_SHARE * len(samples)) :]).T
    return float(np.polyfit(frames, mib, 1)[0]) * 100_000


@click.command()
@click.option(
    "--minutes", type=click.FloatRange(0.05, 10_000), default=30.0, show_default=True, help="Length of the run."
)
def main(minutes: float) -> None:
    """Prints the memory slope of the live demo; exits with 1 if it is above the goal."""
    with tempfile.TemporaryDirectory() as folder:
        embedder, street = make_embedder(), Street(60 * minutes)
        gallery = open_enrolment_gallery(f"{folder}/people.gallery", embedder)
        recognizer = LiveRecognizer(Detector("rectangles", detect), embedder, gallery, FPS, auto_enrol=True)
        with Recorder(Path(folder) / "out.mp4", Path(folder) / "events.jsonl", FPS) as recorder:
            summary = app.run([Camera(street, "street")], recognizer, recorder)
        gallery.close()
    slope = slope_mib(street.samples)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print("| minutes | frames | frames/s | visits | enrolled | recognised | MiB at the end | MiB per 100,000 frames |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    cells = (
        f"{minutes:g}",
        f"{summary.frames:,}",
        f"{summary.fps:.0f}",
        str(street.visits),
        str(len(summary.enrolled)),
        str(summary.recognised.total()),
        f"{street.samples[-1][1]:.1f}",
        f"{slope:.1f}",
    )
    print(f"| {' | '.join(cells)} |")
    if slope > GOAL_MIB:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
