"""ONNX Runtime's static quantiser: it writes a QDQ graph; which of its operations are quantised is decided here."""

from __future__ import annotations

import contextlib
import io
import logging
from inspect import signature
from typing import TYPE_CHECKING

from bot_deploy.artifacts.contract import INPUT_NAME
from bot_deploy.telemetry import without_telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bot_deploy.images import Pixels

CALIBRATION_BATCH = 32
LINEAR = "MatMul"  # linear layers; a product of two activations stays in float32
OPERATIONS = ("Conv", "Relu", "Clip", "MaxPool", LINEAR)
RESIDUAL_SUM = "Add"


def quantize(
    source: Path,
    out: Path,
    crops: Pixels,
    ranges: Path,
    float32_nodes: Sequence[str],
    *,
    residual_sums: bool,
    tensorrt: bool,
) -> None:
    """Quantises the float32 model `source` into `out`: weights per channel, activations per tensor.

    Args:
        source: the ONNX model in float32.
        out: the ONNX model in INT8.
        crops: to calibrate on, uint8 [N, H, W, 3].
        ranges: file for the calibrated ranges; the first call writes it and later calls read it.
        float32_nodes: names of nodes that stay in float32.
        residual_sums: also quantise the sums of residual blocks.
        tensorrt: symmetric int8 activations and float biases, which is all that TensorRT parses.
    """
    with without_telemetry():
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class CropReader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            starts = range(0, len(crops), CALIBRATION_BATCH)
            self.batches: Iterator[Pixels] = (crops[start : start + CALIBRATION_BATCH] for start in starts)

        def get_next(self) -> dict[str, Pixels] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT_NAME: batch}

    # Releases before 1.27 cannot keep the ranges and calibrate in every call.
    keeps_ranges = "calibration_cache_path" in signature(quantize_static).parameters
    with _silent_quantizer():
        quantize_static(
            str(source),
            str(out),
            CropReader(),
            **({"calibration_cache_path": ranges} if keeps_ranges else {}),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*OPERATIONS, *([RESIDUAL_SUM] if residual_sums else [])],
            per_channel=True,
            activation_type=QuantType.QInt8 if tensorrt else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*float32_nodes, *_products(source), *(_normalisation(source) if tensorrt else [])],
            extra_options={
                # A range is the mean over batches; the widest range of all crops would be that of an outlier.
                "CalibMovingAverage": True,
                "ActivationSymmetric": tensorrt,
                "QuantizeBias": not tensorrt,
                # The output of an activation after a convolution is quantised all the same.
                "OpTypesToExcludeOutputQuantization": [LINEAR] if residual_sums else [LINEAR, "Conv"],
            },
        )


def _normalisation(source: Path) -> list[str]:
    """The names of the nodes in `source` that add a constant, as the normalisation of the pixels does.

    In symmetric int8, the 256 grey levels would share 128 steps.
    """
    import onnx

    graph = onnx.load(str(source)).graph
    constants = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == RESIDUAL_SUM and constants & set(node.input)]


def _products(source: Path) -> list[str]:
    """The names of the nodes in `source` that multiply two activations, as attention does."""
    import onnx

    graph = onnx.load(str(source)).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == LINEAR and not weights & set(node.input)]


@contextlib.contextmanager
def _silent_quantizer() -> Iterator[None]:
    """Drops what the quantiser prints, and its log below errors: advice on preparations that the export has made.

    The quantiser logs on the root logger. Only its own records are dropped there; level and handlers stay as they are.
    """
    root = logging.getLogger()
    # Without a handler, logging.warning() would install one for good.
    placeholder = logging.NullHandler()
    root.addFilter(_is_worth_logging)
    root.addHandler(placeholder)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.removeHandler(placeholder)
        root.removeFilter(_is_worth_logging)


def _is_worth_logging(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or "onnxruntime" not in record.pathname
