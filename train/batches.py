"""The batches of an epoch: drawn and decoded ahead by a thread, and copied to the training device in one piece."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from . import gpu
from .distillation import draw_unlabeled
from .sampler import draw_batches
from .transforms import Augmentation, compress, draw_augmentation

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import numpy.typing as npt

    from .data import TrainingSet
    from .distributed import World
    from .recipe import Recipe

T = TypeVar("T")
HostTensors = dict[str, Tensor]

BATCHES_AHEAD = 2
ALIGNMENT = 16  # bytes; each tensor in a block of memory begins at a multiple of it


@dataclass(frozen=True)
class Part:
    """Crops of one training set, and the changes to them."""

    images: Tensor  # uint8 [N, H, W, 3]
    augmentation: Augmentation


@dataclass(frozen=True)
class Batch:
    """This rank's share of a batch, on the training device."""

    rows: npt.NDArray[np.int64]  # [N], of the labelled crops in their training set
    labels: Tensor  # int64 [N]
    parts: tuple[Part, ...]  # N labelled crops, and U unlabelled ones if there are some
    teacher: Tensor | None  # unit vectors [N + U, E]
    earlier: Tensor | None  # directions of an earlier model, unit vectors [N, D]


@dataclass(frozen=True)
class EpochPlan:
    """The crops of each batch of an epoch; all ranks draw the same."""

    labelled: TrainingSet
    unlabelled: TrainingSet | None
    rows: list[npt.NDArray[np.int64]]  # of each batch, [P * K]
    unlabelled_rows: npt.NDArray[np.int64]  # [batches, U]
    rng: np.random.Generator  # draws the changes to labelled crops
    unlabelled_rng: np.random.Generator


def plan_epoch(labelled: TrainingSet, unlabelled: TrainingSet | None, recipe: Recipe, epoch: int) -> EpochPlan:
    """Draws the crops of each batch of `epoch`. The draws depend only on the seed, the epoch and the labels."""
    rng = np.random.default_rng([recipe.seed, epoch])
    rows = list(draw_batches(labelled.labels, recipe.identities_per_batch, recipe.images_per_identity, rng))
    # A stream of its own, so that the labelled batches are the same with and without unlabelled crops.
    unlabelled_rng = np.random.default_rng([recipe.seed, epoch, 1])
    count = len(unlabelled.crops) if unlabelled else 0
    unlabelled_rows = draw_unlabeled(count, len(rows), recipe.unlabeled_batch, unlabelled_rng)
    return EpochPlan(labelled, unlabelled, rows, unlabelled_rows, rng, unlabelled_rng)


def load_batches(plan: EpochPlan, recipe: Recipe, world: World) -> Generator[Batch]:
    """Yields this rank's share of each batch of `plan`. A thread is BATCHES_AHEAD batches ahead; closing ends it.

    Raises:
        InputError: a file that is not an image, if the crops are decoded for each batch.
    """
    sets = [plan.labelled] if plan.unlabelled is None else [plan.labelled, plan.unlabelled]
    for rows, host_parts, block in _ahead(_host_batches(plan, sets, recipe, world), world.device):
        parts = host_parts
        if block is not None:
            parts = _views(block.to(world.device, non_blocking=True), host_parts)
        teachers = [part["teacher"] for part in parts if "teacher" in part]
        yield Batch(
            rows,
            parts[0]["labels"],
            tuple(_to_part(training_set, part) for training_set, part in zip(sets, parts, strict=True)),
            torch.cat(teachers) if teachers else None,
            parts[0].get("earlier"),
        )


def _to_part(training_set: TrainingSet, tensors: HostTensors) -> Part:
    if "rows" in tensors:
        assert training_set.cache is not None
        images = training_set.cache[tensors["rows"]]
    else:
        images = tensors["images"]
    changes = {name: tensors[name] for name in Augmentation.__dataclass_fields__ if name in tensors}
    return Part(images, Augmentation(**changes))


def _host_batches(
    plan: EpochPlan, sets: list[TrainingSet], recipe: Recipe, world: World
) -> Iterator[tuple[npt.NDArray[np.int64], list[HostTensors], Tensor | None]]:
    """Yields rows and tensors of each batch on the CPU; for a GPU, also the pinned block of memory that holds them."""
    for rows, unlabelled_rows in zip(plan.rows, plan.unlabelled_rows, strict=True):
        own_rows = rows[world.share(len(rows))]
        parts = []
        for training_set, all_rows, rng in zip(
            sets, (rows, unlabelled_rows), (plan.rng, plan.unlabelled_rng), strict=False
        ):
            share = world.share(len(all_rows))
            augmentation = draw_augmentation(len(all_rows), recipe, rng).select(share)
            parts.append(_host_tensors(training_set, all_rows[share], augmentation))
        parts[0]["labels"] = torch.from_numpy(plan.labelled.labels[own_rows])
        yield own_rows, parts, None if world.device == "cpu" else _pinned_block(parts)


def _host_tensors(training_set: TrainingSet, rows: npt.NDArray[np.int64], augmentation: Augmentation) -> HostTensors:
    """The crops of `rows`, or the rows themselves if the crops are on the GPU already, and all that belongs to them."""
    tensors = {name: values for name, values in vars(augmentation).items() if values is not None}
    quality = tensors.pop("quality", None)
    if training_set.cache_is_on_gpu:
        tensors["rows"] = torch.from_numpy(rows)
    else:
        images = training_set.pixels(rows)
        tensors["images"] = images if quality is None else compress(images, quality)
    for name, vectors in (("teacher", training_set.teacher), ("earlier", training_set.earlier)):
        if vectors is not None:
            tensors[name] = vectors[torch.from_numpy(rows)]
    return tensors


def _pinned_block(parts: list[HostTensors]) -> Tensor:
    """All tensors of `parts` in one block of pinned memory, which a GPU copies without making the CPU wait."""
    sizes = [_aligned(tensor.nbytes) for part in parts for tensor in part.values()]
    block = gpu.pinned_memory((sum(sizes),), torch.uint8)
    for part, places in zip(parts, _views(block, parts), strict=True):
        for name, tensor in part.items():
            places[name].copy_(tensor)
    return block


def _views(block: Tensor, like: list[HostTensors]) -> list[HostTensors]:
    """The tensors that `_pinned_block` of `like` has put into `block` or its copy."""
    start, parts = 0, []
    for part in like:
        views = {}
        for name, tensor in part.items():
            views[name] = block[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            start += _aligned(tensor.nbytes)
        parts.append(views)
    return parts


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def _ahead(items: Iterator[T], device: str) -> Generator[T]:
    """Yields `items`, which a thread computes ahead. When this generator is closed, the thread ends."""
    end = object()
    pool = ThreadPoolExecutor(1, "batches", _use_device, (device,))
    try:
        waiting = deque(pool.submit(next, items, end) for _ in range(BATCHES_AHEAD))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item  # type: ignore[misc]
    finally:
        pool.shutdown(cancel_futures=True)


def _use_device(device: str) -> None:
    """Makes the GPU `device` that of this thread; otherwise pinned memory would be for the first GPU."""
    if device != "cpu":
        torch.cuda.set_device(torch.device(device).index or 0)
