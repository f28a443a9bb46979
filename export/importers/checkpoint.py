"""Converts a state dict of another toolkit to a checkpoint; code of the toolkit is neither run nor needed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bot_deploy.artifacts import checkpoint
from bot_deploy.artifacts.checkpoint import Checkpoint, contract_of
from bot_deploy.artifacts.state_dict import list_keys, match_state_dict
from bot_deploy.choices import (
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    MEAN,
    POOLINGS,
    STD,
    STEMS,
    feature_code,
)
from bot_deploy.errors import InputError
from bot_deploy.model import BACKBONES, GEM_POWER, ReID

from .key_layouts import AUTO, LAYOUTS, KeyLayout, check_supported, detect_backbone, detect_layout, rename_key
from .settings import Rgb, check_color, check_feature, take_rgb, with_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

WRAPPERS = ("state_dict", "model")  # where torchreid and fast-reid put the state dict
UNKNOWN_DATA = "unknown data"  # stands in the checkpoint for the training data


@dataclass(frozen=True)
class ImportedCheckpoint:
    """A converted checkpoint, with the assumptions that were made."""

    checkpoint: Checkpoint
    toolkit: str  # that wrote the file
    assumptions: tuple[str, ...]  # settings that the weights do not show, as phrases
    unused_keys: tuple[str, ...]  # keys of the file that only training needs


@dataclass(frozen=True)
class _RenamedWeights:
    tensors: dict[str, Tensor]  # by the keys of our network
    file_keys: dict[str, str]  # key of our network -> key in the file
    unknown: list[str]  # keys of the file that have no place in our network
    unused: list[str]  # keys of the file that only training needs


def import_checkpoint(
    path: str | Path,
    toolkit: str = AUTO,
    *,
    size: tuple[int, int] = (IMAGE_HEIGHT, IMAGE_WIDTH),
    color: str = "RGB",
    last_stride: int | None = None,
    stem: str | None = None,
    feature: str | None = None,
    pooling: str | None = None,
) -> ImportedCheckpoint:
    """Converts the state dict in `path`, bare or under "model" or "state_dict"; no key is ignored.

    Args:
        path: the file.
        toolkit: one of `choices.TOOLKITS`, or "auto" to recognise the toolkit by its keys.
        size: height and width of the crops in pixels.
        color: channel order that the model was trained on, "RGB" or "BGR". The first convolution of a BGR model is
            changed to take RGB.
        last_stride: 1 or 2; None for the toolkit's default.
        stem: one of `choices.STEMS`; None for the toolkit's own.
        feature: "after" or "before" the neck; None for "after" if there is a neck.
        pooling: one of `choices.POOLINGS`; None for what the weights or the toolkit suggest. The power of "gem" is 3
            where it is no weight.

    Raises:
        InputError: no such file, pickled code in it, an unknown network, layout or color, or unknown or
            missing weights.
    """
    check_color(color)
    state = read_state_dict(Path(path))
    try:
        check_supported(state)
        layout = _choose_layout(toolkit, state)
        assumptions: list[str] = []
        mean, std = take_normalization(state, assumptions)
        weights = _rename_keys(state, layout)
        arch = detect_backbone(weights.tensors)
        if stem is None:
            stem = _detect_stem(layout, arch, state)
            assumptions.append(f"stem {stem}")
        if last_stride is None:
            last_stride = BACKBONES[arch].imported_last_stride or layout.last_stride
            assumptions.append(f"last stride {last_stride}")
        pooling = _choose_pooling(pooling, weights.tensors, arch, assumptions)
        model, unused = _build_network(weights, arch, last_stride, stem, feature, pooling, assumptions)
    except InputError as error:
        raise InputError(f"{path}: {error}", parameter=error.parameter) from None
    if color == "BGR":
        mean, std = take_rgb(next(model.backbone.parameters()), mean, std)
    contract = with_settings(contract_of(model, *size), last_stride, stem, model.feature, mean, std)
    contract = replace(contract, mean=mean, std=std)
    converted = Checkpoint(
        contract,
        model.state_dict(),
        num_ids=model.classifier.out_features,
        last_stride=last_stride,
        neck="none" if model.classifier.bias is not None else "bnneck",
        data=(UNKNOWN_DATA,),
        stem=stem,
        pooling=pooling,
        reduced_dim=_reduced_dim(weights.tensors),
    )
    return ImportedCheckpoint(converted, layout.name, tuple(assumptions), unused)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The state dict in `path`, bare or under one of WRAPPERS.

    Raises:
        InputError: no such file, pickled code in it, or a checkpoint of bot_deploy.
    """
    try:
        loaded = checkpoint.load_tensors(path)
    except checkpoint.PickledCodeError as error:
        raise InputError(
            f"{error}. If you trust it, save its tensors alone, where the toolkit that wrote it is installed: "
            f"x = torch.load({str(path)!r}, map_location='cpu', weights_only=False); x = x.state_dict() if "
            "hasattr(x, 'state_dict') else x.get('state_dict', x.get('model', x)); torch.save(x, 'weights.pth')"
        ) from None
    if checkpoint.is_checkpoint(loaded):
        raise InputError(f"{path}: is a checkpoint of bot_deploy already; use it as it is")
    wrapped = next((loaded[name] for name in WRAPPERS if isinstance(loaded.get(name), dict)), loaded)
    state = checkpoint.check_tensors(wrapped, str(path))
    return {key.removeprefix("module."): value for key, value in state.items()}  # the prefix of DataParallel


