"""The training crops as arrays: decoded once if they fit into memory, or else for each batch."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from bot_deploy import images
from bot_deploy.errors import ImageError, InputError
from bot_deploy.machine import available_cores
from bot_deploy.progress import show_progress

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
    teacher: Tensor | None = None  # unit vectors of a teacher [N, E]

    @property
    def num_ids(self) -> int:
        return int(self.labels.max()) + 1

    def pixels(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """The crops of these rows, uint8 [len(rows), height, width, 3]."""
        if self.cache is not None:
            return self.cache[torch.from_numpy(rows).to(self.cache.device)]
        return torch.from_numpy(_decode([self.crops[row] for row in rows], self.size))

    def paths(self, rows: npt.NDArray[np.int64]) -> list[str]:
        return [str(self.crops[row].path) for row in rows]


def open_training_set(crops: Sequence[Crop], size: tuple[int, int], device: str = "cpu") -> TrainingSet:
    """The training set of `crops`, resized to `size`, for training on `device`.

    Raises:
        InputError: files that are not images; the message names them.
    """
    _, labels = np.unique([crop.identity for crop in crops], return_inverse=True)
    needed = len(crops) * size[0] * size[1] * 3
    cache = None
    if needed < MAX_CACHE_SHARE * _available_memory():
        cache = torch.from_numpy(_decode(crops, size, progress_text="decoding the training crops"))
        if device != "cpu" and needed < MAX_CACHE_SHARE * torch.cuda.mem_get_info(device)[0]:
            cache = cache.to(device)  # no crop is copied to the GPU again
    return TrainingSet(tuple(crops), labels.astype(np.int64), size, cache)


def _decode(crops: Sequence[Crop], size: tuple[int, int], progress_text: str | None = None) -> images.Pixels:
    pixels = np.empty((len(crops), *size, 3), np.uint8)
    broken = []
    loaded = images.read_many([crop.path for crop in crops], size, workers=available_cores())
    for row, picture in enumerate(show_progress(loaded, progress_text, len(crops))):
        if isinstance(picture, ImageError):
            broken.append(str(picture))
        else:
            pixels[row] = picture
    if broken:
        shown = "; ".join(broken[:MAX_FILES_SHOWN]) + (
            f"; and {len(broken) - MAX_FILES_SHOWN} more" if len(broken) > MAX_FILES_SHOWN else ""
        )
        raise InputError(f"{len(broken)} training crops cannot be read; remove or repair them: {shown}")
    return pixels


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
