"""Training without labels: before each epoch, people are found by clustering (Cluster Contrast; Dai et al., ACCV 2022).

The network embeds all crops, clusters of them are the people of this epoch, and crops of nobody are left out. A memory
with a vector for each person takes the place of the classifier.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from bot_deploy.backends.torch import full_float32
from bot_deploy.datasets import Dataset
from bot_deploy.errors import InputError, RunError
from bot_deploy.runs import CHECKPOINT_NAME

from . import run_files
from .clusters import NOBODY, agreement, find_people
from .data import open_training_set
from .distributed import join_world
from .features import compute_features
from .gpu import explain_full_memory
from .heads import mean_of_each
from .loop import Guidance, check_disk_space, finish_epoch, prepare_network, recipe_of_epoch, train_epoch
from .memory import ClusterMemory
from .precision import resolve_precision
from .recipe import Recipe, load_recipe
from .state import create_state, restore_state
from .unlabeled import describe_cameras, open_unlabeled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .clusters import Labels
    from .data import TrainingSet
    from .distributed import World
    from .state import TrainingState

logger = logging.getLogger(__name__)

PEOPLE_NAME = "people.csv"
STABLE_AGREEMENT = 0.98  # of the people of two epochs, from which another epoch would learn the same again


def train_unlabeled(
    recipe: Recipe | str | Path, unlabelled: Sequence[str | Path], out: str | Path, *, resume: bool = False
) -> Path:
    """Trains a model on crops without labels and returns the path of its checkpoint, `out`/model.pt.

    `out` also gets what `train` writes, and people.csv with the person of each crop. Training ends before
    `recipe.epochs` when the people found are the same as in the epoch before.

    Args:
        recipe: a recipe, the name of a built-in recipe, or a .toml file.
        unlabelled: folders or .zip files of crops; names such as c2_0001.jpg or folders such as c2/ tell the cameras.
            Also indexes of `bot index`, which know the cameras of their crops.
        out: folder of the run.
        resume: continue the run in `out`, if there is one; on a CPU the final weights are bit-identical to those of a
            run without a stop.

    Raises:
        InputError: no crops, `out` holds another run, or several processes.
        RunError: too few people are found, a loss is not finite, `out` cannot be written, or too little disk or memory.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if recipe.center_weight:
        raise InputError(
            "the people change with each epoch, so they have no centers: set center_weight=0", parameter="set"
        )
    sources = list(map(str, unlabelled))
    dataset = Dataset(tuple(sources), open_unlabeled(sources), (), ())
    world = join_world()
    if world.size > 1:
        raise InputError("training without labels runs in one process; start it without torchrun")
    with full_float32(), explain_full_memory():
        return _train(resolve_precision(recipe, world.device), dataset, Path(out), world, resume=resume)


def _train(recipe: Recipe, dataset: Dataset, out: Path, world: World, *, resume: bool) -> Path:
    resuming = resume and (out / run_files.STATE_NAME).exists()
    state = create_state(dataclasses.replace(recipe, weights="none") if resuming else recipe, 1, world.device)
    run_files.open_run(out, recipe, dataset, resume=resume, labels_are_found=True)
    check_disk_space(state, out)
    if resuming:
        restore_state(state, out / run_files.STATE_NAME)
        if state.people is not None and len(state.people) != len(dataset.train):
            raise InputError(f"{out}: the state of other crops; start a new run in another folder", parameter="out")
        run_files.write_metrics(out, state.metrics)  # the run may have been killed before it wrote its last epoch
    network, crops = prepare_network(state.model, recipe, world), None
    if state.epoch < recipe.epochs:
        logger.info(
            f"training {recipe.arch} {recipe.height}x{recipe.width} on {len(dataset.train)} crops without labels, "
            f"{describe_cameras(dataset.train)}, at most {recipe.epochs} epochs in {recipe.precision} on "
            f"{world.device}, into {out}"
        )
    while state.epoch < recipe.epochs:
        stage = recipe_of_epoch(recipe, state.epoch + 1)
        if crops is None or crops.size != (stage.height, stage.width):
            crops = open_training_set(dataset.train, (stage.height, stage.width), world)
        people, labelled = _find_people(state, crops, stage, world)
        if state.people is not None and agreement(state.people.numpy(), people) >= STABLE_AGREEMENT:
            logger.info("the people found are those of the epoch before, so training ends here")
            break
        metrics = train_epoch(state, labelled, stage, world, network)
        state.people = torch.from_numpy(people)
        found = dataclasses.replace(
            metrics, people=labelled.num_ids, crops_used=100 * len(labelled.crops) / len(dataset.train)
        )
        _write_people(people, dataset, out)
        finish_epoch(state, found, stage, dataset, out, Guidance())
    return out / CHECKPOINT_NAME


def _find_people(state: TrainingState, crops: TrainingSet, recipe: Recipe, world: World) -> tuple[Labels, TrainingSet]:
    """The person of each crop, and the crops of somebody with their people as labels; sets the memory of `state`."""
    vectors = _embed(state, crops, recipe, world)
    cameras = [crop.known_camera for crop in crops.crops]
    people = find_people(vectors.cpu().numpy(), cameras, recipe.cluster_distance)
    rows = np.flatnonzero(people != NOBODY)
    count = len(np.unique(people[rows]))
    if count < recipe.identities_per_batch:
        raise RunError(
            f"{count} people found on {len(people)} crops, but a batch takes {recipe.identities_per_batch}; set "
            "identities_per_batch to less, give more crops, or start from a model that knows people",
            parameter="set",
        )
    labels = torch.from_numpy(people[rows]).to(world.device)
    means = mean_of_each(vectors[torch.from_numpy(rows).to(world.device)], labels)
    state.memory = ClusterMemory(nn.functional.normalize(means), recipe.memory_momentum, recipe.memory_temperature)
    return people, crops.select(rows, people[rows])


def _embed(state: TrainingState, crops: TrainingSet, recipe: Recipe, world: World) -> Tensor:
    """The unit embeddings [N, D] of all crops."""
    features = compute_features(state.model, crops, np.arange(len(crops.crops)), world.device, "embedding")
    with torch.no_grad():
        return nn.functional.normalize(state.model.neck(features) if recipe.feature == "after" else features)


def _write_people(people: Labels, dataset: Dataset, out: Path) -> None:
    """people.csv: the crops and their people, numbered from 1; the field is empty for a crop of nobody."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("path", "person"))
    for crop, person in zip(dataset.train, people.tolist(), strict=True):
        table.writerow((str(crop.path), "" if person == NOBODY else person + 1))
    run_files.write_text(out / PEOPLE_NAME, text.getvalue())
