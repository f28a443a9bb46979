"""One process of test_distributed.py: a training step on its share of a fixed batch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bot_deploy.train import loop
from bot_deploy.train.distributed import World, join, leave
from bot_deploy.train.recipe import Recipe


def one_step(recipe: Recipe, world: World) -> dict[str, Any]:
    """The losses and what the step made of gradients and centers."""
    torch.set_num_threads(1)
    state = loop._start(recipe, 16, world.device)
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randn(64, 3, recipe.height, recipe.width, generator=generator)
    labels = torch.arange(16).repeat_interleave(4)
    mine = world.share(64)
    network = loop._network(state.model, recipe, world)
    state.model.train()
    # Statistics of half a batch are not those of a whole one, and SyncBatchNorm needs a GPU: they are held fixed.
    for module in state.model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    values = loop.train_step(state, pixels[mine], labels[mine], recipe, world, network)
    gradients = {key: parameter.grad for key, parameter in state.model.named_parameters() if parameter.grad is not None}
    return {"values": values, "gradients": gradients, "centers": state.center.centers.detach()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    here = join()
    result = one_step(Recipe(**json.loads((folder / "recipe.json").read_text())), here)
    torch.save(result, folder / f"rank{here.rank}.pt")
    leave()
