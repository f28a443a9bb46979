"""Several processes as one trainer: `torchrun` starts them, identities are split across them.

Every rank draws the same batches from the same seed and takes its own share. Features are gathered with
their gradients, so that batch-hard mining and the centers see the whole batch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import distributed

from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = timedelta(hours=2)  # of the others while the first one scores
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class World:
    """This process among `size`; `device` is the one it trains on."""

    rank: int
    size: int
    device: str

    @property
    def first(self) -> bool:
        """Whether this is the one that writes, evaluates and talks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This rank's part of `count` rows, which `size` divides."""
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)


def join() -> World:
    """The world that `torchrun` describes in the environment; alone without it.

    Raises:
        InputError: more processes than GPUs.
    """
    gpu = torch.cuda.is_available()
    if not all(name in os.environ for name in TORCHRUN):
        return World(0, 1, "cuda" if gpu else "cpu")
    rank, size, local = (int(os.environ[name]) for name in TORCHRUN)
    device = f"cuda:{local}" if gpu else "cpu"
    if gpu:
        if local >= torch.cuda.device_count():
            raise InputError(f"{torch.cuda.device_count()} GPUs here, but this is process {local + 1}; start fewer")
        torch.cuda.set_device(local)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if gpu else "gloo", timeout=PATIENCE)
    return World(rank, size, device)


def leave() -> None:
    """Ends what `join` began."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def gather(local: Tensor, world: World) -> Tensor:
    """The rows of all ranks [size * N, ...] from this rank's [N, ...]; gradients flow back to each.

    Every rank computes the same loss from them, so a rank's gradient is `size` times its share, which the
    averaging of gradients in DistributedDataParallel divides out again.
    """
    if world.size == 1:
        return local
    if not local.requires_grad:
        parts = [torch.empty_like(local) for _ in range(world.size)]
        distributed.all_gather(parts, local.contiguous())
        return torch.cat(parts)
    return torch.cat(_Gather.apply(local.contiguous(), world.size))


class _Gather(torch.autograd.Function):
    """all_gather whose gradient is the sum over ranks of what each has for these rows."""

    @staticmethod
    def forward(ctx, local, size):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        ctx.rank = distributed.get_rank()
        parts = [torch.empty_like(local) for _ in range(size)]
        distributed.all_gather(parts, local)
        return tuple(parts)

    @staticmethod
    def backward(ctx, *gradients):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002, ANN205
        whole = torch.stack(gradients)
        distributed.all_reduce(whole)
        return whole[ctx.rank], None


def mean(value: Tensor, world: World) -> Tensor:
    """`value` averaged over the ranks, without gradient."""
    value = value.detach().clone()
    if world.size > 1:
        distributed.all_reduce(value)
    return value / world.size
