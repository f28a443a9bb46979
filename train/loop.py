"""The training loop: epochs of P x K batches with the loss of the paper, and evaluation on query and gallery."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from bot_deploy.artifacts import checkpoint
from bot_deploy.artifacts.checkpoint import contract_of
from bot_deploy.backends.torch import full_float32
from bot_deploy.datasets import open_dataset
from bot_deploy.embedder import Embedder
from bot_deploy.errors import BotError, InputError, RunError
from bot_deploy.evaluation.protocol import COSINE, evaluate_dataset
from bot_deploy.model import InferenceGraph, ReID
from bot_deploy.progress import show_progress
from bot_deploy.runs import CHECKPOINT_NAME

from . import run_files, transforms
from .batch_norm import fix_batch_norm
from .batches import load_batches, plan_epoch
from .compatibility import EarlierTargets, check_dimension, embed_with_earlier
from .data import TrainingSet, open_training_set
from .distillation import (
    TeacherTargets,
    check_teacher,
    direction_loss,
    embed_with_teacher,
    relation_loss,
)
from .distributed import World, average, gather, join_world, leave_world
from .gpu import LossWatch, explain_full_memory, fixed_shapes
from .heads import fit_heads
from .losses import TripletLoss, id_loss
from .precision import DTYPES, resolve_precision
from .recipe import MIN_IDENTITIES, Recipe, load_recipe
from .run_files import EpochMetrics
from .schedule import learning_rate
from .state import TrainingState, create_state, restore_state, save_state
from .unlabeled import open_unlabeled
from .weights import inherited_terms, know_people

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from bot_deploy.datasets import Dataset

logger = logging.getLogger(__name__)

DISK_RESERVE = 64 * 2**20  # bytes, for tables and curves


class Guidance(NamedTuple):
    """What other models say about the crops."""

    teacher: TeacherTargets | None = None
    earlier: EarlierTargets | None = None


def train(
    recipe: Recipe | str | Path,
    data: Dataset | str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    teacher: str | Path | None = None,
    unlabelled: Sequence[str | Path] = (),
    compatible_with: str | Path | None = None,
) -> Path:
    """Trains a model and returns the path of its checkpoint, `out`/model.pt.

    `out` also gets metrics.csv, curves.png and config.toml, and state.pt to resume from. The processes of `torchrun`
    share each batch, and the first one writes the files. Global settings of PyTorch are restored afterwards.

    Args:
        recipe: a recipe, the name of a built-in recipe, or a .toml file.
        data: a data set, or what `open_dataset` takes: a folder, .zip or .csv of crops, or "synthetic".
        out: folder of the run.
        resume: continue the run in `out`, if there is one; on a CPU the final weights are bit-identical to those of a
            run without a stop.
        teacher: a model whose embeddings the new one follows, beside the labels; anything that `open_embedder` opens.
        unlabelled: folders, .zip files or indexes with crops whose people are unknown, for the teacher alone.
        compatible_with: an earlier model; the new one's embeddings can be compared with those in its galleries.

    Raises:
        InputError: no crops or too few identities, or `out` holds another run.
        RunError: a loss that is not finite, a folder that cannot be written, or too little disk or GPU memory.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    dataset = open_dataset(data) if isinstance(data, str | Path) else data
    dataset.require_splits("train")
    check_teacher(teacher, unlabelled)
    world = join_world()
    with full_float32(), explain_full_memory():
        crops = open_unlabeled(list(map(str, unlabelled)))
        guidance = Guidance(
            embed_with_teacher(teacher, dataset.train, crops, list(map(str, unlabelled))) if teacher else None,
            embed_with_earlier(compatible_with, dataset.train) if compatible_with else None,
        )
        precise = resolve_precision(recipe, world.device)
        path = _train(precise, dataset, Path(out), world, guidance, resume=resume)
    leave_world()  # not after an error: the processes would wait for each other
    return path


