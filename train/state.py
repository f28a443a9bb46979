"""The state of a training run: model, centers, optimizers and the metrics of the epochs so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bot_deploy.artifacts import checkpoint
from bot_deploy.errors import InputError
from bot_deploy.files import write_atomically
from bot_deploy.model import ReID

from . import weights
from .cpu_layers import use_cpu_layers
from .losses import CenterLoss
from .run_files import EpochMetrics

if TYPE_CHECKING:
    from pathlib import Path

    from .recipe import Recipe

STATEFUL = ("center", "optimizer", "center_optimizer", "scaler")  # attributes with a state dict, besides the model


@dataclass
class TrainingState:
    """Everything that training changes."""

    model: ReID
    center: CenterLoss
    optimizer: torch.optim.Optimizer
    center_optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0  # finished epochs
    metrics: list[EpochMetrics] = field(default_factory=list)


def create_state(recipe: Recipe, num_ids: int, device: str) -> TrainingState:
    """The state before the first epoch. The global random state of PyTorch stays as it is.

    Raises:
        InputError: initial weights that do not fit, or an unknown backbone.
        RunError: the ImageNet weights could not be downloaded.
    """
    with torch.random.fork_rng(devices=[]):  # only the CPU's generator is used
        torch.default_generator.manual_seed(recipe.seed)
        model = ReID(recipe.arch, num_ids, last_stride=recipe.last_stride, neck=recipe.neck, feature=recipe.feature)
        if recipe.protocol == "paper" and recipe.neck != "none":
            nn.init.kaiming_normal_(model.classifier.weight, mode="fan_out")  # section 3.5
        weights.initialise(model, recipe.weights)
        center = CenterLoss(num_ids, model.dim, scaling=recipe.protocol).to(device)
    use_cpu_layers(model)
    model.to(device).to(memory_format=torch.channels_last)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # L2 regularisation of all parameters, batch-norm and biases included (the released code).
    optimizer = torch.optim.Adam(trained, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    center_optimizer = torch.optim.SGD(center.parameters(), lr=recipe.center_lr)
    scaler = torch.amp.GradScaler(device.partition(":")[0], enabled=recipe.precision == "fp16")
    return TrainingState(model, center, optimizer, center_optimizer, scaler)


def save_state(state: TrainingState, path: Path) -> None:
    """Writes `path` atomically; `restore_state` reads it."""
    values: dict[str, Any] = {name: getattr(state, name).state_dict() for name in STATEFUL}
    values["model"] = {key: value.cpu() for key, value in state.model.state_dict().items()}
    values |= {"epoch": state.epoch, "rows": [vars(epoch) for epoch in state.metrics]}
    write_atomically(path, lambda temporary: torch.save(values, temporary))


def restore_state(state: TrainingState, path: Path) -> None:
    """Fills `state` from `path`.

    Raises:
        InputError: the file is damaged or is the state of another run.
    """
    values = checkpoint.load_tensors(path)
    try:
        for name in ("model", *STATEFUL):
            getattr(state, name).load_state_dict(values[name])
        state.epoch = values["epoch"]
        state.metrics = [EpochMetrics(**epoch) for epoch in values["rows"]]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path}: not the state of this run ({error}); start a new run in another folder", parameter="out"
        ) from None
