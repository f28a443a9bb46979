"""Other toolkits' state dicts as checkpoints of ours; none of their code is run or needed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bot_deploy.artifacts import checkpoint
from bot_deploy.artifacts.checkpoint import Checkpoint, contract_of
from bot_deploy.artifacts.contract import MEAN, STD, weights_fingerprint
from bot_deploy.artifacts.state_dict import match_state_dict
from bot_deploy.choices import IMAGE_HEIGHT, IMAGE_WIDTH, STEMS
from bot_deploy.errors import InputError
from bot_deploy.model import BACKBONES, RESNETS, ReID

from .key_layouts import AUTO, LAYOUTS, Layout, backbone, detect, listed, ours, refuse_unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

WRAPPERS = ("state_dict", "model")  # where torchreid and fast-reid put the state dict
DATA = "unknown data"  # what it was trained on
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Imported:
    """A converted checkpoint, and what a person should know about it."""

    checkpoint: Checkpoint
    layout: str
    assumed: tuple[str, ...]  # what the weights do not tell, in words
    unused: tuple[str, ...]  # keys that were left out


@dataclass(frozen=True)
class _Weights:
    given: dict[str, Tensor]  # by our names
    theirs: dict[str, str]  # our name -> their key
    left: list[str]  # their keys that have no place
    unused: list[str]  # their keys that only training needs


def import_checkpoint(
    path: Path,
    kind: str = AUTO,
    *,
    height: int = IMAGE_HEIGHT,
    width: int = IMAGE_WIDTH,
    last_stride: int | None = None,
    stem: str | None = None,
    feature: str | None = None,
    bgr: bool = False,
) -> Imported:
    """Converts the state dict in `path`, bare or under "model" or "state_dict", every key accounted for.

    Args:
        path: the file.
        kind: one of `layouts.LAYOUTS`, or "auto" to tell by the keys.
        height: of the images, in pixels.
        width: of the images, in pixels.
        last_stride: 1 or 2; None for the toolkit's default.
        stem: one of `model.STEMS`; None for the toolkit's own.
        feature: "fi" or "ft"; None for "fi" where there is a neck.
        bgr: it was trained on BGR; the first convolution is turned, so that the checkpoint takes RGB.

    Raises:
        InputError: no such file, pickled code in it, another network or layout, or weights left over or missing.
    """
    state = _state_dict(path)
    try:
        layout = _layout(kind, state)
        refuse_unsupported(state)
        assumed: list[str] = []
        mean, std = _normalisation(state, assumed)
        weights = _rename(state, layout)
        arch = backbone(weights.given)
        if stem is None:
            stem = _stem(layout, arch, state)
            assumed.append(f"stem {stem} (--stem)")
        if last_stride is None:
            last_stride = BACKBONES[arch].imported_last_stride or layout.last_stride
            assumed.append(f"last stride {last_stride} (--last-stride)")
        model, unused = _build(weights, arch, last_stride, stem, feature, assumed)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if bgr:
        first = next(model.backbone.parameters())  # the first convolution's weight
        first.data = first.data.flip(1)
        mean, std = (mean[2], mean[1], mean[0]), (std[2], std[1], std[0])
    contract = contract_of(model, height, width)
    # Not the weights alone decide what is embedded where: with another stride, say, they are another model.
    settings = repr((last_stride, stem, model.feature, mean, std)).encode()
    marked = weights_fingerprint([("weights", contract.fingerprint.encode()), ("settings", settings)])
    contract = replace(contract, mean=mean, std=std, fingerprint=marked)
    num_ids, neck = model.classifier.out_features, "none" if model.classifier.bias is not None else "bnneck"
    done = Checkpoint(contract, model.state_dict(), num_ids, last_stride, neck, DATA, stem)
    return Imported(done, layout.name, tuple(assumed), unused)


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        loaded = checkpoint.load_tensors(path)
    except checkpoint.PickledCodeError as error:
        raise InputError(
            f"{error}. If you trust it, save its tensors alone, where the toolkit that wrote it is installed: "
            f"x = torch.load({str(path)!r}, map_location='cpu', weights_only=False); x = x.state_dict() if "
            "hasattr(x, 'state_dict') else x.get('state_dict', x.get('model', x)); torch.save(x, 'weights.pth')"
        ) from None
    if loaded.get("kind") == checkpoint.KIND:
        raise InputError(f"{path}: is a checkpoint of bot_deploy already; use it as it is")
    state: dict[str, Any] = next((loaded[name] for name in WRAPPERS if isinstance(loaded.get(name), dict)), loaded)
    odd = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise InputError(
            f"{path}: {odd[0]} is a {type(state[odd[0]]).__name__}, not a tensor; "
            "give a state dict, bare or under model or state_dict"
        )
    return {key.removeprefix("module."): value for key, value in state.items()}  # which DataParallel adds


def _layout(kind: str, keys: Iterable[str]) -> Layout:
    if kind == AUTO:
        return detect(keys)
    if kind not in LAYOUTS:
        raise InputError(f"no toolkit {kind!r}; choose from {AUTO}, {', '.join(LAYOUTS)}")
    return LAYOUTS[kind]


def _rename(state: dict[str, Tensor], layout: Layout) -> _Weights:
    weights = _Weights({}, {}, [], [])
    for key, value in state.items():
        name = ours(layout, key)
        if any(re.match(pattern, key) for pattern in layout.unused):
            weights.unused.append(key)
        elif name is None or name in weights.given:
            weights.left.append(key)
        else:
            weights.given[name], weights.theirs[name] = value, key
    if not weights.given:
        raise InputError(f"none of its keys is {layout.name}'s: {listed(state)}")
    return weights


def _build(
    weights: _Weights, arch: str, last_stride: int, stem: str, feature: str | None, assumed: list[str]
) -> tuple[ReID, tuple[str, ...]]:
    """The network with `weights`, and the keys that only training needs."""
    given, unused = dict(weights.given), list(weights.unused)
    neck = "bnneck" if any(name.startswith("neck.") for name in given) else "none"
    if feature == "fi" and neck == "none":
        raise InputError("it has no neck, so there is no feature after it; use --feature ft")
    num_ids = len(given.get("classifier.weight", ()))
    if not num_ids:
        given.pop("classifier.weight", None)
        num_ids = 1
        assumed.append("1 identity, as there is no classifier")
    feature = feature or ("fi" if neck == "bnneck" else "ft")
    model = ReID(arch, num_ids, last_stride=last_stride, neck=neck, feature=feature, stem=stem)
    wanted = model.state_dict()
    if "classifier.bias" in given and "classifier.bias" not in wanted:  # ours has none after a neck
        del given["classifier.bias"]
        unused.append(weights.theirs["classifier.bias"])
    try:
        matched = match_state_dict(
            given,
            {name: torch.zeros_like(value) for name, value in wanted.items()},
            optional={name for name in wanted if name.startswith("classifier.")},
            file_keys=weights.theirs,
            unknown=weights.left,
        )
    except InputError as error:
        raise InputError(f"its weights are not those of a {arch}; {error}") from None
    model.load_state_dict(matched)  # also converts half precision to float32
    return model, tuple(unused)


def _normalisation(state: dict[str, Tensor], assumed: list[str]) -> tuple[Colour, Colour]:
    """Takes fast-reid's pixel_mean and pixel_std out of `state`: theirs are for pixels of 0-255, ours for 0-1."""
    taken = [state.pop(key, None) for key in ("pixel_mean", "pixel_std")]
    mean, std = (None if value is None else tuple(float(v) / 255 for v in value.flatten()) for value in taken)
    if mean is None and std is None:
        assumed.append("the normalisation of ImageNet")
        return MEAN, STD
    if mean is None or std is None or len(mean) != 3 or len(std) != 3 or min(std) <= 0:  # noqa: PLR2004 - colours
        raise InputError(f"pixel_mean and pixel_std have to be three numbers each, the latter above 0: {mean}, {std}")
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _stem(layout: Layout, arch: str, keys: Iterable[str]) -> str:
    """What the toolkit does before its first stage."""
    padded = any(key.startswith("heads.bnneck.") for key in keys)  # fast-reid before its max-pooling was changed
    with_relu = layout.name == "reid-strong-baseline" and arch not in RESNETS  # only their plain ResNets forgot it
    one_stem = layout.stem not in BACKBONES[arch].stems
    return STEMS[0] if one_stem or padded or with_relu else layout.stem
