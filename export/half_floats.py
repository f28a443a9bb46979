"""The float part of an INT8 graph in FP16, for TensorRT, which computes in the types that the graph has.

Layers, what follows them, and the scales of the quantisation become FP16. Normalisation, pooling, neck and length stay
in float32, as in `fp16`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

OPSET = 19  # the oldest with FP16 scales
LAYERS = ("Conv", "MatMul", "Gemm")
# They sum up two numbers at most; where all that they take is FP16, so is their result.
FOLLOWERS = ("Add", "Clip", "Concat", "HardSigmoid", "HardSwish", "LeakyRelu", "MaxPool", "Mul", "Relu", "Sigmoid")
MIN_SCALE = 2.0**-17  # FP16 has 128 steps below it, and INT8 has 127


def halve_floats(model: onnx.ModelProto) -> onnx.ModelProto:
    """The INT8 `model`, in QDQ form, with a float part that computes in FP16."""
    from onnx import helper, numpy_helper, version_converter

    if model.opset_import[0].version < OPSET:
        model = version_converter.convert_version(model, OPSET)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    _round_scales(model.graph, constants)
    typed = _TypedGraph(constants)
    for node in model.graph.node:
        typed.add(node)
    used = {name for node in typed.nodes for name in node.input}
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used]
    graph = helper.make_graph(typed.nodes, model.graph.name, model.graph.input, model.graph.output, tensors)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _round_scales(graph: onnx.GraphProto, constants: dict[str, npt.NDArray[Any]]) -> None:
    """Rounds the scales in `constants` to numbers of FP16, and the quantised weights to the new steps.

    A value is so quantised and dequantised by one scale, even where one of the two is in float32.
    """
    rounded = set()
    for node in graph.node:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"} or node.input[1] in rounded:
            continue
        values, name = constants.get(node.input[0]), node.input[1]
        old = constants[name]
        constants[name] = np.maximum(old, MIN_SCALE).astype(np.float16).astype(np.float32)
        rounded.add(name)
        if values is not None:
            change = old / constants[name]
            if change.ndim:  # one scale for each channel
                axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
                change = np.expand_dims(change, [other for other in range(values.ndim) if other != axis % values.ndim])
            constants[node.input[0]] = np.rint(values * change).clip(-127, 127).astype(values.dtype)


class _TypedGraph:
    """The nodes of a graph, each in the type that it shall compute in, and casts between them."""

    def __init__(self, constants: dict[str, npt.NDArray[Any]]) -> None:
        self.constants = constants  # those in FP16 are added
        self.weights = set(constants)  # and what is dequantised from them
        self.halves: set[str] = set()  # values in FP16
        self.nodes: list[onnx.NodeProto] = []
        self.casts: set[str] = set()

    def add(self, node: onnx.NodeProto) -> None:
        """Takes the next `node`."""
        half = self._computes_in_fp16(node)
        first = 1 if node.op_type == "DequantizeLinear" else 0  # its first input is INT8
        inputs = [*node.input[:first], *(self._typed(name, half=half) for name in node.input[first:])]
        if node.op_type == "DequantizeLinear" and node.input[0] in self.weights:
            self.weights.update(node.output)
        node.ClearField("input")
        node.input.extend(inputs)
        self.nodes.append(node)
        if half and node.op_type != "QuantizeLinear":
            self.halves.update(node.output)

    def _computes_in_fp16(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "DequantizeLinear":
            return True
        if node.op_type == "QuantizeLinear":
            return node.input[0] in self.halves
        if node.op_type in LAYERS:
            return node.input[1] in self.weights  # a product of two activations stays in float32
        values = {name for name in node.input if name and name not in self.constants}
        return node.op_type in FOLLOWERS and bool(values) and values <= self.halves

    def _typed(self, name: str, *, half: bool) -> str:
        """The name of the value `name` in FP16 or in float32; a constant that is no float stays as it is."""
        from onnx import TensorProto, helper

        other = f"{name}.fp16" if half else f"{name}.fp32"
        if name in self.constants:
            if not half or self.constants[name].dtype != np.float32:
                return name
            with np.errstate(over="ignore"):  # whoever takes the graph compares its embeddings
                self.constants.setdefault(other, self.constants[name].astype(np.float16))
            return other
        if not name or half == (name in self.halves):
            return name
        if other not in self.casts:
            target = TensorProto.FLOAT16 if half else TensorProto.FLOAT
            self.nodes.append(helper.make_node("Cast", [name], [other], to=target))
            self.casts.add(other)
        return other
