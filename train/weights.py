"""Where a run starts from: ImageNet weights, a local file, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from bot_deploy.artifacts import checkpoint
from bot_deploy.errors import InputError, RunError
from bot_deploy.model import IBN_A, prefixed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bot_deploy.model import ReID

SHOWN = 16


def initialise(model: ReID, source: str) -> None:
    """Fills `model` from `source`: "none", "imagenet" (torchvision's enum), or a .safetensors, .pth or .pt file.

    A file holds torchvision's keys for the backbone, or is a checkpoint of ours. A classifier of
    another class count is left as it is.

    Raises:
        InputError: keys or shapes that do not fit; the message lists them.
        RunError: the ImageNet weights could not be fetched.
    """
    if source == "none":
        return
    state = _imagenet(model.arch) if source == "imagenet" else checkpoint.load_tensors(source)
    load(model, state, source)


def load(model: ReID, state: Mapping[str, object], source: str) -> None:
    """Copies the tensors of `state` into `model`; see `initialise`."""
    if state.get("kind") == checkpoint.KIND:
        given: dict[str, Tensor] = state["state"]  # type: ignore[assignment]
        wanted = dict(model.state_dict())
        for key in [key for key in given if key.startswith("classifier.")]:
            if key not in wanted or given[key].shape != wanted[key].shape:
                given.pop(key)
        optional = {key for key in wanted if key.startswith("classifier.")}
    else:
        # torchvision's layout; its head for the 1,000 ImageNet classes is not wanted
        backbone = {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier."))}
        given = prefixed("backbone", backbone)  # type: ignore[arg-type]
        wanted = prefixed("backbone", model.backbone.state_dict())
        optional = set()
    odd = [key for key, value in given.items() if not isinstance(value, Tensor)]
    if odd:
        raise InputError(f"{source}: {odd[0]} is no tensor; give a state dict")
    optional |= {key for key in wanted if key.endswith("num_batches_tracked")}
    unknown = [key for key in given if key not in wanted]
    missing = [key for key in wanted if key not in given and key not in optional]
    shapes = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in given
        if key in wanted and given[key].shape != wanted[key].shape
    ]
    problems = [
        f"{len(keys)} {what}: {', '.join(keys[:SHOWN])}{', ...' if len(keys) > SHOWN else ''}"
        for what, keys in (("unknown keys", unknown), ("missing keys", missing), ("other shapes", shapes))
        if keys
    ]
    if problems:
        raise InputError(f"{source} does not fit {model.arch}: {'; '.join(problems)}")
    model.load_state_dict({**model.state_dict(), **given})


def _imagenet(arch: str) -> dict[str, Tensor]:
    from torchvision import models

    if arch.endswith(IBN_A):
        raise InputError(f"torchvision has no ImageNet weights of {arch}; give a file with --weights FILE, or none")
    # V1 is what the paper started from.
    weights = models.get_model_weights(arch)["IMAGENET1K_V1"]
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise RunError(
            f"the ImageNet weights of {arch} could not be fetched ({error}); give a file with --weights FILE, "
            "or start from scratch with --weights none"
        ) from None
    return state
