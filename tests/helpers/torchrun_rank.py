"""A rank of test_distributed.py: trains one step on its share of a fixed batch, and decodes its share of some crops."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bot_deploy.datasets import Crop
from bot_deploy.errors import InputError
from bot_deploy.train import data, loop
from bot_deploy.train.distributed import World, join_world, leave_world
from bot_deploy.train.recipe import Recipe
from bot_deploy.train.state import create_state


def train_one_step(recipe: Recipe, world: World) -> dict[str, Any]:
    """The losses, gradients and centers after one training step."""
    torch.set_num_threads(1)
    state = create_state(recipe, 16, world.device)
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randn(64, 3, recipe.height, recipe.width, generator=generator)
    labels = torch.arange(16).repeat_interleave(4)
    share = world.share(64)
    network = loop.prepare_network(state.model, recipe, world)
    state.model.train()
    # Batch-norm uses its running statistics: those of half a batch differ, and SyncBatchNorm needs a GPU.
    for module in state.model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    values = loop.train_step(state, pixels[share], labels[share], recipe, world, network)
    gradients = {key: parameter.grad for key, parameter in state.model.named_parameters() if parameter.grad is not None}
    return {"values": values, "gradients": gradients, "centers": state.center.centers.detach()}


def decode_together(files: list[Path], world: World) -> tuple[list[str], torch.Tensor | str]:
    """The files that this rank has decoded, and the crops of all ranks, or the error."""
    decoded: list[str] = []
    read_many = data.images.read_many

    def record(paths: list[Path], size: tuple[int, int], workers: int) -> Any:
        decoded.extend(path.name for path in paths)
        return read_many(paths, size, workers)

    data.images.read_many = record  # type: ignore[assignment]
    try:
        cache = data.open_training_set([Crop(path, 0, 0) for path in files], (4, 2), world).cache
    except InputError as error:
        return decoded, str(error)
    finally:
        data.images.read_many = read_many
    assert cache is not None
    return decoded, cache


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    world = join_world()
    recipes = [Recipe(**values) for values in json.loads((folder / "recipes.json").read_text())]
    torch.save([train_one_step(recipe, world) for recipe in recipes], folder / f"rank{world.rank}.pt")
    files = sorted(folder.glob("*.png"))
    torch.save(
        [decode_together(files, world), decode_together([*files, folder / "none.png"], world)],
        folder / f"crops{world.rank}.pt",
    )
    leave_world()
