"""The state of a training run: model, centers, optimizers and the metrics of the epochs so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import torch
from torch import Tensor, nn

from bot_deploy.artifacts import checkpoint
from bot_deploy.choices import PAPER, feature_code
from bot_deploy.errors import InputError, on_one_line
from bot_deploy.files import write_atomically
from bot_deploy.model import ReID, find_backbone

from . import weights
from .cpu_layers import use_cpu_layers
from .losses import CenterLoss
from .run_files import EpochMetrics

if TYPE_CHECKING:
    from pathlib import Path

    from .memory import ClusterMemory
    from .recipe import Recipe

Epoch = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
STATEFUL = ("center", "optimizer", "center_optimizer", "scaler", "projection")  # with a state dict, besides the model


@dataclass
class TrainingState:
    """Everything that training changes."""

    model: ReID
    center: CenterLoss
    optimizer: torch.optim.Optimizer
    center_optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0  # finished epochs
    projection: nn.Linear | None = None  # from the student's dimension to the teacher's; exported models lack it
    memory: ClusterMemory | None = None  # without labels: of the people found, instead of the classifier
    people: Tensor | None = None  # without labels: the person of each crop, as the last epoch took them, int64 [N]
    metrics: list[EpochMetrics] = field(default_factory=list)


def create_state(recipe: Recipe, num_ids: int, device: str, teacher_dim: int = 0) -> TrainingState:
    """The state before the first epoch. The global random state of PyTorch stays as it is.

    With a teacher, `teacher_dim` is the length of its vectors.

    Raises:
        InputError: initial weights that do not fit, or an unknown backbone.
        RunError: the ImageNet weights could not be downloaded.
    """
    if recipe.small_epochs and find_backbone(recipe.arch).has_fixed_size:
        raise InputError(f"{recipe.arch} takes images of one size; set small_epochs=0", parameter="set")
    with torch.random.fork_rng(devices=[]):  # only the CPU's generator is used
        torch.default_generator.manual_seed(recipe.seed)
        model = ReID(
            recipe.arch,
            num_ids,
            last_stride=recipe.last_stride,
            neck=recipe.neck,
            feature=feature_code(recipe.feature),
            size=(recipe.height, recipe.width),
        )
        if recipe.protocol == PAPER and recipe.neck != "none":
            nn.init.kaiming_normal_(model.classifier.weight, mode="fan_out")  # section 3.5
        weights.initialize(model, recipe.weights)
        center = CenterLoss(num_ids, model.dim, scaling=recipe.protocol).to(device)
        # Last, so that the same seed gives the same network with and without a teacher.
        projection = nn.Linear(model.dim, teacher_dim, bias=False).to(device) if teacher_dim else None
    if device == "cpu":
        use_cpu_layers(model)
    model.to(device).to(memory_format=torch.channels_last)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    trained += list(projection.parameters()) if projection is not None else []
    # L2 regularisation of all parameters, batch-norm and biases included (the released code).
    optimizer = torch.optim.Adam(trained, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    # Fused optimizers leave the GradScaler's check on the GPU; another would make the CPU wait for it.
    center_optimizer = torch.optim.SGD(center.parameters(), lr=recipe.center_lr, fused=device != "cpu")
    scaler = torch.amp.GradScaler(device.partition(":")[0], enabled=recipe.precision == "fp16")
    return TrainingState(model, center, optimizer, center_optimizer, scaler, projection=projection)


def save_state(state: TrainingState, path: Path) -> None:
    """Writes `path` atomically; `restore_state` reads it."""
    values: dict[str, Any] = {
        name: getattr(state, name).state_dict() for name in STATEFUL if getattr(state, name) is not None
    }
    values["model"] = {key: value.cpu() for key, value in state.model.state_dict().items()}
    if state.people is not None:
        values["people"] = state.people
    values |= {"epoch": state.epoch, "rows": [vars(epoch) for epoch in state.metrics]}
    write_atomically(path, lambda temporary: torch.save(values, temporary))


def _check_moments(optimizer: torch.optim.Optimizer, names: set[str]) -> None:
    """Raises a ValueError unless the state of each parameter is empty or consists of tensors of its shape."""
    for parameter, moments in optimizer.state.items():
        if moments and set(moments) != names:
            raise ValueError(f"an optimizer with {', '.join(map(str, moments))}")
        for name, value in moments.items():
            shape = () if name == "step" else parameter.shape
            fits = isinstance(value, Tensor) and value.shape == shape and value.dtype.is_floating_point
            if not fits and not (value is None and name == "momentum_buffer"):  # None without momentum
                raise ValueError(f"{name} of another shape or type")
        if "step" in moments and not 0 <= float(moments["step"]) < math.inf:
            raise ValueError("a negative or infinite number of steps")


def _check_people(people: object) -> Tensor | None:
    """`people` of a state; raises a ValueError unless they are None or int64 [N]."""
    if people is None or (isinstance(people, Tensor) and people.dtype == torch.int64 and people.ndim == 1):
        return people
    raise ValueError("people of another shape or type")


def restore_state(state: TrainingState, path: Path) -> None:
    """Fills `state` from `path`.

    Raises:
        InputError: the file is damaged or is the state of another run.
    """
    values = checkpoint.load_tensors(path)
    try:
        for name in ("model", *STATEFUL):
            part = getattr(state, name)
            if part is None:
                continue
            values_of_part = values[name]
            if isinstance(part, torch.optim.Optimizer):  # the recipe sets the learning rate and the like
                values_of_part = {**values_of_part, "param_groups": part.state_dict()["param_groups"]}
            part.load_state_dict(values_of_part)
        _check_moments(state.optimizer, {"step", "exp_avg", "exp_avg_sq"})
        _check_moments(state.center_optimizer, {"momentum_buffer"})
        state.people = _check_people(values.get("people"))
        state.epoch = msgspec.convert(values["epoch"], Epoch)
        state.metrics = [EpochMetrics(**epoch) for epoch in values["rows"]]
        msgspec.convert([vars(epoch) for epoch in state.metrics], list[EpochMetrics])
    except Exception as error:  # noqa: BLE001 - PyTorch's load_state_dict raises anything for damaged values
        raise InputError(
            f"{path}: not the state of this run ({on_one_line(error)}); start a new run in another folder",
            parameter="out",
        ) from None
