"""The training loop: epochs of P x K batches with the loss of the paper, scored on query and gallery."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from bot_deploy.artifacts import checkpoint
from bot_deploy.artifacts.checkpoint import contract_of
from bot_deploy.embedder import Embedder
from bot_deploy.errors import BotError, InputError, RunError
from bot_deploy.evaluation.protocol import COSINE, evaluate_dataset
from bot_deploy.files import write_atomically
from bot_deploy.model import InferenceGraph, ReID
from bot_deploy.progress import show_progress

from . import run_files, transforms, weights
from .allocator import keep_freed_memory
from .cpu_layers import use_cpu_layers
from .data import TrainingSet, open_training_set
from .distributed import World, gather, join, leave, mean
from .losses import CenterLoss, TripletLoss, id_loss
from .precision import DTYPES, resolved
from .sampler import batches
from .schedule import learning_rate

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from torch import Tensor

    from bot_deploy.datasets import Dataset

    from .recipe import Recipe

logger = logging.getLogger(__name__)

STATEFUL = ("center", "optimizer", "center_optimizer", "scaler")
DISK_SLACK = 64 * 2**20  # bytes, for tables and curves


@dataclass
class State:
    """Everything that training changes."""

    model: ReID
    center: CenterLoss
    optimizer: torch.optim.Optimizer
    center_optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0  # finished
    rows: list[run_files.Row] = field(default_factory=list)


def train(recipe: Recipe, dataset: Dataset, out: Path, *, resume: bool = False) -> Path:
    """Trains by `recipe` on `dataset.train` and writes `out`; returns the checkpoint's path.

    `out` gets model.pt, metrics.csv, curves.png and config.toml, and state.pt to resume from. Under
    `torchrun` the processes share every batch, and the first of them writes.

    Raises:
        InputError: no or too few crops, or `out` already holds another run.
        RunError: a loss that is not finite, a folder that cannot be written, a disk or a GPU's memory too small.
    """
    dataset.require_splits("train")
    world = join()
    if world.device == "cpu":
        keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = False  # precision=fp32 is float32
    try:
        path = _train(resolved(recipe, world.device), dataset, out, world, resume=resume)
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"the GPU's memory is too small ({str(error).partition('.')[0]}); take a smaller batch (--set p=8), "
            "smaller crops, or more GPUs by torchrun"
        ) from None
    leave()  # not after an error: the others wait for this process, and so would it for them
    return path


def _train(recipe: Recipe, dataset: Dataset, out: Path, world: World, *, resume: bool) -> Path:
    num_ids = len({crop.identity for crop in dataset.train})
    _check(recipe, num_ids, world, dataset.name)
    going_on = resume and (out / run_files.STATE).exists()
    # A run that goes on has its weights already; the file it started from may be gone.
    state = _start(dataclasses.replace(recipe, weights="none") if going_on else recipe, num_ids, world.device)
    if world.first:
        run_files.open_run(out, recipe, dataset, resume=resume)
        _need_disk(state, out)
    if going_on:
        _restore(state, out / run_files.STATE)
    if world.first and state.rows:
        run_files.write(out, state.rows)  # the run may have been killed before it wrote its last epoch's row
    if state.epoch >= recipe.epochs:  # finished; rows of an ablation share such runs
        return out / run_files.MODEL
    crops = open_training_set(dataset.train, (recipe.height, recipe.width), world.device)
    if world.first:
        if recipe.eval_at_start and not state.rows:
            state.rows.append(_scored(run_files.Row(epoch=0), state.model, recipe, dataset, world))
            logger.info(str(state.rows[0]))
        where = world.device if world.size == 1 else f"{world.size} x {world.device}"
        logger.info(
            f"training {recipe.arch} {recipe.height}x{recipe.width} on {len(crops.crops)} crops of {num_ids} "
            f"identities, {recipe.epochs} epochs in {recipe.precision} on {where}, into {out}"
        )
    network = _network(state.model, recipe, world)
    while state.epoch < recipe.epochs:
        row = train_epoch(state, crops, recipe, world, network)
        if not world.first:
            continue
        if _due(row.epoch, recipe):
            row = _scored(row, state.model, recipe, dataset, world)
        state.rows.append(row)
        logger.info(str(row))
        _save(state, out, recipe, num_ids, dataset.name)
        run_files.write(out, state.rows)
        run_files.log(out, row)
    return out / run_files.MODEL


def train_epoch(
    state: State, crops: TrainingSet, recipe: Recipe, world: World, network: nn.Module | None = None
) -> run_files.Row:
    """One pass over the P x K batches of the next epoch; what it draws depends only on the seed and the epoch.

    `network` is what wraps `state.model` for speed or for several processes, if anything does.
    """
    epoch = state.epoch + 1
    rng = np.random.default_rng([recipe.seed, epoch])
    lr = learning_rate(epoch, recipe)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.model.train()
    sums, steps, started = torch.zeros(4, device=world.device), 0, time.perf_counter()
    before: tuple[Tensor, npt.NDArray[np.int64]] | None = None
    for batch in show_progress(list(batches(crops.labels, recipe.p, recipe.k, rng)), _label(epoch, recipe, world)):
        mine = world.share(len(batch))
        draws = transforms.draw(len(batch), recipe, rng).of(mine)
        images = crops.pixels(batch[mine]).to(world.device, non_blocking=True)
        labels = torch.from_numpy(crops.labels[batch[mine]]).to(world.device, non_blocking=True)
        values = train_step(state, transforms.augment(images, recipe, draws), labels, recipe, world, network)
        sums += values
        # One step late, so that a GPU always has the next step to work on.
        _stop_unless_finite(before, epoch, crops)
        before, steps = (values, batch[mine]), steps + 1
    _stop_unless_finite(before, epoch, crops)
    means = (mean(sums, world) / max(steps, 1)).tolist()
    state.epoch, seconds = epoch, time.perf_counter() - started
    return run_files.Row(
        epoch=epoch,
        lr=lr,
        id_loss=means[0],
        triplet_loss=means[1],
        center_loss=means[2],
        accuracy=100 * means[3],
        images_per_second=steps * recipe.p * recipe.k / seconds,
        seconds=seconds,
    )


def train_step(
    state: State, pixels: Tensor, labels: Tensor, recipe: Recipe, world: World, network: nn.Module | None = None
) -> Tensor:
    """One update from this rank's pixels [N, 3, H, W] and labels [N]; returns [4]: the three losses and the accuracy.

    Eq. 6: L = L_ID + L_Triplet + beta L_C; the last two over the features of all ranks.
    """
    dtype = DTYPES[recipe.precision]
    with torch.autocast(world.device.partition(":")[0], dtype, enabled=dtype != torch.float32):
        f_t, logits = (state.model if network is None else network)(pixels)
    features, everyone = gather(f_t, world), gather(labels, world)
    losses = [
        id_loss(logits.float(), labels, recipe.smoothing),
        TripletLoss(recipe.margin)(features, everyone),
        state.center(features, everyone) if recipe.center_weight else features.new_zeros(()),
    ]
    _step(state, losses[0] + losses[1] + recipe.center_weight * losses[2], recipe)
    accuracy = (logits.detach().argmax(1) == labels).float().mean()
    return torch.stack([*(loss.detach() for loss in losses), accuracy])


def _step(state: State, loss: Tensor, recipe: Recipe) -> None:
    optimizers = [state.optimizer, state.center_optimizer] if recipe.center_weight else [state.optimizer]
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    if recipe.center_weight:
        # The centers learn at their own rate, whatever their loss weighs (the released code).
        state.scaler.unscale_(state.center_optimizer)
        assert state.center.centers.grad is not None
        state.center.centers.grad.div_(recipe.center_weight)
    for optimizer in optimizers:
        state.scaler.step(optimizer)
    state.scaler.update()


def _stop_unless_finite(before: tuple[Tensor, npt.NDArray[np.int64]] | None, epoch: int, crops: TrainingSet) -> None:
    if before is None or torch.isfinite(before[0]).all():
        return
    id_, triplet, center, _ = before[0].tolist()
    raise RunError(
        f"epoch {epoch}: the loss is not finite (id {id_}, triplet {triplet}, center {center}); "
        f"lower lr or use --set precision=fp32; the batch was {', '.join(crops.names(before[1]))}"
    )


def _check(recipe: Recipe, num_ids: int, world: World, data: str) -> None:
    if num_ids < recipe.p:
        raise InputError(
            f"{data}: {num_ids} training identities, but a batch takes p={recipe.p}; use --set p={num_ids} or less"
        )
    if recipe.p % world.size:
        raise InputError(f"p={recipe.p} identities cannot be split evenly over {world.size} processes; change p")


def _need_disk(state: State, out: Path) -> None:
    """A full disk stops before training, not after: weights, two moments, and the old file beside the new one."""
    weights_ = sum(value.numel() * value.element_size() for value in state.model.state_dict().values())
    centers = state.center.centers.numel() * 4
    needed = 2 * (weights_ + 3 * weights_ + centers) + DISK_SLACK
    free = shutil.disk_usage(out).free
    if free < needed:
        raise RunError(
            f"{out}: {free >> 20} MiB free, but a run needs {needed >> 20} MiB; free some, or choose another --out"
        )


def _start(recipe: Recipe, num_ids: int, device: str) -> State:
    torch.manual_seed(recipe.seed)
    model = ReID(recipe.arch, num_ids, last_stride=recipe.last_stride, neck=recipe.neck, feature=recipe.feature)
    if recipe.protocol == "paper" and recipe.neck != "none":
        nn.init.kaiming_normal_(model.classifier.weight, mode="fan_out")  # section 3.5
    weights.initialise(model, recipe.weights)
    use_cpu_layers(model)
    model.to(device).to(memory_format=torch.channels_last)
    center = CenterLoss(num_ids, model.dim, scaling=recipe.protocol).to(device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Coupled L2 on everything, batch-norm and biases included (the released code).
    optimizer = torch.optim.Adam(trained, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    center_optimizer = torch.optim.SGD(center.parameters(), lr=recipe.center_lr)
    scaler = torch.amp.GradScaler(device.partition(":")[0], enabled=recipe.precision == "fp16")
    return State(model, center, optimizer, center_optimizer, scaler)


def _network(model: ReID, recipe: Recipe, world: World) -> nn.Module:
    network: nn.Module = model
    if world.size > 1:
        gpu = world.device != "cpu"
        if gpu:
            # In place: a state dict keeps its keys, and evaluation needs no second model.
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        network = nn.parallel.DistributedDataParallel(network, [world.device] if gpu else None)
    return torch.compile(network) if recipe.compile else network  # type: ignore[return-value]


def _label(epoch: int, recipe: Recipe, world: World) -> str | None:
    return f"epoch {epoch}/{recipe.epochs}" if world.first else None


def _due(epoch: int, recipe: Recipe) -> bool:
    return epoch == recipe.epochs or bool(recipe.eval_every and epoch % recipe.eval_every == 0)


def _scored(row: run_files.Row, model: ReID, recipe: Recipe, dataset: Dataset, world: World) -> run_files.Row:
    """`row` with rank-1 and mAP; a data set that cannot be scored costs no trained epoch."""
    from bot_deploy.backends.torch import runner

    if not dataset.query or not dataset.gallery:
        return row
    contract = contract_of(model, recipe.height, recipe.width)
    graph = InferenceGraph(model, contract, unit=recipe.metric == COSINE)
    try:
        scores = evaluate_dataset(Embedder(contract, "PyTorch", runner(graph, world.device)), dataset, recipe.metric)
    except BotError as error:
        logger.warning(f"not scored: {error}")
        return row
    return dataclasses.replace(row, rank1=scores.rank1, mAP=scores.mAP)


def _save(state: State, out: Path, recipe: Recipe, num_ids: int, data: str) -> None:
    weights_now = {key: value.cpu() for key, value in state.model.state_dict().items()}
    contract = contract_of(state.model, recipe.height, recipe.width)
    done = checkpoint.Checkpoint(contract, weights_now, num_ids, recipe.last_stride, recipe.neck, data)
    running: dict[str, Any] = {name: getattr(state, name).state_dict() for name in STATEFUL}
    running |= {"model": weights_now, "epoch": state.epoch, "rows": [vars(row) for row in state.rows]}
    checkpoint.save(out / run_files.MODEL, done)
    write_atomically(out / run_files.STATE, lambda path: torch.save(running, path))


def _restore(state: State, path: Path) -> None:
    running = checkpoint.load_tensors(path)
    try:
        for name in ("model", *STATEFUL):
            getattr(state, name).load_state_dict(running[name])
        state.epoch = running["epoch"]
        state.rows = [run_files.Row(**row) for row in running["rows"]]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not the state of this run ({error}); start anew with another --out") from None
