"""The training crops as arrays: decoded once if they fit into memory, or else ahead of each batch."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from bot_deploy import images
from bot_deploy.errors import ImageError, InputError
from bot_deploy.machine import available_cores
from bot_deploy.progress import show_progress

from .distributed import ALONE, World, broadcast, gather_objects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from bot_deploy.datasets import Crop

MAX_CACHE_SHARE = 0.25  # of the machine's or the GPU's memory
CONTAINER_LIMIT_FILE = Path("/sys/fs/cgroup/memory.max")
MAX_FILES_SHOWN = 5  # broken files in an error message


@dataclass(frozen=True)
class TrainingSet:
    """The crops to train on, with labels from 0 to num_ids - 1."""

    crops: tuple[Crop, ...]
    labels: npt.NDArray[np.int64]  # [N]
    size: tuple[int, int]  # height, width
    cache: Tensor | None  # uint8 [N, height, width, 3], on the training device if it fits there
    teacher: Tensor | None = None  # unit vectors of a teacher [N, E], on the CPU
    earlier: Tensor | None = None  # directions of an earlier model [N, D], on the CPU

    @property
    def num_ids(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def cache_is_on_gpu(self) -> bool:
        return self.cache is not None and self.cache.device.type != "cpu"

    def pixels(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """The crops of these rows, uint8 [len(rows), height, width, 3], from a cache on the CPU or decoded now."""
        if self.cache is not None:
            return self.cache[torch.from_numpy(rows)]
        return torch.from_numpy(_decode([self.crops[row] for row in rows], self.size))

    def select(self, rows: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> TrainingSet:
        """The crops of these rows with other labels [len(rows)]."""
        cache = None if self.cache is None else self.cache[torch.from_numpy(rows)]
        return TrainingSet(tuple(self.crops[row] for row in rows), labels, self.size, cache)

    def paths(self, rows: npt.NDArray[np.int64]) -> list[str]:
        return [str(self.crops[row].path) for row in rows]


def open_training_set(
    crops: Sequence[Crop], size: tuple[int, int], world: World = ALONE, *, on_gpu: bool = True
) -> TrainingSet:
    """The training set of `crops`, resized to `size`.

    Each process of `world` decodes its part of a set that fits into memory, and gets the others' parts. The cache is on
    the GPU if it fits there and `on_gpu` is true.

    Raises:
        InputError: files that are not images; the message names them.
    """
    _, labels = np.unique([crop.identity for crop in crops], return_inverse=True)
    needed = len(crops) * size[0] * size[1] * 3
    cache = None
    if all(gather_objects(needed < MAX_CACHE_SHARE * _available_memory(), world)):
        cache = _decode_together(crops, size, world)
        if on_gpu and world.device != "cpu" and needed < MAX_CACHE_SHARE * torch.cuda.mem_get_info(world.device)[0]:
            cache = cache.to(world.device)  # no crop is copied to the GPU again
    return TrainingSet(tuple(crops), labels.astype(np.int64), size, cache)


def _decode_together(crops: Sequence[Crop], size: tuple[int, int], world: World) -> Tensor:
    """All crops, uint8 [len(crops), height, width, 3]; each process decodes its part and sends it to the others."""
    pixels = np.empty((len(crops), *size, 3), np.uint8)
    starts = [len(crops) * rank // world.size for rank in range(world.size + 1)]
    parts = [slice(*bounds) for bounds in pairwise(starts)]
    own = parts[world.rank]
    text = "decoding the training crops" if world.is_first else None
    broken = _decode_into(pixels[own], crops[own], text)
    _refuse([error for errors in gather_objects(broken, world) for error in errors])
    whole = torch.from_numpy(pixels)
    for rank, part in enumerate(parts):
        broadcast(whole[part], rank, world)
    return whole


def _decode(crops: Sequence[Crop], size: tuple[int, int]) -> images.Pixels:
    pixels = np.empty((len(crops), *size, 3), np.uint8)
    _refuse(_decode_into(pixels, crops))
    return pixels


def _decode_into(pixels: images.Pixels, crops: Sequence[Crop], progress_text: str | None = None) -> list[str]:
    """Fills `pixels` [len(crops), height, width, 3]; returns the errors of the files that are not images."""
    broken = []
    _, height, width, _ = pixels.shape
    loaded = images.read_many([crop.path for crop in crops], (height, width), workers=available_cores())
    for row, picture in enumerate(show_progress(loaded, progress_text, len(crops))):
        if isinstance(picture, ImageError):
            broken.append(str(picture))
        else:
            pixels[row] = picture
    return broken


def _refuse(broken: list[str]) -> None:
    """Raises an InputError if there are `broken` files."""
    if broken:
        shown = "; ".join(broken[:MAX_FILES_SHOWN]) + (
            f"; and {len(broken) - MAX_FILES_SHOWN} more" if len(broken) > MAX_FILES_SHOWN else ""
        )
        raise InputError(f"{len(broken)} training crops cannot be read; remove or repair them: {shown}")


def _available_memory() -> int:
    """Bytes of memory for this process: of the machine or container, divided by the processes of torchrun.

    It is 0, so that nothing is cached, if the system does not report its memory.
    """
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
    with contextlib.suppress(OSError, ValueError):  # not in a container, or the limit is "max"
        machine = min(machine, int(CONTAINER_LIMIT_FILE.read_text(encoding="ascii")))
    return machine // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # each process has its own copy
