"""Initial weights of a run: ImageNet's, those of a file, or random ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bot_deploy.artifacts import checkpoint
from bot_deploy.artifacts.contract import from_json
from bot_deploy.artifacts.state_dict import COUNTER, match_state_dict
from bot_deploy.errors import InputError, RunError
from bot_deploy.model import BACKBONES, ReID, add_prefix

from .run_files import weights_file

if TYPE_CHECKING:
    from collections.abc import Mapping


def initialise(model: ReID, source: str) -> None:
    """Sets the initial weights of `model` from `source`.

    `source` is "none" (they stay random), "imagenet" (downloaded by torchvision), the folder of a run, or a
    .safetensors, .pth or .pt file. The file holds a checkpoint of bot_deploy or a backbone with torchvision's keys. A
    classifier for another number of identities is left out.

    Raises:
        InputError: no such file, or keys or shapes that do not fit; the message lists them.
        RunError: the ImageNet weights could not be downloaded.
    """
    if source == "none":
        return
    if source == "imagenet":
        load_weights(model, _download_imagenet(model.arch), source)
        return
    path = weights_file(source)
    load_weights(model, checkpoint.load_tensors(path), str(path))


def load_weights(model: ReID, state: Mapping[str, object], source: str) -> None:
    """Copies the tensors of `state`, read from `source`, into `model`; see `initialise`."""
    expected = dict(model.state_dict())
    classifier = {key for key in expected if key.startswith("classifier.")}
    if checkpoint.is_checkpoint(state):
        given = dict(checkpoint.check_tensors(state.get("state"), source))
        for key in [key for key in given if key.startswith("classifier.")]:
            if key not in expected or given[key].shape != expected[key].shape:
                given.pop(key)
        optional = classifier
    else:
        # torchvision's layout; its head is for the 1,000 ImageNet classes
        backbone = {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier."))}
        given = add_prefix("backbone", checkpoint.check_tensors(backbone, source))
        added = BACKBONES[model.arch].added
        optional = {key for key in expected if not key.startswith("backbone.") or (added and added in key)}
    try:
        model.load_state_dict(match_state_dict(given, expected, optional=optional))
    except InputError as error:
        arch = state.get("contract") if checkpoint.is_checkpoint(state) else None
        arch = from_json(arch, source).arch if isinstance(arch, str) else _backbone_of(given)
        if arch and arch != model.arch:
            raise InputError(
                f"{source}: weights of {arch}, not of {model.arch}; set arch={arch}", parameter="set"
            ) from None
        raise InputError(f"{source} does not fit {model.arch}: {error}") from None


def _backbone_of(given: Mapping[str, Tensor]) -> str | None:
    """The backbone whose keys and shapes are those of `given`; None if there is none."""
    shapes = _backbone_shapes(given)
    for arch in BACKBONES:
        with torch.device("meta"):  # no memory for the weights
            if _backbone_shapes(ReID(arch, 1).state_dict()) == shapes:
                return arch
    return None


def _backbone_shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    prefix = "backbone."
    return {key: value.shape for key, value in state.items() if key.startswith(prefix) and not key.endswith(COUNTER)}


def _download_imagenet(arch: str) -> dict[str, Tensor]:
    from torchvision import models

    name = BACKBONES[arch].torchvision_name
    if name is None:
        raise InputError(f'torchvision has no ImageNet weights of {arch}; give a file, or "none"', parameter="weights")
    weights = models.get_model_weights(name)["IMAGENET1K_V1"]  # V1: the paper started from them
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise RunError(
            f'the ImageNet weights of {arch} could not be downloaded ({error}); give a file, or "none" to start from '
            "random weights",
            parameter="weights",
        ) from None
    return state
