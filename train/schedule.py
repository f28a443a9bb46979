"""The learning rate of each epoch (paper section 3.1, Eq. 1)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from bot_deploy.choices import PAPER

if TYPE_CHECKING:
    from .recipe import Recipe

WARMUP_FACTOR = 0.01  # share of the base rate at which the released code starts


def learning_rate(epoch: int, recipe: Recipe) -> float:
    """The learning rate of `epoch`, counted from 1.

    Protocol "authors": it rises linearly from 1 % of the base rate, which it reaches at epoch `warmup_epochs`; the
    epoch of a milestone is already decayed. Protocol "paper": Eq. 1, with its misprint corrected to lr * t / warmup as
    in figure 3; the epoch of a milestone is the last one before the decay.
    """
    warmup = recipe.warmup_epochs
    if recipe.protocol == PAPER:
        scale = min(1.0, epoch / warmup) if warmup else 1.0
        decays = bisect_left(recipe.milestones, epoch)
    else:
        progress = epoch / warmup if epoch < warmup else 1.0
        scale = WARMUP_FACTOR * (1 - progress) + progress
        decays = bisect_right(recipe.milestones, epoch)
    return recipe.lr * scale * recipe.gamma**decays
