"""Initial weights of a run: ImageNet's, those of a file, or random ones."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bot_deploy import timm_backbone
from bot_deploy.artifacts import checkpoint, read_contract
from bot_deploy.artifacts.contract import from_json
from bot_deploy.artifacts.state_dict import COUNTER, match_state_dict
from bot_deploy.choices import OFFLINE_VARIABLE
from bot_deploy.errors import InputError, RunError
from bot_deploy.model import BACKBONES, Backbone, ReID, add_prefix, find_backbone
from bot_deploy.models.fetch import is_offline

from .run_files import weights_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bot_deploy.artifacts.contract import Contract


def initialize(model: ReID, source: str) -> None:
    """Sets the initial weights of `model` from `source`.

    `source` is "none" (they stay random), "imagenet" (downloaded by torchvision or timm), "box" (the built-in
    model), the folder of a run, or a .safetensors, .pth or .pt file. The file holds a checkpoint of bot_deploy or a
    backbone with the keys of torchvision or timm. A classifier for another number of identities is left out, and so
    are GeM and a reduction of the embedding, with the neck behind it.

    Raises:
        InputError: no such file, keys or shapes that do not fit (the message lists them), or ImageNet weights that
            $BOT_OFFLINE forbids to fetch.
        RunError: the ImageNet weights could not be downloaded.
    """
    if source == "none":
        return
    timm_name = find_backbone(model.arch).timm_name
    if source == "imagenet" and not timm_name:
        load_weights(model, _download_imagenet(model.arch), source)
        return
    path = timm_backbone.download_weights(timm_name) if source == "imagenet" and timm_name else weights_file(source)
    load_weights(model, checkpoint.load_tensors(path), str(path))


def inherited_terms(source: str) -> str:
    """The terms of the model whose weights are the initial weights `source`; "" if it has none, or is gone."""
    contract = _contract_of(source)
    return contract.terms if contract else ""


def know_people(source: str) -> bool:
    """Whether the initial weights `source` are those of a model for ReID."""
    return _contract_of(source) is not None


def _contract_of(source: str) -> Contract | None:
    if source in {"none", "imagenet"}:
        return None
    try:
        return read_contract(weights_file(source))
    except InputError:  # weights without a contract
        return None


def load_weights(model: ReID, state: Mapping[str, object], source: str) -> None:
    """Copies the tensors of `state`, read from `source`, into `model`; see `initialize`."""
    expected, backbone = dict(model.state_dict()), find_backbone(model.arch)
    contract = state.get("contract") if checkpoint.is_checkpoint(state) else None
    saved = from_json(contract, source) if isinstance(contract, str) else None
    classifier = {key for key in expected if key.startswith("classifier.")}
    if checkpoint.is_checkpoint(state):
        given = dict(checkpoint.check_tensors(state.get("state"), source))
        # Training has no GeM and no reduction of the embedding; a neck behind a reduction fits no other feature.
        left_out = ("pool.", "reduction.", *(("neck.",) if "reduction.weight" in given else ()))
        for key in [key for key in given if key.startswith(("classifier.", *left_out))]:
            if key not in expected or given[key].shape != expected[key].shape or key.startswith(left_out):
                given.pop(key)
        optional = {*classifier, *(key for key in expected if key.startswith(left_out))}
    else:
        # The layout of torchvision or timm, whose heads are for the 1,000 ImageNet classes.
        features = {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier."))}
        given = add_prefix(backbone.weights_prefix, checkpoint.check_tensors(features, source))
        added = backbone.extra_layers_key
        optional = {key for key in expected if not key.startswith("backbone.") or (added and added in key)}
    try:
        given = _fit_timm_weights(model, backbone, given, saved)
        model.load_state_dict(match_state_dict(given, expected, optional=optional))
    except InputError as error:
        arch = saved.arch if saved else _backbone_of(given)
        if arch and arch != model.arch:
            raise InputError(
                f"{source}: weights of {arch}, not of {model.arch}; set arch={arch}", parameter="set"
            ) from None
        raise InputError(f"{source} does not fit {model.arch}: {error}") from None


def _fit_timm_weights(
    model: ReID, backbone: Backbone, given: dict[str, Tensor], saved: Contract | None
) -> dict[str, Tensor]:
    """`given` as the network of timm in `model` takes them; `saved` is the contract of a checkpoint of ours."""
    name, size = backbone.timm_name, saved.size if saved else model.size
    if name is None or (saved and (saved.arch != model.arch or not backbone.has_fixed_size or size == model.size)):
        return given
    prefix = f"{backbone.weights_prefix}."
    inner = {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
    others = {key: value for key, value in given.items() if not key.startswith(prefix)}
    if saved:
        fitted = timm_backbone.resize_weights(name, inner, size, model.size)
    else:
        fitted = timm_backbone.fit_weights(model.get_submodule(backbone.weights_prefix), name, inner)
    return {**add_prefix(backbone.weights_prefix, fitted), **others}


def _backbone_of(given: Mapping[str, Tensor]) -> str | None:
    """The backbone whose keys and shapes are those of `given`; None if there is none."""
    shapes = _backbone_shapes(given)
    return next((arch for arch in BACKBONES if shapes and _own_shapes(arch) == shapes), None)


@cache
def _own_shapes(arch: str) -> dict[str, torch.Size]:
    try:
        with torch.device("meta"):  # no memory for the weights
            return _backbone_shapes(ReID(arch, 1).state_dict())
    except RunError:  # it needs timm, which is not installed
        return {}


def _backbone_shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    prefix = "backbone."
    return {key: value.shape for key, value in state.items() if key.startswith(prefix) and not key.endswith(COUNTER)}


def _download_imagenet(arch: str) -> dict[str, Tensor]:
    from torchvision import models

    name = BACKBONES[arch].torchvision_name
    if name is None:
        raise InputError(f'torchvision has no ImageNet weights of {arch}; give a file, or "none"', parameter="weights")
    weights = models.get_model_weights(name)["IMAGENET1K_V1"]  # V1: the paper started from them
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if is_offline() and not cached.exists():
        raise InputError(
            f"the ImageNet weights of {arch} are not in the cache, and ${OFFLINE_VARIABLE} forbids to fetch them; "
            f'fetch {weights.url} by hand into {cached.parent}, or give a file, or "none"',
            parameter="weights",
        )
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise RunError(
            f'the ImageNet weights of {arch} could not be downloaded ({error}); give a file, or "none" to start from '
            "random weights",
            parameter="weights",
        ) from None
    return state
