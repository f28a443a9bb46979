"""Measures the speed of models side by side: latency of one image and throughput in batches.

Both are measured for the model alone and for the whole way from image files to vectors.
"""

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

ROUNDS = 5  # turns of each entry, so that a slow minute of the machine slows all entries alike
MAX_FILES = 512
NAME_WIDTH = 36  # characters of a name in the table


@dataclass(frozen=True)
class Entry:
    """An entry of the benchmark: a model on a device, ready to run."""

    name: str
    embedder: Embedder


@dataclass(frozen=True)
class Speed:
    """The timings of one entry in one mode."""

    seconds: dict[int, list[float]]  # batch size -> duration of each timed call

    def latency_ms(self, percentile: float) -> float:
        """Milliseconds for one image."""
        return float(np.percentile(self.seconds[1], percentile)) * 1000

    def images_per_second(self, batch: int) -> float:
        """The rate in batches of this size, by the median call."""
        return batch / float(np.median(self.seconds[batch]))

    @property
    def best_batch(self) -> int:
        """The batch size with the highest rate."""
        return max(self.seconds, key=self.images_per_second)

    def speedup_over(self, baseline: Speed) -> dict[str, float]:
        """How many times as fast as `baseline`: latency of one image, and throughput at the best batch size of each."""
        return {
            "latency": baseline.latency_ms(50) / self.latency_ms(50),
            "throughput": self.images_per_second(self.best_batch) / baseline.images_per_second(baseline.best_batch),
        }

    def to_dict(self) -> dict[str, object]:
        """The figures for JSON."""
        return {
            "latency_ms": {"p50": self.latency_ms(50), "p95": self.latency_ms(95)},
            "images_per_second": {str(batch): self.images_per_second(batch) for batch in self.seconds},
            "best_batch": self.best_batch,
        }


@dataclass(frozen=True)
class Result:
    """The measured speed of an entry."""

    entry: Entry
    model_only: Speed  # on crops that are decoded and resized already
    with_decoding: Speed  # from image files to vectors, by `Embedder.embed`


def measure(
    entries: Sequence[Entry],
    files: Sequence[Path],
    batches: Sequence[int],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Result]:
    """Times every entry in both modes.

    Args:
        entries: the models.
        files: images; they are repeated where a batch needs more.
        batches: batch sizes; 1 is always measured too.
        seconds: duration of the measurement of one entry at one batch size in one mode.
        clock: gives the time in seconds.

    Raises:
        ImageError: a file is not an image.
    """
    batch_sizes = sorted({1, *batches})
    files = list(islice(cycle(files), max(batch_sizes)))
    crops = {
        image_size: np.stack([images.read_resized(file, image_size) for file in files])
        for image_size in {entry.embedder.contract.size for entry in entries}
    }
    model_seconds: list[dict[int, list[float]]] = [{} for _ in entries]
    decoding_seconds: list[dict[int, list[float]]] = [{} for _ in entries]
    for batch in show_progress(batch_sizes, "measuring", len(batch_sizes)):
        embedders = [replace(entry.embedder, batch_size=batch) for entry in entries]
        model_only = [partial(embedder.run, crops[embedder.contract.size][:batch]) for embedder in embedders]
        with_decoding = [partial(embedder.embed, files[:batch]) for embedder in embedders]
        timed = time_in_turns([*model_only, *with_decoding], seconds, clock)
        for number in range(len(entries)):
            model_seconds[number][batch] = timed[number]
            decoding_seconds[number][batch] = timed[len(entries) + number]
    return [
        Result(entry, Speed(model), Speed(decoding))
        for entry, model, decoding in zip(entries, model_seconds, decoding_seconds, strict=True)
    ]


def time_in_turns(
    calls: Sequence[Callable[[], object]], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Times `calls` in turns over `ROUNDS` rounds, each for about `seconds` in all.

    Every turn begins with one untimed call. Before it, the caches hold the weights of another model and the threads of
    another model may still spin; the very first call compiles.

    Returns:
        The duration of each timed call in seconds, for each of `calls`.
    """
    durations: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(ROUNDS):
        for call, measured in zip(calls, durations, strict=True):
            call()
            end = clock() + seconds / ROUNDS
            while True:
                started = clock()
                call()
                stopped = clock()
                measured.append(stopped - started)
                if stopped >= end:
                    break
    return durations


def find_readable_images(folder: Path) -> list[Path]:
    """Up to MAX_FILES readable images under `folder`.

    Raises:
        InputError: there is none.
    """
    files = images.find_images(folder)[:MAX_FILES]
    readable = [
        file
        for file, picture in zip(files, images.read_many(files, (2, 1)), strict=True)
        if not isinstance(picture, ImageError)
    ]
    if not readable:
        raise InputError(f"{folder}: no image in it that can be read")
    return readable


def format_table(results: Sequence[Result], baselines: Sequence[Result | None]) -> list[str]:
    """Lines with the figures in columns; `baselines` holds the baseline of each result, or None."""
    lines = [
        f"{'':{NAME_WIDTH}}{'latency of one image, ms':^32}{'images/s, at batch':^28}{'speedup over baseline':^20}",
        (
            f"{'':{NAME_WIDTH}}{'model only':>16}{'with decoding':>16}"
            f"{'model only':>14}{'with decoding':>14}{'model only':>20}"
        ),
        f"{'':{NAME_WIDTH}}{'p50':>8}{'p95':>8}{'p50':>8}{'p95':>8}{'':28}{'latency':>10}{'images/s':>10}",
    ]
    for result, baseline in zip(results, baselines, strict=True):
        name = result.entry.name
        if len(name) >= NAME_WIDTH:
            name = "…" + name[2 - NAME_WIDTH :]  # the end is what distinguishes models
        speeds = (result.model_only, result.with_decoding)
        cells = [f"{name:{NAME_WIDTH}}"]
        cells += [f" {speed.latency_ms(percentile):7.2f}" for speed in speeds for percentile in (50, 95)]
        cells += [f" {speed.images_per_second(speed.best_batch):7.1f} at {speed.best_batch:<2d}" for speed in speeds]
        if baseline:
            cells += [f" {factor:8.2f}x" for factor in result.model_only.speedup_over(baseline.model_only).values()]
        lines.append("".join(cells))
    return [line.rstrip() for line in lines]
