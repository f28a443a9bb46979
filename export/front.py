"""Gives an exported graph another front: other programs feed floats where our graph takes bytes.

The network and its weights stay as they are, so that the file holds the embedding space of the file it is made from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bot_deploy.artifacts.contract import INPUT_NAME, OUTPUT_NAME
from bot_deploy.choices import INPUT_LAYOUTS, INPUT_RANGES, MEAN, STD
from bot_deploy.errors import InputError

from .opset import drop_unused_constants

if TYPE_CHECKING:
    import onnx

TO_NHWC, TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]


@dataclass(frozen=True)
class Front:
    """What a graph takes and gives; the default is that of model.onnx."""

    layout: str = INPUT_LAYOUTS[0]  # one of choices.INPUT_LAYOUTS; the channels are in RGB order
    pixel_range: str = INPUT_RANGES[0]  # one of choices.INPUT_RANGES
    batch: int | None = None  # number of images; None for any
    unit_length: bool = True  # whether embeddings have length 1

    @property
    def is_ours(self) -> bool:
        """Whether `bot` can open the file: uint8 [N, H, W, 3] in, unit vectors out."""
        return self.layout == INPUT_LAYOUTS[0] and self.unit_length


def with_front(model: onnx.ModelProto, front: Front) -> onnx.ModelProto:
    """A copy of `model`, a complete graph of `bot export` or `bot wrap`, with another front.

    Raises:
        InputError: the graph has no place for it.
    """
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    del graph.value_info[:]  # shapes of the old batch size
    if front.layout == "float-nchw":
        _take_floats(graph, front.pixel_range)
    if not front.unit_length:
        _drop_normalization(graph)
    _name_kernel_shapes(graph)
    for value in (*graph.input, *graph.output):
        if front.batch and value.name in {INPUT_NAME, OUTPUT_NAME}:
            value.type.tensor_type.shape.dim[0].dim_value = front.batch
    return changed


def _take_floats(graph: onnx.GraphProto, pixel_range: str) -> None:
    """Puts float32 [N, 3, H, W] in place of uint8 [N, H, W, 3]; the new nodes give pixels from 0 to 255."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = list(graph.node)
    first = [node for node in nodes if INPUT_NAME in node.input]
    if not first or any(node.op_type != "Cast" for node in first):
        raise InputError("the network takes integers, so it cannot be fed floats", parameter="input")
    scale, offset = _to_pixels(pixel_range)
    new, planes = [], INPUT_NAME
    for operator, name, values in (("Mul", "scale", scale), ("Add", "offset", offset)):
        if values is not None:
            graph.initializer.append(numpy_helper.from_array(values, f"input/{name}"))
            new.append(helper.make_node(operator, [planes, f"input/{name}"], [f"input/{operator}"]))
            planes = f"input/{operator}"
    # A transpose of the graph that undoes ours goes with it.
    pixels = "input/pixels"
    for cast in first:
        after = [node for node in nodes if cast.output[0] in node.input]
        if after and all(node.op_type == "Transpose" and _permutation(node) == TO_NCHW for node in after):
            renamed = {node.output[0]: planes for node in after}
            nodes = [node for node in nodes if node is not cast and node not in after]
            for node in nodes:
                node.input[:] = [renamed.get(name, name) for name in node.input]
        else:
            cast.input[0] = pixels
    if any(pixels in node.input for node in nodes):
        new.append(helper.make_node("Transpose", [planes], [pixels], perm=TO_NHWC))
    del graph.node[:]
    graph.node.extend([*new, *nodes])
    (images,) = (value for value in graph.input if value.name == INPUT_NAME)
    tensor = images.type.tensor_type
    tensor.elem_type = TensorProto.FLOAT
    batch, height, width, channels = (_copy(dim) for dim in tensor.shape.dim)
    del tensor.shape.dim[:]
    tensor.shape.dim.extend([batch, channels, height, width])


def _to_pixels(pixel_range: str) -> tuple[Any, Any]:
    """Scale and offset [1, 3, 1, 1] from numbers in `pixel_range` to pixels from 0 to 255; None for no change."""
    if pixel_range == "0-255":
        return None, None
    if pixel_range == "0-1":
        return np.array(255, np.float32), None
    scale, offset = (255 * np.array(values, np.float64).reshape(1, 3, 1, 1) for values in (STD, MEAN))
    return scale.astype(np.float32), offset.astype(np.float32)


def _drop_normalization(graph: onnx.GraphProto) -> None:
    """Ends the graph at the vectors that its last node divides by their length."""
    last = next((node for node in graph.node if OUTPUT_NAME in node.output), None)
    if last is None or last.op_type != "Div":
        raise InputError("the graph does not end with the division by the length", parameter="no_unit")
    last.op_type = "Identity"
    del last.input[1:]
    while unused := [node for node in graph.node if not _is_used(graph, node)]:
        for node in unused:
            graph.node.remove(node)
    drop_unused_constants(graph)


def _name_kernel_shapes(graph: onnx.GraphProto) -> None:
    """Gives each convolution the attribute kernel_shape, which ONNX does not ask for but OpenCV 4.10 does."""
    from onnx import helper

    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in {"Cast", "DequantizeLinear"} and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
        elif node.op_type == "Conv" and all(attribute.name != "kernel_shape" for attribute in node.attribute):
            weights = shapes.get(node.input[1])
            if weights:
                node.attribute.append(helper.make_attribute("kernel_shape", weights[2:]))


def _is_used(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    names = set(node.output)
    return OUTPUT_NAME in names or any(names & set(other.input) for other in graph.node)


def _permutation(node: onnx.NodeProto) -> list[int]:
    return next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), [])


def _copy(dim: Any) -> Any:
    copied = type(dim)()
    copied.CopyFrom(dim)
    return copied
