"""Checkpoints: weights with their contract; loading runs no code, and writing is atomic."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from msgspec import Meta

from bot_deploy.choices import MERGE_SEPARATOR
from bot_deploy.errors import InputError, on_one_line
from bot_deploy.files import write_atomically
from bot_deploy.model import Parts, ReID

from .contract import Contract, Name, from_json, weights_fingerprint
from .decoding import decode_fields
from .state_dict import match_state_dict

if TYPE_CHECKING:
    from collections.abc import Mapping

KIND = "bot_deploy checkpoint"
REMEDY = "it was written by another version of bot_deploy, or not completely"
IdentityCount = Annotated[int, Meta(ge=1, le=10_000_000)]
Stride = Annotated[int, Meta(ge=1, le=2)]
ReducedDim = Annotated[int, Meta(ge=0, le=65_536)]


class PickledCodeError(InputError):
    """A weights file that holds more than tensors: reading it could run code."""


@dataclass(frozen=True)
class Checkpoint:
    """The contents of `model.pt`: weights, contract and the settings that build the network."""

    contract: Contract
    state: dict[str, torch.Tensor]  # state dict of model.ReID
    num_ids: IdentityCount  # number of training identities
    last_stride: Stride  # stride of the backbone's last stage
    neck: Name  # one of choices.NECKS
    data: tuple[str, ...]  # sources of the training data, as `open_dataset` takes them
    # Older files lack these.
    stem: Name = "torchvision"  # one of choices.STEMS
    pooling: Name = "average"  # one of choices.POOLINGS
    reduced_dim: ReducedDim = 0  # length that a linear layer gives the pooled feature; 0: there is no such layer

    def build(self) -> ReID:
        """The network with these weights.

        Raises:
            InputError: the weights are not those of such a network, or its embeddings have another length than the
                contract says.
        """
        try:
            with torch.device("meta"):  # no memory for the sizes that a damaged file claims
                match_state_dict(self.state, self._network().state_dict())
            model = self._network()
            model.load_state_dict(self.state)
        except (InputError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"the checkpoint's weights do not fit its own description ({on_one_line(error)})"
            ) from None
        if model.dim != self.contract.dim:
            raise InputError(f"the checkpoint's contract says dim {self.contract.dim}, its network has {model.dim}")
        return model

    def _network(self) -> ReID:
        return ReID(
            self.contract.arch,
            self.num_ids,
            last_stride=self.last_stride,
            neck=self.neck,
            feature=self.contract.feature,
            stem=self.stem,
            size=self.contract.size,
            pooling=self.pooling,
            reduced_dim=self.reduced_dim,
        )


def save(checkpoint: Checkpoint, path: str | Path) -> None:
    """Writes `checkpoint` to the file `path` atomically; the order of the arguments is that of `torch.save`.

    Raises:
        InputError: a value of its contract is out of range, so that it could not be read again.
        RunError: the file cannot be written.
    """
    from_json(checkpoint.contract.to_json(), str(path))
    fields = {**vars(checkpoint), "contract": checkpoint.contract.to_json(), "kind": KIND}
    write_atomically(Path(path), lambda temporary: torch.save(fields, temporary))


def load(path: str | Path) -> Checkpoint:
    """The checkpoint at `path`; no code in the file is run.

    Raises:
        InputError: not a checkpoint of bot_deploy, or damaged.
    """
    fields = load_tensors(path)
    if not is_checkpoint(fields):
        raise InputError(f"{path}: not a bot_deploy checkpoint; `bot train` writes model.pt")
    del fields["kind"]
    if isinstance(fields.get("contract"), str):
        fields["contract"] = from_json(fields["contract"], str(path))
    if isinstance(fields.get("data"), str):  # a file of an older version
        fields["data"] = tuple(fields["data"].split(MERGE_SEPARATOR))
    if "state" in fields:
        fields["state"] = check_tensors(fields["state"], str(path))
    optional = {"stem", "pooling", "reduced_dim"}
    return decode_fields(fields, Checkpoint, source=str(path), kind="checkpoint", remedy=REMEDY, optional=optional)


def is_checkpoint(fields: Mapping[str, object]) -> bool:
    """Whether `fields`, from `load_tensors`, are those of a checkpoint of bot_deploy."""
    kind = fields.get("kind")
    return isinstance(kind, str) and kind == KIND


def check_tensors(state: object, source: str) -> dict[str, torch.Tensor]:
    """`state` as a state dict of real, dense tensors; `source` names the file in errors.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(state, dict):
        raise InputError(f"{source}: holds a {type(state).__name__}, not a state dict")
    for key, value in state.items():
        if not isinstance(key, str):
            raise InputError(f"{source}: {str(key)[:80]} is a key that is no text; give a state dict")
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"{source}: {key[:80]} is a {type(value).__name__}, not a tensor; give a state dict, bare or under "
                "model or state_dict"
            )
        if value.is_complex() or value.is_quantized or value.layout is not torch.strided or value.is_meta:
            raise InputError(f"{source}: {key[:80]} is not a tensor of real numbers; give a state dict")
    return state


def read_contract(path: Path) -> Contract:
    """The contract in the checkpoint `path`."""
    return load(path).contract


def write_contract(path: Path, contract: Contract) -> None:
    """Replaces the contract in the checkpoint `path`; the weights stay as they are."""
    save(replace(load(path), contract=contract), path)


def load_tensors(path: str | Path) -> dict[str, Any]:
    """The dictionary in a .safetensors, .pth, .pt or compact .onnx file; no code in the file is run.

    Raises:
        PickledCodeError: the file holds more than tensors.
        InputError: no such file, or damaged.
    """
    if Path(path).exists() and not Path(path).is_file():  # a pipe would block
        raise InputError(f"{path}: not a file")
    if Path(path).suffix == ".onnx":
        from .compact_onnx import read_checkpoint

        return read_checkpoint(Path(path))
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
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise InputError(f"{path}: holds a {type(loaded).__name__}, not a state dict")
    return loaded


def contract_of(model: Parts, height: int, width: int) -> Contract:
    """The contract of `model` with its present weights, for images of `height` x `width` pixels."""
    used = {key: value for key, value in model.state_dict().items() if not key.startswith("classifier.")}
    weights = ((key, value.detach().cpu().contiguous().numpy().tobytes()) for key, value in used.items())
    return Contract(
        arch=model.arch,
        height=height,
        width=width,
        dim=model.dim,
        feature=model.feature,
        fingerprint=weights_fingerprint(weights),
        mean=model.mean,
        std=model.std,
    )
