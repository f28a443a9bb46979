"""Training speed in images per second: a plain training loop against bot_deploy's, in turns in one process.

    python benchmarks/train_throughput.py --data Market-1501.zip [--arch resnet50] [--height 256] [--width 128]

The plain loop transforms image by image with PIL and trains in eager float32, contiguous memory and with Adam. Ours
is `train.loop.train_step` with the recipe's defaults: crops are decoded once and augmented as a batch, with autocast
to bf16 if the CPU has it, channels_last memory and fused Adam.
Both train the same network with the same losses on the same batches of P16 K4. The figures are medians over all steps
but the first of each turn. They include decoding and augmentation.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
import numpy as np
import torch
from PIL import Image
from torchvision import transforms as tv

from bot_deploy import images
from bot_deploy.datasets import open_dataset
from bot_deploy.model import ReID
from bot_deploy.train import loop, transforms
from bot_deploy.train.cpu_settings import keep_freed_memory
from bot_deploy.train.data import TrainingSet, open_training_set
from bot_deploy.train.distributed import World
from bot_deploy.train.losses import CenterLoss, TripletLoss, id_loss
from bot_deploy.train.precision import resolve_precision
from bot_deploy.train.recipe import Recipe
from bot_deploy.train.sampler import draw_batches
from bot_deploy.train.state import create_state

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CROPS = 2000


def plain_loop(recipe: Recipe, crops: TrainingSet, num_ids: int) -> Callable[[np.ndarray], None]:
    """A function that trains the plain loop on the rows of one batch."""
    augment = tv.Compose(
        [
            tv.Resize((recipe.height, recipe.width)),
            tv.RandomHorizontalFlip(),
            tv.Pad(recipe.padding),
            tv.RandomCrop((recipe.height, recipe.width)),
            tv.ToTensor(),
            tv.Normalize(transforms.MEAN, transforms.STD),
            tv.RandomErasing(0.5, transforms.ERASED_AREA, transforms.ERASED_ASPECT_RATIO),
        ]
    )
    model = ReID(recipe.arch, num_ids).train()
    triplet, center = TripletLoss(recipe.margin), CenterLoss(num_ids, model.dim)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    centers = torch.optim.SGD(center.parameters(), lr=recipe.center_lr)

    def step(rows: np.ndarray) -> None:
        pixels = torch.stack([augment(Image.fromarray(images.read_image(crops.crops[row].path))) for row in rows])
        labels = torch.from_numpy(crops.labels[rows])
        f_t, _, logits = model(pixels)
        loss = id_loss(logits, labels, recipe.label_smoothing) + triplet(f_t, labels)
        loss = loss + recipe.center_weight * center(f_t, labels)
        optimizer.zero_grad()
        centers.zero_grad()
        loss.backward()
        optimizer.step()
        center.centers.grad /= recipe.center_weight
        centers.step()

    return step


def our_loop(recipe: Recipe, crops: TrainingSet, num_ids: int) -> Callable[[np.ndarray], None]:
    """A function that trains as `bot train` does on the rows of one batch."""
    world, rng = World(0, 1, "cpu"), np.random.default_rng(0)
    state = create_state(recipe, num_ids, "cpu")
    state.model.train()

    def step(rows: np.ndarray) -> None:
        pixels = transforms.augment(crops.pixels(rows), recipe, transforms.draw_augmentation(len(rows), recipe, rng))
        loop.train_step(state, pixels, torch.from_numpy(crops.labels[rows]), recipe, world)

    return step


@click.command()
@click.option("--data", default="synthetic", show_default=True)
@click.option("--arch", default="resnet50", show_default=True)
@click.option("--height", default=256, show_default=True)
@click.option("--width", default=128, show_default=True)
@click.option("--turns", default=3, show_default=True)
@click.option("--steps", default=4, show_default=True, help="Steps of each loop in a turn; the first is not counted.")
def main(data: str, arch: str, height: int, width: int, turns: int, steps: int) -> None:
    """Print images/s of both loops and their ratio as markdown."""
    recipe = resolve_precision(Recipe(arch=arch, weights="none", height=height, width=width), "cpu")
    crops = open_training_set(open_dataset(data).train[:MAX_CROPS], (height, width))
    schedule = list(
        draw_batches(crops.labels, recipe.identities_per_batch, recipe.images_per_identity, np.random.default_rng(0))
    )
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    loops = {"plain": plain_loop(recipe, crops, crops.num_ids), "ours": our_loop(recipe, crops, crops.num_ids)}
    for turn in range(turns):
        for name, step in loops.items():
            if name == "ours":
                keep_freed_memory()
            for number in range(steps):
                rows = schedule[(turn * steps + number) % len(schedule)]
                started = time.perf_counter()
                step(rows)
                if number:
                    seconds[name].append(time.perf_counter() - started)
    batch = recipe.identities_per_batch * recipe.images_per_identity
    rate = {name: batch / float(np.median(times)) for name, times in seconds.items()}
    print(f"{arch} {height}x{width}, batches of {batch}, {torch.get_num_threads()} threads, {data}\n")
    print("| loop | images/s (median) | slowest | fastest |")
    print("| --- | --- | --- | --- |")
    for name, times in seconds.items():
        print(f"| {name} | {rate[name]:.1f} | {batch / max(times):.1f} | {batch / min(times):.1f} |")
    print(f"\nratio of medians: {rate['ours'] / rate['plain']:.2f}")


if __name__ == "__main__":
    main()
