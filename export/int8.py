"""The backbone in INT8 by post-training quantisation, calibrated on real crops.

Sensitive layers stay in float32. Graphs with a growing number of such layers are tried until the embeddings are close
to the float32 model's.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from bot_deploy.artifacts.contract import INPUT_NAME, OUTPUT_NAME
from bot_deploy.sampling import evenly_spread
from bot_deploy.telemetry import without_telemetry

from .half_floats import halve_floats
from .quantizer import quantize
from .sensitivity import embedding_costs, run_with
from .to_onnx import save_with_contract

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import onnx
    from torch import Tensor

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels
    from bot_deploy.model import InferenceGraph

    from .sensitivity import Layer

logger = logging.getLogger(__name__)

IMAGES_PER_RUN = 32
MAX_EVALUATION_CROPS = 64  # crops that a graph is evaluated on here; the parity check uses others
RANKING_CROPS = 32  # of these, the crops that layers are ranked on
MEAN_CROPS = 256  # crops that the mean error is measured on
# Cosines with float32 on the evaluation crops. A mean of 0.993 has cost 0.7 points of mAP, a mean of 0.997 0.2 points.
MIN_COSINE, MIN_MEAN_COSINE = 0.985, 0.997
MAX_FP16_COST = 0.001  # of the mean cosine, for a float part in FP16


@dataclass(frozen=True)
class Attempt:
    """What one graph quantises."""

    residual_sums: bool  # also the sums of residual blocks
    float32_layers: int  # number of layers that stay in float32, the most sensitive ones

    def describe(self) -> str:
        residual_sums = "INT8" if self.residual_sums else "float32"
        return f"residual sums in {residual_sums} and {self.float32_layers} layers in float32"


# From the fastest graph to the most accurate.
ATTEMPTS = (
    Attempt(residual_sums=True, float32_layers=0),
    *(Attempt(residual_sums=False, float32_layers=count) for count in (0, 2, 4, 6, 8, 12, 16)),
)


def to_int8(
    source: Path, out: Path, graph: InferenceGraph, contract: Contract, crops: Pixels, *, tensorrt: bool = False
) -> list[str]:
    """Quantises `source`, the float32 model of `graph`, into `out`.

    Args:
        source: the ONNX model in float32.
        out: the ONNX model in INT8; weights are quantised per channel.
        graph: the same model in PyTorch.
        contract: the contract of the INT8 model.
        crops: to calibrate and to evaluate on, uint8 [N, H, W, 3].
        tensorrt: symmetric int8 activations and float biases, which is all that TensorRT parses, and FP16 where it is
            close enough in what is not quantised, because TensorRT computes in the types of the graph.

    Returns:
        The names of the layers that are not quantised, in the order of the graph.
    """
    import onnx

    reference = _Float32Model.open(source, graph, crops)
    ranked: list[str] = []  # layers, the most sensitive first
    float32_layers: list[str] = []
    mean = 0.0
    with tempfile.TemporaryDirectory() as folder:
        ranges = Path(folder) / "ranges.json"
        for attempt in ATTEMPTS:
            if attempt.float32_layers and not ranked:
                ranking_crops = _every_nth(reference.evaluation_crops, RANKING_CROPS)
                ranked = _rank_layers(graph, reference.layer_nodes, ranking_crops)
            float32_layers = ranked[: attempt.float32_layers]
            nodes = [reference.layer_nodes[name] for name in float32_layers]
            quantize(source, out, crops, ranges, nodes, residual_sums=attempt.residual_sums, tensorrt=tensorrt)
            if reference.neck:
                _remove_mean_error(out, reference.neck)
            lowest, mean = _compare(out.read_bytes(), reference, attempt.describe())
            if lowest >= MIN_COSINE and mean >= MIN_MEAN_COSINE:
                break
    model = onnx.load(str(out))
    if tensorrt:
        halved = halve_floats(model)
        _, halved_mean = _compare(halved.SerializeToString(), reference, "its float part in FP16")
        if halved_mean >= mean - MAX_FP16_COST:  # not for a NaN
            model = halved
        else:
            logger.warning("the float part of the INT8 engine stays in float32, because FP16 is too coarse for it")
    save_with_contract(model, contract, out)
    return [name for name in reference.layer_nodes if name in float32_layers]


# ---- the float32 model ----


@dataclass(frozen=True)
class _Neck:
    """BNNeck in the graph, and the mean of its outputs in float32."""

    shift: str  # name of its shift in the file
    output: str  # name of its output in the graph
    crops: Pixels  # that the mean is taken over
    mean: Vectors  # [D]


@dataclass(frozen=True)
class _Float32Model:
    """The float32 model that every attempt starts from and is compared with."""

    layer_nodes: dict[str, str]  # name of a layer in the backbone -> name of its node in the graph
    neck: _Neck | None  # None for the feature before the neck
    evaluation_crops: Pixels
    embeddings: Vectors  # of `evaluation_crops`, [N, D]

    @classmethod
    def open(cls, path: Path, graph: InferenceGraph, crops: Pixels) -> _Float32Model:
        import onnx

        model = onnx.load(str(path)).graph
        rows = evenly_spread(len(crops), MAX_EVALUATION_CROPS)
        return cls(
            layer_nodes=_find_layers(model, graph),
            neck=_find_neck(path, model.node, _every_nth(crops, MEAN_CROPS)),
            evaluation_crops=crops[rows],
            embeddings=_compute(path.read_bytes(), OUTPUT_NAME, crops[rows]),
        )


def _find_layers(model: onnx.GraphProto, graph: InferenceGraph) -> dict[str, str]:
    """The nodes of the graph that are layers of the backbone.

    A convolution keeps the name of its weights. Those of a linear layer are transposed and named anew, so their values
    are compared.
    """
    from onnx import numpy_helper

    arrays = {tensor.name: tensor for tensor in model.initializer}
    linear = {
        module.weight.detach().numpy().T.tobytes(): name
        for name, module in graph.backbone.named_modules()
        if isinstance(module, nn.Linear)
    }
    nodes: dict[str, str] = {}
    for node in model.node:
        if node.op_type == "Conv":
            nodes[node.input[1].removeprefix("backbone.").removesuffix(".weight")] = node.name
        elif linear and node.op_type == "MatMul" and node.input[1] in arrays:
            name = linear.get(numpy_helper.to_array(arrays[node.input[1]]).tobytes())
            if name:
                nodes[name] = node.name
    return nodes


def _find_neck(path: Path, nodes: Sequence[onnx.NodeProto], crops: Pixels) -> _Neck | None:
    for node in nodes:
        if node.op_type == "BatchNormalization" and node.input[2].startswith("neck."):  # IBN-a has such nodes too
            shift, output = node.input[2], node.output[0]
            return _Neck(shift, output, crops, _compute_inner(path, output, crops).mean(0))
    return None


# ---- the steps of an attempt ----


def _rank_layers(graph: InferenceGraph, names: Collection[str], crops: Pixels) -> list[str]:
    """The layers `names` by their cost to the embeddings in INT8 for each of their weights, the most costly first.

    The cost is divided by the number of weights. A late layer of MobileNetV2 is half of the file: in float32 it loses
    most of what INT8 saves, and it gains no more accuracy than a small early layer.
    """
    costs = embedding_costs(graph, crops, _imitate_int8)
    sizes = {name: weights.numel() for name, weights in graph.backbone.named_parameters()}
    ranked = [name for name in costs if name in names]
    return sorted(ranked, key=lambda name: -costs[name] / sizes[f"{name}.weight"])


def _imitate_int8(layer: Layer, features: Tensor) -> Tensor:
    low, high = features.min().clamp(max=0), features.max().clamp(min=0)
    step = (high - low).clamp(min=1e-12) / 255
    inner = tuple(range(1, layer.weight.ndim))
    weight_steps = layer.weight.abs().amax(dim=inner, keepdim=True).clamp(min=1e-12) / 127
    weights = torch.round(layer.weight / weight_steps) * weight_steps
    return run_with(layer, torch.round(features / step) * step, weights, layer.bias)


def _remove_mean_error(path: Path, neck: _Neck) -> None:
    """Subtracts from BNNeck's shift the error that quantisation adds to all crops alike."""
    import onnx
    from onnx import numpy_helper

    correction = neck.mean - _compute_inner(path, neck.output, neck.crops).mean(0)
    model = onnx.load(str(path))
    shift = next(tensor for tensor in model.graph.initializer if tensor.name == neck.shift)
    shift.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(shift) + correction, neck.shift))
    onnx.save(model, str(path))


