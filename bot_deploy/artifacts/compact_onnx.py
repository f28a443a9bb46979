"""A compact ONNX file is a checkpoint too: its convolutions hold the weights of training, stored in FP16.

Its batch-norm is not folded, its tensors have the names of the state dict, and its metadata hold what builds the
network. `bot_deploy.export.compact` writes it.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from bot_deploy.errors import InputError, on_one_line

from .contract import METADATA_KEY, from_json
from .onnx_file import read_metadata

if TYPE_CHECKING:
    from pathlib import Path

NETWORK_KEY = "bot_deploy.network"  # in the metadata: JSON with the fields of NETWORK_FIELDS
NETWORK_FIELDS = ("last_stride", "neck", "stem")  # of a Checkpoint
STATE_PREFIXES = ("backbone.", "neck.")  # in the state dict of model.ReID, what inference uses


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The fields of the checkpoint in the compact ONNX file `path`, as in a .pt; its classifier is of zeros.

    Raises:
        InputError: damaged, or not compact: an ordinary export, whose batch-norm is folded into its weights.
    """
    import onnx
    import torch

    from .checkpoint import KIND

    entries = read_metadata(path)
    if NETWORK_KEY not in entries or METADATA_KEY not in entries:
        raise InputError(f"{path}: an exported model, whose batch-norm is folded; name the checkpoint, model.pt")
    contract = from_json(entries[METADATA_KEY], str(path))
    try:
        network = json.loads(entries[NETWORK_KEY])
        graph = onnx.load(str(path), load_external_data=False).graph
        state = {
            tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()).float()
            for tensor in graph.initializer
            if tensor.name.startswith(STATE_PREFIXES)
        }
        state["classifier.weight"] = torch.zeros(1, contract.dim)
        if network["neck"] == "none":
            state["classifier.bias"] = torch.zeros(1)
        return {
            **{name: network[name] for name in NETWORK_FIELDS},
            "kind": KIND,
            "contract": dataclasses.replace(contract, calibration=None).to_json(),  # it belongs to this file alone
            "state": state,
            "num_ids": 1,
            "data": (),
        }
    except Exception as error:  # noqa: BLE001 - damaged files raise anything, from Protocol Buffers, numpy and torch
        raise InputError(f"{path}: not a readable model ({on_one_line(error)[:200]})") from None
