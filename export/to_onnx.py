"""Writes the inference graph as an ONNX file that holds its contract."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING

import torch

from bot_deploy.artifacts.contract import INPUT_NAME, METADATA_KEY, OUTPUT_NAME
from bot_deploy.choices import OPSET
from bot_deploy.errors import InputError, RunError

from .opset import lower_opset

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import onnx

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.model import InferenceGraph

OPSETS = range(11, 24)  # versions of ONNX that can be written
OLDEST_EXPORTED = 18  # PyTorch writes no older one; what it writes is converted
MAX_FOLDED_BYTES = 1 << 16  # of a constant that the exporter computes, such as a convolution's bias of zeros


def check_opset(opset: int) -> None:
    """Raises an InputError if `opset` is not one of OPSETS."""
    if opset not in OPSETS:
        raise InputError(f"opset {opset}: choose from {OPSETS[0]} to {OPSETS[-1]}", parameter="opset")


def to_onnx(graph: InferenceGraph, contract: Contract, path: Path, opset: int = OPSET) -> None:
    """Writes the complete graph: uint8 images [N, H, W, 3] in, unit vectors float32 [N, D] out, for any N.

    Raises:
        InputError: `opset` is not one of OPSETS.
        RunError: a network that cannot be exported for any number of images.
    """
    save_with_contract(onnx_model(graph, contract, opset), contract, path)


def onnx_model(
    graph: InferenceGraph, contract: Contract, opset: int = OPSET, *, keep_batch_norm: bool = False
) -> onnx.ModelProto:
    """The model that `to_onnx` writes, without its contract.

    With `keep_batch_norm`, convolutions keep the weights of training. PyTorch's own optimiser would fold batch-norm
    into them.
    """
    check_opset(opset)
    example = torch.zeros(2, contract.height, contract.width, 3, dtype=torch.uint8)
    with silent_exporter():
        program = torch.onnx.export(
            graph,
            (example,),
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            opset_version=max(opset, OLDEST_EXPORTED),
            dynamo=True,
            optimize=not keep_batch_norm,
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
        )
        assert program is not None
        if keep_batch_norm:
            from onnxscript import optimizer

            optimizer.fold_constants(
                program.model, input_size_limit=MAX_FOLDED_BYTES, output_size_limit=MAX_FOLDED_BYTES
            )
            optimizer.remove_unused_nodes(program.model)
    model = program.model_proto
    if model.graph.input[0].type.tensor_type.shape.dim[0].dim_value:
        raise RunError(f"{contract.arch}: PyTorch exports it for one number of images alone; choose another network")
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        part.ClearField("metadata_props")  # stack traces with the paths of the machine that exported
    return lower_opset(model, opset)


def save_with_contract(model: onnx.ModelProto, contract: Contract, path: Path) -> None:
    """Writes `model` with `contract` as its only metadata, after ONNX's own check."""
    import onnx

    onnx.helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


@contextlib.contextmanager
def silent_exporter() -> Iterator[None]:
    """Drops what PyTorch's exporter prints, logs and warns about its own internals."""
    exporter_logger = logging.getLogger("torch.onnx")
    level = exporter_logger.level
    exporter_logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter_logger.setLevel(level)
