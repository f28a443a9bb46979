"""The training loop: epochs of P x K batches with the loss of the paper, scored on query and gallery."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from bot_deploy import checkpoint
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError, RunError
from bot_deploy.evaluation import evaluate_dataset
from bot_deploy.model import InferenceGraph, ReID, contract_of
from bot_deploy.progress import say, track

from . import report, transforms, weights
from .allocator import keep_freed_memory
from .data import TrainingSet, open_training_set
from .losses import CenterLoss, TripletLoss, id_loss
from .sampler import batches
from .schedule import learning_rate

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from bot_deploy.datasets import Dataset

    from .recipe import Recipe


@dataclass
class State:
    """Everything that training changes."""

    model: ReID
    center: CenterLoss
    optimizer: torch.optim.Optimizer
    center_optimizer: torch.optim.Optimizer
    epoch: int = 0  # finished
    rows: list[report.Row] = field(default_factory=list)


def train(recipe: Recipe, dataset: Dataset, out: Path, *, resume: bool = False) -> Path:
    """Trains by `recipe` on `dataset.train` and writes `out`; returns the checkpoint's path.

    `out` gets model.pt, metrics.csv, curves.png and config.toml, and state.pt to resume from.

    Raises:
        InputError: no or too few crops, or `out` already holds another run.
        RunError: a loss that is not finite, a folder that cannot be written.
    """
    dataset.need("train")
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report.open_run(out, recipe, dataset, resume=resume)
    crops = open_training_set(dataset.train, (recipe.height, recipe.width))
    if crops.num_ids < recipe.p:
        raise InputError(
            f"{dataset.name}: {crops.num_ids} training identities, but a batch takes p={recipe.p}; "
            f"use --set p={crops.num_ids} or less"
        )
    state = _start(recipe, crops.num_ids, device)
    if (out / report.STATE).exists():
        _restore(state, out / report.STATE)
        report.write(out, state.rows)  # the run may have been killed before it wrote its last epoch's row
    elif recipe.eval_at_start and dataset.query:
        rank1, mean_ap = _scores(state.model, recipe, dataset, device)
        state.rows.append(report.Row(epoch=0, rank1=rank1, mAP=mean_ap))
        say(str(state.rows[0]))
    say(
        f"training {recipe.arch} {recipe.height}x{recipe.width} on {len(crops.crops)} crops of {crops.num_ids} "
        f"identities, {recipe.epochs} epochs on {device}, into {out}"
    )
    while state.epoch < recipe.epochs:
        row = train_epoch(state, crops, recipe, device)
        if dataset.query and dataset.gallery and _due(row.epoch, recipe):
            rank1, mean_ap = _scores(state.model, recipe, dataset, device)
            row = dataclasses.replace(row, rank1=rank1, mAP=mean_ap)
        state.rows.append(row)
        say(str(row))
        _save(state, out, recipe, crops, dataset.name)
        report.write(out, state.rows)
    return out / report.MODEL


def train_epoch(state: State, crops: TrainingSet, recipe: Recipe, device: str) -> report.Row:
    """One pass over the P x K batches of the next epoch; what it draws depends only on the seed and the epoch."""
    epoch = state.epoch + 1
    rng = np.random.default_rng([recipe.seed, epoch])
    lr = learning_rate(epoch, recipe)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    triplet = TripletLoss(recipe.margin)
    state.model.train()
    sums, seen, started = np.zeros(4), 0, time.perf_counter()
    schedule = list(batches(crops.labels, recipe.p, recipe.k, rng))
    for batch in track(schedule, f"epoch {epoch}/{recipe.epochs}"):
        images = torch.from_numpy(crops.pixels(batch)).to(device, non_blocking=True)
        labels = torch.from_numpy(crops.labels[batch]).to(device, non_blocking=True)
        pixels = transforms.augment(images, recipe, rng)
        with torch.autocast(device, torch.bfloat16, enabled=recipe.precision == "bf16"):
            f_t, logits = state.model(pixels)
        losses = (
            id_loss(logits.float(), labels, recipe.smoothing),
            triplet(f_t, labels),
            state.center(f_t, labels) if recipe.center_weight else torch.zeros(()),
        )
        _step(state, losses[0] + losses[1] + recipe.center_weight * losses[2], recipe)
        correct = (logits.detach().argmax(1) == labels).float().mean()
        values = [float(loss.detach()) for loss in losses]
        if not all(math.isfinite(value) for value in values):
            raise RunError(
                f"epoch {epoch}: the loss is not finite (id {values[0]}, triplet {values[1]}, center {values[2]}); "
                f"lower lr or use --set precision=fp32; the batch was {', '.join(crops.names(batch))}"
            )
        sums += np.array([*values, float(correct)]) * len(batch)
        seen += len(batch)
    state.epoch = epoch
    seconds = time.perf_counter() - started
    means = (sums / max(seen, 1)).tolist()
    return report.Row(
        epoch=epoch,
        lr=lr,
        id_loss=means[0],
        triplet_loss=means[1],
        center_loss=means[2],
        accuracy=100 * means[3],
        images_per_second=seen / seconds,
        seconds=seconds,
    )


def _step(state: State, loss: Tensor, recipe: Recipe) -> None:
    state.optimizer.zero_grad(set_to_none=True)
    state.center_optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimizer.step()
    if recipe.center_weight:
        # The centers learn at their own rate, whatever their loss weighs (the released code).
        assert state.center.centers.grad is not None
        state.center.centers.grad.div_(recipe.center_weight)
        state.center_optimizer.step()


def _start(recipe: Recipe, num_ids: int, device: str) -> State:
    torch.manual_seed(recipe.seed)
    model = ReID(recipe.arch, num_ids, last_stride=recipe.last_stride, neck=recipe.neck, feature=recipe.feature)
    weights.initialise(model, recipe.weights)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    center = CenterLoss(num_ids, model.dim, scaling=recipe.protocol).to(device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Coupled L2 on everything, batch-norm and biases included (the released code).
    optimizer = torch.optim.Adam(trained, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    return State(model, center, optimizer, torch.optim.SGD(center.parameters(), lr=recipe.center_lr))


def _due(epoch: int, recipe: Recipe) -> bool:
    return epoch == recipe.epochs or bool(recipe.eval_every and epoch % recipe.eval_every == 0)


def _scores(model: ReID, recipe: Recipe, dataset: Dataset, device: str) -> tuple[float, float]:
    from bot_deploy.backends.torch import runner

    contract = contract_of(model, recipe.height, recipe.width)
    embedder = Embedder(contract, "PyTorch", runner(InferenceGraph(model, contract), device))
    scores = evaluate_dataset(embedder, dataset)
    return scores.rank1, scores.mAP


def _save(state: State, out: Path, recipe: Recipe, crops: TrainingSet, data: str) -> None:
    weights_now = {key: value.cpu() for key, value in state.model.state_dict().items()}
    contract = contract_of(state.model, recipe.height, recipe.width)
    done = checkpoint.Checkpoint(contract, weights_now, crops.num_ids, recipe.last_stride, recipe.neck, data)
    running = {
        "epoch": state.epoch,
        "rows": [vars(row) for row in state.rows],
        "model": weights_now,
        "center": state.center.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "center_optimizer": state.center_optimizer.state_dict(),
    }
    checkpoint.save(out / report.MODEL, done)
    checkpoint.write_atomically(out / report.STATE, lambda path: torch.save(running, path))


def _restore(state: State, path: Path) -> None:
    running = checkpoint.load_tensors(path)
    for name in ("model", "center", "optimizer", "center_optimizer"):
        getattr(state, name).load_state_dict(running[name])
    state.epoch = running["epoch"]
    state.rows = [report.Row(**row) for row in running["rows"]]
