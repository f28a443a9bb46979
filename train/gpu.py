"""What keeps a GPU busy: nothing in the loop waits for the step that has just been started."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from bot_deploy.errors import GPU_HINT, RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from .data import TrainingSet

MAX_STEPS_BEHIND = 20  # steps that the GPU may be behind before the CPU waits for it


@contextmanager
def explain_full_memory() -> Iterator[None]:
    """Raises a RunError with the remedy when the GPU's memory is too small."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"the GPU's memory is too small ({str(error).partition('.')[0]}); take a smaller batch "
            f"(identities_per_batch=8), smaller crops, or more GPUs with torchrun; {GPU_HINT}",
            parameter="set",
        ) from None


def pinned_memory(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An empty tensor on the CPU that a GPU copies from and to without making the CPU wait.

    PyTorch gives freed pinned memory out again only after the copies that use it.
    """
    return torch.empty(shape, dtype=dtype, pin_memory=True)


class LossWatch:
    """Stops a run whose loss is not finite, and names the batch.

    On a GPU, the losses of a step are copied in the background and looked at when they have arrived.
    """

    def __init__(self, epoch: int, training_set: TrainingSet) -> None:
        self.epoch, self.training_set = epoch, training_set
        self.waiting: deque[tuple[Tensor, torch.cuda.Event | None, npt.NDArray[np.int64]]] = deque()

    def add(self, values: Tensor, rows: npt.NDArray[np.int64]) -> None:
        """Takes what `train_step` returned, [7], and the `rows` of its batch.

        Raises:
            RunError: the loss of this step, or of one up to MAX_STEPS_BEHIND before, is not finite.
        """
        event = None
        if values.device.type != "cpu":
            values = pinned_memory(values.shape, values.dtype).copy_(values, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self.waiting.append((values, event, rows))
        while self.waiting and (len(self.waiting) > MAX_STEPS_BEHIND or _has_arrived(self.waiting[0][1])):
            self._check_oldest()

    def finish(self) -> None:
        """Waits for all steps.

        Raises:
            RunError: the loss of one is not finite.
        """
        while self.waiting:
            self._check_oldest()

    def _check_oldest(self) -> None:
        values, event, rows = self.waiting.popleft()
        if event is not None:
            event.synchronize()
        if torch.isfinite(values).all():
            return
        id_, triplet, center, _, relation, direction, compatibility = values.tolist()
        raise RunError(
            f"epoch {self.epoch}: the loss is not finite (id {id_}, triplet {triplet}, center {center}, "
            f"relation {relation}, direction {direction}, compatibility {compatibility}); "
            f"use a lower lr or precision=fp32; the batch was {', '.join(self.training_set.paths(rows))}",
            parameter="set",
        )


def _has_arrived(event: torch.cuda.Event | None) -> bool:
    return event is None or bool(event.query())  # type: ignore[no-untyped-call]


@contextmanager
def fixed_shapes(device: str) -> Iterator[None]:
    """Lets cuDNN search for its fastest algorithms, which pays where all batches have one shape."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device != "cpu"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
