"""The learning rate of every epoch (paper section 3.1, Eq. 1)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .recipe import Recipe

WARMUP_FACTOR = 0.01  # of the authors' released code


def learning_rate(epoch: int, recipe: Recipe) -> float:
    """The learning rate of the 1-based `epoch`.

    "authors": linear from 1 % towards the base rate, which is reached at epoch `warmup_epochs`; a
    milestone's own epoch is already decayed. "paper": Eq. 1 with its misprint corrected to what its
    figure 3 shows, lr * t / warmup; a milestone's own epoch is the last before the decay.
    """
    warmup = recipe.warmup_epochs
    if recipe.protocol == "paper":
        scale = min(1.0, epoch / warmup) if warmup else 1.0
        decays = bisect_left(recipe.milestones, epoch)
    else:
        done = epoch / warmup if epoch < warmup else 1.0
        scale = WARMUP_FACTOR * (1 - done) + done
        decays = bisect_right(recipe.milestones, epoch)
    return recipe.lr * scale * recipe.gamma**decays
