"""The backbone in INT8 by post-training quantisation, calibrated on real crops; what suffers stays in float32.

logger = logging.getLogger(__name__)

ONNX Runtime's quantiser writes the QDQ graph; what it may touch is decided here.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from bot_deploy.artifacts.contract import INPUT_NAME, METADATA_KEY, OUTPUT_NAME

from .sensitivity import embedding_costs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels
    from bot_deploy.model import InferenceGraph

logger = logging.getLogger(__name__)

BATCH = 32
PROBE = 64  # crops that the result is judged on here; parity then judges others
WORST, MEAN = 0.985, 0.997  # cosines on them; a mean of 0.993 has cost 0.7 points of mAP, one of 0.997 0.2
RANKED = 32  # crops that the layers are ranked by
CENTRE = 256  # crops that the mean error is taken on
TYPES = ("Conv", "Relu", "Clip", "MaxPool")
# What is tried in turn: whether sums of residuals are INT8 too, and how many sensitive layers stay in float32.
ATTEMPTS = ((True, 0), (False, 0), *((False, count) for count in (2, 4, 6, 8, 12, 16)))


def to_int8(
    source: Path, out: Path, graph: InferenceGraph, contract: Contract, crops: Pixels, *, tensorrt: bool = False
) -> list[str]:
    """Quantises `source`, the float32 model of `graph`, into `out`, calibrated on `crops` uint8 [N, H, W, 3].

    Per channel; activations are uint8. For `tensorrt` they are symmetric int8 and biases stay float, which is all
    that it parses.

    Returns:
        The names of the convolutions left in float32, because with them quantised embeddings moved too far.
    """
    import onnx

    nodes = onnx.load(str(source)).graph.node
    convs = {
        node.input[1].removeprefix("backbone.").removesuffix(".weight"): node.name
        for node in nodes
        if node.op_type == "Conv"
    }
    norms = [node for node in nodes if node.op_type == "BatchNormalization"]  # IBN has some too
    neck = next((node for node in norms if node.input[2].startswith("neck.")), None)  # None: ft is exported
    probe = crops[np.linspace(0, len(crops) - 1, min(PROBE, len(crops))).astype(int)]
    expected = _embed(source, probe)
    spread = crops[:: max(1, len(crops) // CENTRE)]
    centre = _values(source, neck.output[0], spread).mean(0) if neck else None
    sensitive: list[str] = []
    kept: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        ranges = Path(folder) / "ranges.json"
        for residuals, count in ATTEMPTS:
            if count and not sensitive:
                sensitive = _sensitive(graph, probe[:: max(1, len(probe) // RANKED)])
            kept = sensitive[:count]
            _quantise(
                source, out, crops, ranges, [convs[name] for name in kept], residuals=residuals, tensorrt=tensorrt
            )
            if neck:
                _shift(out, neck.input[2], centre - _values(out, neck.output[0], spread).mean(0))
            cosines = (_embed(out, probe) * expected).sum(1)
            worst, mean = float(cosines.min()), float(cosines.mean())
            which = "residuals in float32" if not residuals else "residuals too"
            logger.info(
                f"INT8, {which}, {len(kept)} layers in float32: cosine {worst:.4f} at worst, {mean:.4f} in the mean"
            )
            if worst >= WORST and mean >= MEAN:
                break
    quantised = onnx.load(str(out))
    onnx.helper.set_model_props(quantised, {METADATA_KEY: contract.to_json()})
    onnx.checker.check_model(quantised)
    onnx.save(quantised, str(out))
    return [name for name in convs if name in kept]


def _sensitive(graph: InferenceGraph, crops: Pixels) -> list[str]:
    """The convolutions by what they cost the embeddings in INT8 for each of their weights, most first.

    For each weight, because a large layer in float32 takes back what INT8 saves: a late one of MobileNetV2 is half
    of the file, and wins no more than a small early one.
    """
    found = embedding_costs(graph, crops, _in_int8)
    sizes = {name: weights.numel() for name, weights in graph.backbone.named_parameters()}
    return sorted(found, key=lambda name: -found[name] / sizes[f"{name}.weight"])


def _in_int8(conv: nn.Conv2d, features: Tensor) -> Tensor:
    least, most = features.min().clamp(max=0), features.max().clamp(min=0)
    step = (most - least).clamp(min=1e-12) / 255
    steps = conv.weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12) / 127
    rounded = torch.round(features / step) * step
    output: Tensor = conv._conv_forward(rounded, torch.round(conv.weight / steps) * steps, conv.bias)  # noqa: SLF001
    return output


def _quantise(
    source: Path, out: Path, crops: Pixels, ranges: Path, kept: Sequence[str], *, residuals: bool, tensorrt: bool
) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Crops(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Pixels] = (crops[start : start + BATCH] for start in range(0, len(crops), BATCH))

        def get_next(self) -> dict[str, Pixels] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT_NAME: batch}

    # Written by the first call, read by the others; releases before 1.27 take the ranges anew each time.
    known = "calibration_cache_path" in signature(quantize_static).parameters
    with _quiet():
        quantize_static(
            str(source),
            str(out),
            Crops(),
            **({"calibration_cache_path": ranges} if known else {}),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*TYPES, *(["Add"] if residuals else [])],
            per_channel=True,
            activation_type=QuantType.QInt8 if tensorrt else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(kept),
            extra_options={
                # Ranges are the means over batches: the widest of all crops would be an outlier's.
                "CalibMovingAverage": True,
                "ActivationSymmetric": tensorrt,
                "QuantizeBias": not tensorrt,
                # Of a convolution before an activation, that of the activation is quantised all the same.
                "OpTypesToExcludeOutputQuantization": [] if residuals else ["Conv"],
            },
        )


def _shift(path: Path, name: str, by: Vectors) -> None:
    """Adds `by` [D] to BNNeck's shift `name`: what quantisation adds to every crop alike is taken back there."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    shift = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    shift.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(shift) + by, name))
    onnx.save(model, str(path))


def _values(path: Path, name: str, crops: Pixels) -> Vectors:
    """What the graph's value `name` is on `crops`, [N, D]."""
    import onnx

    model = onnx.load(str(path))
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return _run(model.SerializeToString(), name, crops)


def _embed(path: Path, crops: Pixels) -> Vectors:
    return _run(path.read_bytes(), OUTPUT_NAME, crops)


def _run(model: bytes, output: str, crops: Pixels) -> Vectors:
    """Without the optimiser: it would replace what is written by what is fast on this CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    batches = [crops[start : start + BATCH] for start in range(0, len(crops), BATCH)]
    return np.concatenate([session.run([output], {INPUT_NAME: batch})[0] for batch in batches])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser logs advice on preparations that the export has made already."""
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
