"""Writes a compact ONNX file: half the size, runs as fast as an ordinary export, and training can start from it.

`benchmarks/box.py` makes the built-in model with it; `bot export` does not write such files.

Large convolutions are stored in FP16, and a Cast behind each makes float32 of them. Batch-norm is not folded. Runtimes
do both when they load the file (ONNX Runtime's constant folding and its fusion of convolution and batch-norm), so that
everything computes in float32.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import torch

from bot_deploy.artifacts.checkpoint import contract_of
from bot_deploy.artifacts.compact_onnx import NETWORK_FIELDS, NETWORK_KEY, STATE_PREFIXES
from bot_deploy.artifacts.contract import METADATA_KEY
from bot_deploy.artifacts.state_dict import COUNTER
from bot_deploy.errors import InputError
from bot_deploy.model import InferenceGraph

from .to_onnx import onnx_model

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.artifacts.checkpoint import Checkpoint

CAST_SUFFIX = "_float32"
MIN_RANK = 2  # of tensors that are stored in FP16: weights, not the vectors of batch-norm
# Smaller tensors, of the first layers and of depthwise convolutions, stay in float32. That takes 0.25 MB in the
# built-in model, whose smallest cosine with the float32 weights rises from 0.9989 to 0.999999.
MIN_ELEMENTS = 1 << 14


def round_weights(checkpoint: Checkpoint) -> Checkpoint:
    """`checkpoint` with the weights of its backbone rounded to FP16, and the fingerprint of what the file will hold."""
    state = {key: value.half().float() if _is_rounded(key, value) else value for key, value in checkpoint.state.items()}
    # The graph has no counters of batch-norm, and inference does not use them, but the fingerprint counts them.
    state |= {key: torch.zeros_like(value) for key, value in state.items() if key.endswith(COUNTER)}
    rounded = dataclasses.replace(checkpoint, state=state)
    contract = checkpoint.contract
    fingerprint = contract_of(rounded.build(), contract.height, contract.width).fingerprint
    return dataclasses.replace(rounded, contract=dataclasses.replace(contract, fingerprint=fingerprint))


def write_compact(checkpoint: Checkpoint, path: Path) -> None:
    """Writes the network of `checkpoint`, whose weights `round_weights` rounded, to the ONNX file `path`.

    Raises:
        InputError: the exported graph does not hold every tensor of the network as it is.
    """
    import onnx

    if checkpoint.pooling != "average" or checkpoint.reduced_dim:
        raise InputError("a network with GeM or a reduced embedding cannot be stored so")

    model = onnx_model(
        InferenceGraph(checkpoint.build(), checkpoint.contract).eval(), checkpoint.contract, keep_batch_norm=True
    )
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    used = {key: value for key, value in checkpoint.state.items() if _is_used(key)}
    lost = [key for key, value in used.items() if key not in tensors or tuple(tensors[key].dims) != value.shape]
    if lost:
        raise InputError(f"{checkpoint.contract.arch} cannot be stored so: its graph lacks {', '.join(lost[:3])}")
    casts = []
    for key, value in used.items():
        if _is_rounded(key, value):
            tensors[key].CopyFrom(onnx.numpy_helper.from_array(value.half().numpy(), key))
            casts.append(onnx.helper.make_node("Cast", [key], [key + CAST_SUFFIX], to=onnx.TensorProto.FLOAT))
    cast_keys = {cast.input[0] for cast in casts}
    for node in model.graph.node:
        node.input[:] = [name + CAST_SUFFIX if name in cast_keys else name for name in node.input]
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    network = {name: getattr(checkpoint, name) for name in NETWORK_FIELDS}
    properties = {METADATA_KEY: checkpoint.contract.to_json(), NETWORK_KEY: json.dumps(network)}
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _is_used(key: str) -> bool:
    return key.startswith(STATE_PREFIXES) and not key.endswith(COUNTER)


def _is_rounded(key: str, value: torch.Tensor) -> bool:
    return _is_used(key) and value.dim() >= MIN_RANK and value.numel() >= MIN_ELEMENTS