def _train(recipe: Recipe, dataset: Dataset, out: Path, world: World, guidance: Guidance, *, resume: bool) -> Path:
    num_ids = len({crop.identity for crop in dataset.train})
    _check_identities(recipe, num_ids, world, dataset.name)
    if recipe.fixed_norm_epochs >= recipe.epochs and not know_people(recipe.weights):
        raise InputError(
            f"fixed_norm_epochs={recipe.fixed_norm_epochs} leaves none of {recipe.epochs} epochs to measure the "
            "statistics of batch-norm; lower it, or start from a model for ReID",
            parameter="set",
        )
    resuming = resume and (out / run_files.STATE_NAME).exists()
    # A resumed run has its weights in the state; the file with the initial weights may be gone.
    state = create_state(
        dataclasses.replace(recipe, weights="none") if resuming else recipe,
        num_ids,
        world.device,
        guidance.teacher.dim if guidance.teacher else 0,
    )
    if guidance.earlier:
        check_dimension(state.model.dim, guidance.earlier, recipe.arch)
    if world.is_first:
        run_files.open_run(out, recipe, dataset, resume=resume, targets=guidance.teacher, earlier=guidance.earlier)
        check_disk_space(state, out)
    if resuming:
        restore_state(state, out / run_files.STATE_NAME)
    if world.is_first and state.metrics:
        run_files.write_metrics(out, state.metrics)  # the run may have been killed before it wrote its last epoch
    if state.epoch >= recipe.epochs:  # finished; the variants of an ablation share runs
        return out / CHECKPOINT_NAME
    stage = recipe_of_epoch(recipe, state.epoch + 1)
    crops = _open_crops(stage, dataset, world, guidance)
    if state.epoch == 0 and recipe.fit_heads and know_people(recipe.weights):
        fit_heads(state, *crops, stage, world)
    if world.is_first:
        if recipe.eval_at_start and not state.metrics:
            state.metrics.append(_evaluate(EpochMetrics(epoch=0), state.model, recipe, dataset, world))
            logger.info(str(state.metrics[0]))
        _log_start(recipe, dataset, out, world, guidance)
    _train_epochs(state, recipe, dataset, out, world, guidance, crops)
    return out / CHECKPOINT_NAME


def _log_start(recipe: Recipe, dataset: Dataset, out: Path, world: World, guidance: Guidance) -> None:
    devices = world.device if world.size == 1 else f"{world.size} x {world.device}"
    num_ids = len({crop.identity for crop in dataset.train})
    logger.info(
        f"training {recipe.arch} {recipe.height}x{recipe.width} on {len(dataset.train)} crops of {num_ids} "
        f"identities, {recipe.epochs} epochs in {recipe.precision} on {devices}, into {out}"
    )
    if teacher := guidance.teacher:
        logger.info(f"teacher {teacher.description}, with {len(teacher.unlabeled_crops)} unlabelled crops")
    if guidance.earlier:
        logger.info(f"compatible with {', '.join(guidance.earlier.spaces)}")


def _train_epochs(
    state: TrainingState,
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    world: World,
    guidance: Guidance,
    crops: tuple[TrainingSet, TrainingSet | None],
) -> None:
    """Trains the epochs that are left; the files of the run are written after each."""
    network = prepare_network(state.model, recipe, world)
    while state.epoch < recipe.epochs:
        stage = recipe_of_epoch(recipe, state.epoch + 1)
        if crops[0].size != (stage.height, stage.width):
            crops = _open_crops(stage, dataset, world, guidance)
        metrics = train_epoch(state, crops[0], stage, world, network, crops[1])
        if not world.is_first:
            continue
        if _evaluation_due(metrics.epoch, recipe):
            metrics = _evaluate(metrics, state.model, stage, dataset, world)
        finish_epoch(state, metrics, stage, dataset, out, guidance)


