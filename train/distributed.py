"""Training in several processes that `torchrun` starts; the identities of each batch are split between them.

All ranks draw the same batches from the same seed, and each takes its own share. Features are gathered with their
gradients, so that the triplet loss and the center loss are those of the whole batch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed

from bot_deploy.errors import GPU_HINT, InputError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

EVALUATION_TIMEOUT = timedelta(hours=2)  # the other ranks wait while the first one evaluates
TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class World:
    """The place of this process among all that train together, and the device it trains on."""

    rank: int
    size: int
    device: str

    @property
    def is_first(self) -> bool:
        """Whether this is the process that evaluates, writes the files of the run and logs."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """The rows of this rank in a batch of `count` rows, a multiple of `size`."""
        rows = count // self.size
        return slice(self.rank * rows, (self.rank + 1) * rows)


ALONE = World(0, 1, "cpu")


def join_world() -> World:
    """Connects to the other processes of `torchrun`; without it, the world is this process alone.

    Raises:
        InputError: more processes than GPUs.
    """
    gpu = torch.cuda.is_available()
    if not all(name in os.environ for name in TORCHRUN_VARIABLES):
        return World(0, 1, "cuda" if gpu else "cpu")
    rank, size, local = (int(os.environ[name]) for name in TORCHRUN_VARIABLES)
    device = f"cuda:{local}" if gpu else "cpu"
    if gpu:
        if local >= torch.cuda.device_count():
            raise InputError(
                f"this machine has {torch.cuda.device_count()} GPUs, but this is process {local + 1}; start fewer; "
                f"{GPU_HINT}"
            )
        torch.cuda.set_device(local)
    if not distributed.is_initialized():
        # With a GPU, gloo is for what is on the CPU: decoded crops and Python objects.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=EVALUATION_TIMEOUT)
    return World(rank, size, device)


def leave_world() -> None:
    """Ends the connection that `join_world` made."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def gather(local: Tensor, world: World) -> Tensor:
    """The rows of all ranks, [size * N, ...], from this rank's `local` [N, ...]; gradients flow back to each rank.

    All ranks compute the same loss from these rows, so that a rank's gradient is `size` times its share.
    DistributedDataParallel divides it by `size` when it averages gradients.
    """
    if world.size == 1:
        return local
    if not local.requires_grad:
        parts = [torch.empty_like(local) for _ in range(world.size)]
        distributed.all_gather(parts, local.contiguous())
        return torch.cat(parts)
    return torch.cat(_Gather.apply(local.contiguous(), world.size))


class _Gather(torch.autograd.Function):
    """all_gather with a gradient: the sum of all ranks' gradients of these rows."""

    @staticmethod
    def forward(ctx, local, size):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        ctx.rank = distributed.get_rank()
        parts = [torch.empty_like(local) for _ in range(size)]
        distributed.all_gather(parts, local)
        return tuple(parts)

    @staticmethod
    def backward(ctx, *gradients):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002, ANN205
        summed = torch.stack(gradients)
        distributed.all_reduce(summed)
        return summed[ctx.rank], None


def broadcast(values: Tensor, source: int, world: World) -> None:
    """Fills `values`, contiguous and of the same size in all processes, with those of the process `source`."""
    if world.size > 1 and values.numel():
        distributed.broadcast(values, source)


def gather_objects(value: T, world: World) -> list[T]:
    """The `value` of each process, in the order of their ranks."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    distributed.all_gather_object(values, value)
    return values


def average(value: Tensor, world: World) -> Tensor:
    """The mean of `value` over the ranks, without gradient."""
    value = value.detach().clone()
    if world.size > 1:
        distributed.all_reduce(value)
    return value / world.size
