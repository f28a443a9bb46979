"""How fast models are, side by side: latency of one image and throughput in batches, with and without decoding."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy import images
from bot_deploy.errors import ImageError, InputError
from bot_deploy.progress import show_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bot_deploy.embedder import Embedder

ROUNDS = 5  # turns that each contender gets, so that a slow minute of the machine falls on all of them
MOST = 512  # files that are used at most


@dataclass(frozen=True)
class Contender:
    """A model on a device, ready to run."""

    name: str
    embedder: Embedder


@dataclass(frozen=True)
class Speed:
    """What was measured of one contender in one mode: by batch size, the seconds of every timed call."""

    seconds: dict[int, list[float]]

    def latency_ms(self, percentile: float) -> float:
        """Of one image."""
        return float(np.percentile(self.seconds[1], percentile)) * 1000

    def rate(self, batch: int) -> float:
        """Images per second in batches of this size, by the median call."""
        return batch / float(np.median(self.seconds[batch]))

    @property
    def best_batch(self) -> int:
        return max(self.seconds, key=self.rate)

    def times(self, yardstick: Speed) -> dict[str, float]:
        """How many times as fast as `yardstick`: at one image, and each at its best batch."""
        return {
            "latency": yardstick.latency_ms(50) / self.latency_ms(50),
            "throughput": self.rate(self.best_batch) / yardstick.rate(yardstick.best_batch),
        }

    def to_dict(self) -> dict[str, object]:
        return {
            "latency_ms": {"p50": self.latency_ms(50), "p95": self.latency_ms(95)},
            "images_per_second": {str(batch): self.rate(batch) for batch in self.seconds},
            "best_batch": self.best_batch,
        }


@dataclass(frozen=True)
class Result:
    contender: Contender
    model: Speed  # of the model alone, on crops that are decoded and resized
    whole: Speed  # from image files to vectors, as `Embedder.embed` does it


def measure(
    contenders: Sequence[Contender],
    files: Sequence[Path],
    batches: Sequence[int],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Result]:
    """Times every contender on `files` for `seconds` at each batch size in each mode; batch 1 is always among them.

    Raises:
        ImageError: a file is not an image.
    """
    sizes = sorted({1, *batches})
    files = list(islice(cycle(files), max(sizes)))
    crops = {
        size: np.stack([images.read_resized(file, size) for file in files])
        for size in {contender.embedder.contract.size for contender in contenders}
    }
    results = [Result(contender, Speed({}), Speed({})) for contender in contenders]
    for batch in show_progress(sizes, "measuring", len(sizes)):
        embedders = [replace(contender.embedder, batch=batch) for contender in contenders]
        alone = [partial(embedder.run, crops[embedder.contract.size][:batch]) for embedder in embedders]
        whole = [partial(embedder.embed, files[:batch]) for embedder in embedders]
        timed = take_turns([*alone, *whole], seconds, clock)
        for number, result in enumerate(results):
            result.model.seconds[batch] = timed[number]
            result.whole.seconds[batch] = timed[len(results) + number]
    return results


def take_turns(
    works: Sequence[Callable[[], object]], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Runs `works` by turns in `ROUNDS` rounds, each for about `seconds` in all; the seconds of each timed call.

    Every turn begins with a call that is not timed: the caches still hold the last one's weights, its threads may
    still be spinning, and the very first calls compile.
    """
    timed: list[list[float]] = [[] for _ in works]
    for work in works:
        work()
    for _ in range(ROUNDS):
        for work, taken in zip(works, timed, strict=True):
            work()
            end = clock() + seconds / ROUNDS
            while True:
                started = clock()
                work()
                stopped = clock()
                taken.append(stopped - started)
                if stopped >= end:
                    break
    return timed


def find_crops(folder: Path) -> list[Path]:
    """Up to MOST images under `folder` that can be read.

    Raises:
        InputError: there is none.
    """
    found = images.find_images(folder)[:MOST]
    usable = [
        file
        for file, picture in zip(found, images.read_many(found, (2, 1)), strict=True)
        if not isinstance(picture, ImageError)
    ]
    if not usable:
        raise InputError(f"{folder}: no image in it that can be read")
    return usable


def table(results: Sequence[Result], yardsticks: Sequence[Result | None]) -> str:
    """The figures in columns; `yardsticks` has for each result the one that it is compared with."""
    lines = [
        f"{'':36}{'latency of one image, ms':^32}{'images/s, at batch':^28}{'times the yardstick':^20}",
        f"{'':36}{'model only':>16}{'with decoding':>16}{'model only':>14}{'with decoding':>14}{'model only':>20}",
        f"{'':36}{'p50':>8}{'p95':>8}{'p50':>8}{'p95':>8}{'':28}{'latency':>10}{'images/s':>10}",
    ]
    for result, yardstick in zip(results, yardsticks, strict=True):
        name = result.contender.name
        cells = [f"{name if len(name) < 36 else '…' + name[-34:]:36}"]  # noqa: PLR2004 - the end tells models apart
        cells += [f" {speed.latency_ms(p):7.2f}" for speed in (result.model, result.whole) for p in (50, 95)]
        cells += [f" {s.rate(s.best_batch):7.1f} at {s.best_batch:<2d}" for s in (result.model, result.whole)]
        if yardstick:
            cells += [f" {times:8.2f}x" for times in result.model.times(yardstick.model).values()]
        lines.append("".join(cells))
    return "\n".join(line.rstrip() for line in lines)