def finish_epoch(
    state: TrainingState, metrics: EpochMetrics, recipe: Recipe, dataset: Dataset, out: Path, guidance: Guidance
) -> None:
    """Logs the epoch and writes the files of the run."""
    state.metrics.append(metrics)
    logger.info(str(metrics))
    _save_checkpoint(state.model, out / CHECKPOINT_NAME, recipe, dataset, guidance)
    save_state(state, out / run_files.STATE_NAME)
    run_files.write_metrics(out, state.metrics)
    run_files.log_to_tensorboard(out, metrics)


def recipe_of_epoch(recipe: Recipe, epoch: int) -> Recipe:
    """`recipe` with the crops of `epoch`: the first `small_epochs` have half the height, width and padding."""
    if epoch > recipe.small_epochs:
        return recipe
    return dataclasses.replace(
        recipe, height=max(1, recipe.height // 2), width=max(1, recipe.width // 2), padding=recipe.padding // 2
    )


def _open_crops(
    recipe: Recipe, dataset: Dataset, world: World, guidance: Guidance
) -> tuple[TrainingSet, TrainingSet | None]:
    """The crops to train on in the recipe's size: the labelled and, if there are some, the unlabelled ones."""
    size = (recipe.height, recipe.width)
    on_gpu = not recipe.jpeg_probability  # JPEG compression needs the crops on the CPU
    labelled = open_training_set(dataset.train, size, world, on_gpu=on_gpu)
    teacher, earlier = guidance
    if earlier:
        labelled = dataclasses.replace(labelled, earlier=earlier.directions)
    if not teacher:
        return labelled, None
    labelled = dataclasses.replace(labelled, teacher=teacher.labeled_embeddings)
    if not teacher.unlabeled_crops or not recipe.unlabeled_batch:
        return labelled, None
    unlabelled = open_training_set(teacher.unlabeled_crops, size, world, on_gpu=on_gpu)
    return labelled, dataclasses.replace(unlabelled, teacher=teacher.unlabeled_embeddings)


def train_epoch(
    state: TrainingState,
    training_set: TrainingSet,
    recipe: Recipe,
    world: World,
    network: nn.Module | None = None,
    unlabelled: TrainingSet | None = None,
) -> EpochMetrics:
    """Trains the next epoch. Its random draws depend only on the seed and the epoch.

    `network` is `state.model` as `prepare_network` returns it; by default the model itself.
    """
    epoch = state.epoch + 1
    lr = learning_rate(epoch, recipe)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.model.train()
    if epoch > recipe.epochs - recipe.fixed_norm_epochs:
        fix_batch_norm(state.model)
    plan = plan_epoch(training_set, unlabelled, recipe, epoch)
    sums, steps, started = torch.zeros(7, device=world.device), len(plan.rows), time.perf_counter()
    watch = LossWatch(epoch, training_set)
    label = f"epoch {epoch}/{recipe.epochs}" if world.is_first else None
    with contextlib.closing(load_batches(plan, recipe, world)) as batches, fixed_shapes(world.device):
        for batch in show_progress(batches, label, steps):
            pixels = [
                transforms.augment(part.images, recipe, part.augmentation, state.model.mean, state.model.std)
                for part in batch.parts
            ]
            joined = pixels[0] if len(pixels) == 1 else torch.cat(pixels)
            values = train_step(state, joined, batch.labels, recipe, world, network, batch.teacher, batch.earlier)
            sums += values
            watch.add(values, batch.rows)
    watch.finish()
    means = (average(sums, world) / max(steps, 1)).tolist()  # three losses and the accuracy
    state.epoch, seconds = epoch, time.perf_counter() - started
    return EpochMetrics(
        epoch=epoch,
        lr=lr,
        id_loss=means[0],
        triplet_loss=means[1],
        center_loss=means[2],
        accuracy=100 * means[3],
        relation_loss=None if training_set.teacher is None else means[4],
        teacher_cosine=None if training_set.teacher is None else 1 - means[5],
        earlier_cosine=None if training_set.earlier is None else 1 - means[6],
        images_per_second=steps
        * (recipe.identities_per_batch * recipe.images_per_identity + plan.unlabelled_rows.shape[1])
        / seconds,
        seconds=seconds,
    )


def train_step(
    state: TrainingState,
    pixels: Tensor,
    labels: Tensor,
    recipe: Recipe,
    world: World,
    network: nn.Module | None = None,
    teacher: Tensor | None = None,
    earlier: Tensor | None = None,
) -> Tensor:
    """Trains on this rank's pixels [N + U, 3, H, W], of which the first N have `labels` [N].

    The loss is Eq. 6: L = L_ID + L_Triplet + beta L_C. The last two are over the features of all ranks. With the
    `teacher`'s vectors [N + U, E] it is label_weight L + relation_weight L_relation + direction_weight L_direction.
    The last two are over all images of all ranks; see distillation.py. With the directions of an `earlier` model
    [N, D] it is label_weight L + compatibility_weight L_compatibility, with both the sum; see compatibility.py.
    A memory of people takes the place of the classifier; see memory.py.

    Returns:
        [7]: ID, triplet and center loss, accuracy, relation, direction and compatibility loss.
    """
    count = len(labels)
    dtype = DTYPES[recipe.precision]
    with torch.autocast(world.device.partition(":")[0], dtype, enabled=dtype != torch.float32):
        f_t, f_i, logits = (state.model if network is None else network)(pixels)
    own_embeddings = f_i.float() if recipe.feature == "after" else f_t
    logits = state.memory.logits(own_embeddings) if state.memory else logits[:count]
    all_features, all_labels = gather(f_t[:count], world), gather(labels, world)
    losses = [
        id_loss(logits.float(), labels, recipe.label_smoothing),
        TripletLoss(recipe.margin)(all_features, all_labels),
        state.center(all_features, all_labels) if recipe.center_weight else all_features.new_zeros(()),
    ]
    total = losses[0] + losses[1] + recipe.center_weight * losses[2]
    if teacher is not None or earlier is not None:
        total = recipe.label_weight * total
        recipe = dataclasses.replace(recipe, center_weight=recipe.label_weight * recipe.center_weight)
    relation = direction = compatibility = total.new_zeros(())
    if teacher is not None and state.projection is not None:
        embeddings, vectors = gather(own_embeddings, world), gather(teacher, world)
        relation = relation_loss(embeddings, vectors)
        # On the rows of all ranks, so that the projection's gradient is the same in each.
        direction = direction_loss(state.projection(embeddings), vectors)
        total = total + recipe.relation_weight * relation + recipe.direction_weight * direction
    if earlier is not None:
        compatibility = direction_loss(own_embeddings[:count], earlier)
        total = total + recipe.compatibility_weight * compatibility
    update_weights(state, total, recipe)
    if state.memory:
        state.memory.update(own_embeddings.detach(), labels)
    accuracy = (logits.detach().argmax(1) == labels).float().mean()
    guiding = (relation.detach(), direction.detach(), compatibility.detach())
    return torch.stack([*(loss.detach() for loss in losses), accuracy, *guiding])


def update_weights(state: TrainingState, loss: Tensor, recipe: Recipe) -> None:
    """One step of the optimizers with the gradient of `loss`, with the center loss `recipe.center_weight` times."""
    optimizers = [state.optimizer, state.center_optimizer] if recipe.center_weight else [state.optimizer]
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    if recipe.center_weight:
        # The centers have their own learning rate, independent of the weight of their loss (the released code).
        state.scaler.unscale_(state.center_optimizer)
        assert state.center.centers.grad is not None
        state.center.centers.grad.div_(recipe.center_weight)
    for optimizer in optimizers:
        state.scaler.step(optimizer)
    state.scaler.update()


def prepare_network(model: ReID, recipe: Recipe, world: World) -> nn.Module:
    """`model` with the wrappers for several processes and for torch.compile that the run needs."""
    network: nn.Module = model
    if world.size > 1:
        gpu = world.device != "cpu"
        if gpu and recipe.sync_batch_norm:
            # In place, so that the state dict keeps its keys and evaluation needs no second model.
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        network = nn.parallel.DistributedDataParallel(network, [world.device] if gpu else None)
    return torch.compile(network) if recipe.compile else network  # type: ignore[return-value]


def _check_identities(recipe: Recipe, num_ids: int, world: World, data: str) -> None:
    if num_ids < MIN_IDENTITIES:
        raise InputError(
            f"{data}: {num_ids} training identity; training needs crops of at least {MIN_IDENTITIES} people, each in a "
            "folder of their own",
            parameter="data",
        )
    if num_ids < recipe.identities_per_batch:
        raise InputError(
            f"{data}: {num_ids} training identities, but a batch takes {recipe.identities_per_batch}; set "
            f"identities_per_batch to {num_ids} or less",
            parameter="set",
        )
    if recipe.identities_per_batch % world.size:
        raise InputError(
            f"identities_per_batch={recipe.identities_per_batch} cannot be split evenly between {world.size} processes",
            parameter="set",
        )


def check_disk_space(state: TrainingState, out: Path) -> None:
    """A full disk stops the run before training. Space is needed for the weights, two moments, and the old files."""
    model_bytes = sum(value.numel() * value.element_size() for value in state.model.state_dict().values())
    center_bytes = state.center.centers.numel() * 4
    needed = 2 * (model_bytes + 3 * model_bytes + center_bytes) + DISK_RESERVE
    free = shutil.disk_usage(out).free
    if free < needed:
        raise RunError(
            f"{out}: {free >> 20} MiB free, but a run needs {needed >> 20} MiB; free some, or choose another folder",
            parameter="out",
        )


def _evaluation_due(epoch: int, recipe: Recipe) -> bool:
    return epoch == recipe.epochs or bool(recipe.eval_every and epoch % recipe.eval_every == 0)


def _evaluate(metrics: EpochMetrics, model: ReID, recipe: Recipe, dataset: Dataset, world: World) -> EpochMetrics:
    """`metrics` with rank-1 and mAP. An evaluation that fails does not stop the run."""
    from bot_deploy.backends.torch import runner

    if not dataset.query or not dataset.gallery:
        return metrics
    contract = contract_of(model, recipe.height, recipe.width)
    graph = InferenceGraph(model, contract, unit_length=recipe.metric == COSINE)
    try:
        embedder = Embedder(contract, "PyTorch", runner(graph, world.device), unit_length=graph.unit_length)
        scores = evaluate_dataset(embedder, dataset, recipe.metric)
    except BotError as error:
        logger.warning(f"not evaluated: {error}")
        return metrics
    return dataclasses.replace(metrics, rank1=scores.rank1, mAP=scores.mAP)


def _save_checkpoint(model: ReID, path: Path, recipe: Recipe, dataset: Dataset, guidance: Guidance) -> None:
    num_ids = len({crop.identity for crop in dataset.train})
    state_dict = {key: value.cpu() for key, value in model.state_dict().items()}
    contract = contract_of(model, recipe.height, recipe.width)
    contract = dataclasses.replace(contract, terms=inherited_terms(recipe.weights))
    if teacher := guidance.teacher:
        contract = dataclasses.replace(contract, teacher=teacher.description, unlabelled=teacher.unlabeled_names)
    if guidance.earlier:
        contract = dataclasses.replace(contract, compatible_with=guidance.earlier.spaces)
    checkpoint.save(
        checkpoint.Checkpoint(contract, state_dict, num_ids, recipe.last_stride, recipe.neck, dataset.sources), path
    )
