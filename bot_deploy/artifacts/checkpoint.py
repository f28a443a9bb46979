"""Checkpoints: weights with their contract; loading runs no code, and writing is atomic."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
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
    """A weights file that holds more than tensors: reading it could run code."""


@dataclass(frozen=True)
class Checkpoint:
    """The contents of `model.pt`: weights, contract and the settings that build the network."""

    contract: Contract
    state: dict[str, torch.Tensor]  # state dict of model.ReID
    num_ids: int  # number of training identities
    last_stride: int  # stride of the backbone's last stage
    neck: str  # one of choices.NECKS
    data: tuple[str, ...]  # sources of the training data, as `open_dataset` takes them
    stem: str = "torchvision"  # one of choices.STEMS; older files lack it

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
    """Writes `checkpoint` to `path` atomically."""
    fields = {**vars(checkpoint), "contract": checkpoint.contract.to_json(), "kind": KIND}
    write_atomically(path, lambda temporary: torch.save(fields, temporary))


def load(path: str | Path) -> Checkpoint:
    """The checkpoint at `path`; no code in the file is run.

    Raises:
        InputError: not a checkpoint of bot_deploy, or damaged.
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


def read_contract(path: Path) -> Contract:
    """The contract in the checkpoint `path`."""
    return load(path).contract


def write_contract(path: Path, contract: Contract) -> None:
    """Replaces the contract in the checkpoint `path`; the weights stay as they are."""
    save(path, replace(load(path), contract=contract))


def load_tensors(path: str | Path) -> dict[str, Any]:
    """The dictionary in a .safetensors, .pth or .pt file; no code in the file is run.

    Raises:
        PickledCodeError: the file holds more than tensors.
        InputError: no such file, or damaged.
    """
    is_safetensors = Path(path).suffix == ".safetensors"
    if is_safetensors:
        from safetensors.torch import load_file
    try:
        if is_safetensors:
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
    """The contract of `model` with its present weights, for images of `height` x `width` pixels."""
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
