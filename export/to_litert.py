"""Writes LiteRT files (.tflite), for phones and small boards, with Google's converter litert-torch (Apache-2.0).

litert-torch is optional and large, so it is imported inside functions.
"""

from __future__ import annotations

import contextlib
import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch

from bot_deploy.artifacts.engine_file import sidecar_path
from bot_deploy.backends.fixed_batch import in_fixed_batches
from bot_deploy.embedder import Embedder
from bot_deploy.errors import RunError, missing_package, on_one_line
from bot_deploy.telemetry import without_telemetry

from .to_onnx import silent_exporter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels
    from bot_deploy.model import InferenceGraph

LITERT_NAME = "model.tflite"


def check_litert() -> None:
    """Raises a RunError if the converter is not installed."""
    for package in ("litert_torch", "ai_edge_litert"):
        if find_spec(package) is None:
            raise missing_package(package, "litert")


def to_litert(graph: InferenceGraph, contract: Contract, path: Path) -> None:
    """Writes the complete graph: one image uint8 [1, H, W, 3] in, a unit vector float32 [1, D] out.

    The contract is beside it, in a file of the same name and .json.

    Raises:
        RunError: the converter is not installed, or cannot convert this network.
    """
    check_litert()
    image = torch.zeros(1, contract.height, contract.width, 3, dtype=torch.uint8)
    with silent_exporter(), without_telemetry(), _own_logging():
        try:
            import litert_torch

            litert_torch.convert(graph, (image,)).export(str(path))
        except ModuleNotFoundError as error:
            raise missing_package(str(error.name), "litert") from None
        except Exception as error:  # noqa: BLE001 - a compiler raises anything
            raise RunError(f"{contract.arch}: litert-torch cannot convert it ({on_one_line(error)[:300]})") from None
    sidecar_path(path).write_text(contract.to_json(), encoding="utf-8")


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    """Drops what the converter logs, and the handler that it gives the root logger, which would print lines twice."""
    handlers, disabled = logging.root.handlers[:], logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers


def open_litert(path: Path, contract: Contract) -> Embedder:
    """The file of `to_litert`, run by LiteRT on the CPU; it is not checked.

    Raises:
        RunError: LiteRT cannot open it.
    """
    with without_telemetry():
        from ai_edge_litert.interpreter import Interpreter
    try:
        interpreter = Interpreter(model_path=str(path))
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise RunError(f"{path}: LiteRT cannot open it ({on_one_line(error)})") from None
    (image,), (embedding,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(pixels: Pixels) -> Vectors:
        interpreter.set_tensor(image["index"], pixels)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(embedding["index"]), np.float32)

    return Embedder(contract, "LiteRT", in_fixed_batches(run, 1))