def _choose_layout(toolkit: str, keys: Iterable[str]) -> KeyLayout:
    if toolkit == AUTO:
        return detect_layout(keys)
    if toolkit not in LAYOUTS:
        raise InputError(f"no toolkit {toolkit!r}; choose from {AUTO}, {', '.join(LAYOUTS)}")
    return LAYOUTS[toolkit]


def _rename_keys(state: dict[str, Tensor], layout: KeyLayout) -> _RenamedWeights:
    weights = _RenamedWeights({}, {}, [], [])
    for key, value in state.items():
        name = rename_key(layout, key)
        if name == "neck.weight" and value.ndim > 1:  # fast-reid reduces the embedding by a 1x1 convolution
            name, value = "reduction.weight", value.flatten(1)  # noqa: PLW2901 - the same weights
        if any(re.match(pattern, key) for pattern in layout.training_only):
            weights.unused.append(key)
        elif name is None or name in weights.tensors:
            weights.unknown.append(key)
        else:
            weights.tensors[name], weights.file_keys[name] = value, key
    if not weights.tensors:
        raise InputError(f"none of its keys is {layout.name}'s: {list_keys(state)}")
    return weights


def _build_network(
    weights: _RenamedWeights,
    arch: str,
    last_stride: int,
    stem: str,
    feature: str | None,
    pooling: str,
    assumptions: list[str],
) -> tuple[ReID, tuple[str, ...]]:
    """The network with `weights`, and the keys that only training needs."""
    given, unused = dict(weights.tensors), list(weights.unused)
    neck = "bnneck" if any(name.startswith("neck.") for name in given) else "none"
    feature = feature_code(feature or ("after" if neck == "bnneck" else "before"))
    check_feature(feature, has_neck=neck == "bnneck")
    num_ids = next(iter(given["classifier.weight"].shape), 0) if "classifier.weight" in given else 0
    if not num_ids:
        given.pop("classifier.weight", None)
        num_ids = 1
        assumptions.append("1 identity, because there is no classifier")
    if pooling == "gem":
        given.setdefault("pool.p", torch.tensor([GEM_POWER]))
    model = ReID(
        arch,
        num_ids,
        last_stride=last_stride,
        neck=neck,
        feature=feature,
        stem=stem,
        pooling=pooling,
        reduced_dim=_reduced_dim(given),
    )
    expected = model.state_dict()
    if "classifier.bias" in given and "classifier.bias" not in expected:  # ours has no bias after a neck
        del given["classifier.bias"]
        unused.append(weights.file_keys["classifier.bias"])
    try:
        matched = match_state_dict(
            given,
            {name: torch.zeros_like(value) for name, value in expected.items()},
            optional={name for name in expected if name.startswith("classifier.")},
            file_keys=weights.file_keys,
            unknown=weights.unknown,
        )
    except InputError as error:
        raise InputError(f"its weights are not those of a {arch}; {error}") from None
    model.load_state_dict(matched)  # also converts half precision to float32
    return model, tuple(unused)


def _choose_pooling(pooling: str | None, weights: Mapping[str, Tensor], arch: str, assumptions: list[str]) -> str:
    """The pooling of the network with `weights`: `pooling` if it is given."""
    if pooling is not None:
        if pooling not in POOLINGS:
            raise InputError(f"unknown pooling {pooling!r}; choose from {', '.join(POOLINGS)}", parameter="pooling")
        return pooling
    if "pool.p" in weights:
        return "gem"
    # AGW of fast-reid has non-local blocks, and GeM whose power is fixed.
    chosen = "gem" if "_nl" in arch else "average"
    assumptions.append(f"pooling {chosen}")
    return chosen


def _reduced_dim(weights: Mapping[str, Tensor]) -> int:
    """The length that the embedding is reduced to; 0 if it is not."""
    reduction = weights.get("reduction.weight")
    return 0 if reduction is None else len(reduction)


def take_normalization(state: dict[str, Tensor], assumptions: list[str]) -> tuple[Rgb, Rgb]:
    """Removes fast-reid's pixel_mean and pixel_std from `state`; returns them for pixels in 0-1 instead of 0-255."""
    removed = [state.pop(key, None) for key in ("pixel_mean", "pixel_std")]
    mean, std = (None if value is None else tuple(float(v) / 255 for v in value.flatten()) for value in removed)
    if mean is None and std is None:
        assumptions.append("the normalisation of ImageNet")
        return MEAN, STD
    if mean is None or std is None or len(mean) != 3 or len(std) != 3 or not min(std) > 0:  # noqa: PLR2004 - colours
        raise InputError(f"pixel_mean and pixel_std must be three numbers each, and pixel_std above 0: {mean}, {std}")
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _detect_stem(layout: KeyLayout, arch: str, keys: Iterable[str]) -> str:
    """The stem with which the toolkit trained these weights."""
    padded = any(key.startswith("heads.bnneck.") for key in keys)  # files from before fast-reid changed its max-pooling
    with_relu = layout.name == "reid-strong-baseline" and "_ibn_a" in arch  # only without IBN, they lack the ReLU
    one_stem = layout.stem not in BACKBONES[arch].stems
    return STEMS[0] if one_stem or padded or with_relu else layout.stem
