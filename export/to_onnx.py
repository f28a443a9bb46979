"""The inference graph as ONNX, with its contract inside."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING

import torch

from bot_deploy.artifacts.contract import INPUT_NAME, METADATA_KEY, OUTPUT_NAME
from bot_deploy.choices import OPSET
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.model import InferenceGraph

OPSETS = range(18, 24)


def check(opset: int) -> None:
    """Raises what `to_onnx` would: an InputError for an opset that is not one of OPSETS."""
    if opset not in OPSETS:
        raise InputError(f"opset {opset}: choose from {OPSETS[0]} to {OPSETS[-1]}")


def to_onnx(graph: InferenceGraph, contract: Contract, path: Path, opset: int = OPSET) -> None:
    """Writes the complete graph: uint8 images [N, H, W, 3] in, unit vectors float32 [N, D] out, any N.

    Raises:
        InputError: not one of OPSETS.
    """
    import onnx

    check(opset)
    example = torch.zeros(2, contract.height, contract.width, 3, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            graph,
            (example,),
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            opset_version=opset,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
        )
    assert program is not None
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        part.ClearField("metadata_props")  # stack traces with the paths of the machine that exported
    onnx.helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]  # noqa: ANN202
    """The exporter prints and warns about its own workings; nothing of that is for the user."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