def _compare(model: bytes, reference: _Float32Model, variant: str) -> tuple[float, float]:
    """The lowest and the mean cosine between embeddings of the INT8 `model` and those in float32."""
    with np.errstate(invalid="ignore"):  # FP16 can overflow
        cosines = (_compute(model, OUTPUT_NAME, reference.evaluation_crops) * reference.embeddings).sum(1)
    lowest, mean = float(cosines.min()), float(cosines.mean())
    logger.info(f"INT8 with {variant}: min cosine {lowest:.4f}, mean cosine {mean:.4f}")
    return lowest, mean


# ---- running a graph ----


def _compute_inner(path: Path, name: str, crops: Pixels) -> Vectors:
    """The value `name` inside the graph for `crops`, [N, D]."""
    import onnx

    model = onnx.load(str(path))
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return _compute(model.SerializeToString(), name, crops)


def _compute(model: bytes, output: str, crops: Pixels) -> Vectors:
    """The output `output` for `crops`, [N, D], computed as the graph is written.

    The optimiser is off, because it replaces operations by faster ones of this CPU.
    """
    with without_telemetry():
        import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    batches = [crops[start : start + IMAGES_PER_RUN] for start in range(0, len(crops), IMAGES_PER_RUN)]
    return np.concatenate([session.run([output], {INPUT_NAME: batch})[0] for batch in batches])


def _every_nth(crops: Pixels, count: int) -> Pixels:
    """About `count` of `crops`, evenly spread."""
    return crops[:: max(1, len(crops) // count)]
