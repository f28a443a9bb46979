r"""Seconds of a training step on a CPU, with numbers below 1e-38 computed and counted as zero.

python benchmarks/denormals.py --data Market-1501-v15.09.15.zip

Each line is a process of its own, because threads take the setting from the one that starts them.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time

import click
import numpy as np
import torch

from bot_deploy.datasets import open_dataset
from bot_deploy.train import loop, transforms
from bot_deploy.train.cpu_settings import keep_freed_memory, speed_up_cpu
from bot_deploy.train.data import open_training_set
from bot_deploy.train.distributed import join_world
from bot_deploy.train.recipe import load_recipe
from bot_deploy.train.sampler import draw_batches
from bot_deploy.train.state import create_state

TEACHER_DIM = 256
MAX_CROPS = 2000


@click.command()
@click.option("--data", required=True, help="Crops in any layout that `bot train` reads.")
@click.option("--turns", default=2, show_default=True)
@click.option("--steps", default=4, show_default=True, help="Steps of each process; the first is not counted.")
@click.option("--child", hidden=True, nargs=2, type=str)
def main(data: str, turns: int, steps: int, child: tuple[str, str] | None) -> None:
    """Print the median seconds of a step of the recipe `everywhere` at 256x128, without unlabelled crops."""
    if child:
        for seconds in train(data, steps, weights=child[0], flush=child[1] == "flush"):
            print(seconds)
        return
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(turns):
        for weights in ("none", "box"):
            for way in ("compute", "flush"):
                command = [sys.executable, __file__, "--data", data, "--steps", str(steps), "--child", weights, way]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found.setdefault((weights, way), []).extend(map(float, done.stdout.split()))
    print("| weights | computed, s | counted as zero, s | ratio |\n| --- | ---: | ---: | ---: |")
    for weights in ("none", "box"):
        slow, fast = (float(np.median(found[weights, way])) for way in ("compute", "flush"))
        print(f"| {weights} | {slow:.2f} | {fast:.2f} | {slow / fast:.2f} |")


def train(data: str, steps: int, *, weights: str, flush: bool) -> list[float]:
    """The seconds of each step but the first."""
    if flush:
        speed_up_cpu()
    else:
        keep_freed_memory()
    recipe = dataclasses.replace(load_recipe("everywhere", (), weights), precision="fp32")
    crops = open_training_set(open_dataset(data).train[:MAX_CROPS], (recipe.height, recipe.width))
    world = join_world()
    state = create_state(recipe, crops.num_ids, world.device, TEACHER_DIM)
    state.model.train()
    teacher = torch.nn.functional.normalize(torch.randn(len(crops.labels), TEACHER_DIM), dim=1)
    seconds, rng = [], np.random.default_rng(0)
    batches = draw_batches(crops.labels, recipe.identities_per_batch, recipe.images_per_identity, rng)
    for rows, _ in zip(batches, range(steps), strict=False):
        pixels = transforms.augment(crops.pixels(rows), recipe, transforms.draw_augmentation(len(rows), recipe, rng))
        labels, vectors = torch.from_numpy(crops.labels[rows]), teacher[torch.from_numpy(rows)]
        started = time.perf_counter()
        loop.train_step(state, pixels, labels, recipe, world, None, vectors)
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


if __name__ == "__main__":
    main()
