"""Checkpoints: the weights with their contract, safe to load and never half written."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bot_deploy.choices import MERGE_SEPARATOR
from bot_deploy.errors import InputError
from bot_deploy.files import write_atomically
from bot_deploy.model import ReID, add_prefix

from .contract import Contract, from_json, weights_fingerprint

KIND = "bot_deploy checkpoint"


class PickledCodeError(InputError):
    """A file that only running the code in it could read."""


@dataclass(frozen=True)
class Checkpoint:
    """What `model.pt` holds."""

    contract: Contract
    state: dict[str, torch.Tensor]  # of ReID
    num_ids: int
    last_stride: int
    neck: str
    data: tuple[str, ...]  # sources of the training data, as `open_dataset` takes them
    stem: str = "torchvision"  # one of model.STEMS; older files do not say

    def build(self) -> ReID:
        """The network with these weights."""
        model = ReID(
            self.contract.arch,
            self.num_ids,
            last_stride=self.last_stride,
            neck=self.neck,
            feature=self.contract.feature,
            stem=self.stem,
        )
        try:
            model.load_state_dict(self.state)
        except RuntimeError as error:
            raise InputError(f"the checkpoint's weights do not fit its own description ({error})") from None
        return model


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Writes `path` atomically."""
    fields = {**vars(checkpoint), "contract": checkpoint.contract.to_json(), "kind": KIND}
    write_atomically(path, lambda temporary: torch.save(fields, temporary))


def load(path: str | Path) -> Checkpoint:
    """Reads `path` without running any code in it.

    Raises:
        InputError: not a checkpoint of ours, or damaged.
    """
    fields = load_tensors(path)
    if fields.pop("kind", None) != KIND:
        raise InputError(f"{path}: not a bot_deploy checkpoint; `bot train` writes model.pt")
    try:
        contract = from_json(fields.pop("contract"), str(path))
        if isinstance(fields["data"], str):  # a file of an older version
            fields["data"] = tuple(fields["data"].split(MERGE_SEPARATOR))
        return Checkpoint(contract=contract, **fields)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: written by another version of bot_deploy ({error})") from None


def load_tensors(path: str | Path) -> dict[str, Any]:
    """The dictionary in a .safetensors, .pth or .pt file; no pickled code is run.

    Raises:
        PickledCodeError: it holds more than tensors.
        InputError: no such file, or damaged.
    """
    tensors = Path(path).suffix == ".safetensors"
    if tensors:
        from safetensors.torch import load_file
    try:
        if tensors:
            return dict(load_file(str(path)))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except pickle.UnpicklingError:
        raise PickledCodeError(
            f"{path}: damaged, or holds more than tensors, so loading it could run code; it is refused"
        ) from None
    except Exception as error:  # noqa: BLE001 - damaged files raise anything, from zip, pickle and safetensors
        raise InputError(f"{path}: not a readable weights file ({type(error).__name__})") from None
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: holds a {type(loaded).__name__}, not a state dict")
    return loaded


def contract_of(model: ReID, height: int, width: int) -> Contract:
    """The contract that the model's present weights fulfil at this image size."""
    used = {**add_prefix("backbone", model.backbone.state_dict()), **add_prefix("neck", model.neck.state_dict())}
    weights = ((key, value.detach().cpu().contiguous().numpy().tobytes()) for key, value in used.items())
    return Contract(
        arch=model.arch,
        height=height,
        width=width,
        dim=model.dim,
        feature=model.feature,
        fingerprint=weights_fingerprint(weights),
    )
