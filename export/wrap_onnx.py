"""ONNX models of other toolkits: opened as they are, and written with preprocessing and L2 normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bot_deploy.artifacts import onnx_file
from bot_deploy.artifacts.contract import INPUT_NAME, METADATA_KEY, OUTPUT_NAME
from bot_deploy.backends.onnxruntime import open_session
from bot_deploy.errors import InputError, RunError, on_one_line

from .wrap import choose_output, find_input_shape

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.embedder import Vectors

    from .wrap import Preprocessing

PREFIX = "wrapped/"  # of all names in the original graph; many call their input "images", as we do
MIN_OPSET = 8  # the first in which multiplication broadcasts as in numpy, with a maximum of several tensors
REDUCE_AXES_AS_INPUT = 18  # opset from which ReduceL2 takes its axes as an input
INT8_OPERATORS = {"QuantizeLinear", "QLinearConv", "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear"}
BATCH_NAME = "N"


def open_foreign(source: Path, output: str | None) -> ForeignOnnx:
    """The ONNX model at `source`.

    Raises:
        InputError: not ONNX, a model file of ours, no image input, or no such output.
        RunError: ONNX Runtime is not installed.
    """
    if METADATA_KEY in onnx_file.read_metadata(source):  # also refuses weights outside the model's folder
        raise InputError(f"{source}: has a contract already; use it as it is")
    return ForeignOnnx(source, output)


class ForeignOnnx:
    """An ONNX model, as `wrap.ForeignModel`."""

    def __init__(self, source: Path, output: str | None) -> None:
        import onnx

        self.source = source
        try:
            self.model = onnx.load(str(source))
            onnx.checker.check_model(str(source))
        except Exception as error:  # noqa: BLE001 - protobuf, checker and file system have no common base
            raise InputError(f"{source}: not a usable ONNX model ({on_one_line(error)[:200]})") from None
        graph = self.model.graph
        self.opset = max(entry.version for entry in self.model.opset_import if entry.domain in {"", "ai.onnx"})
        if self.opset < MIN_OPSET:
            raise InputError(
                f"{source}: opset {self.opset}; convert it to {MIN_OPSET} or newer (onnx.version_converter)"
            )
        constants = {tensor.name for tensor in graph.initializer}
        self.inputs = [value for value in graph.input if value.name not in constants]
        dims = _dims(self.inputs[0]) if self.inputs else None
        self.input_shape = find_input_shape([value.name for value in self.inputs], dims, source)
        self.output = graph.output[choose_output([value.name for value in graph.output], output, source)].name
        self.input_type = self.inputs[0].type.tensor_type.elem_type
        types = onnx.TensorProto
        if self.input_type not in {types.FLOAT, types.FLOAT16, types.DOUBLE, types.UINT8}:
            raise InputError(
                f"{source}: its input is {types.DataType.Name(self.input_type)}; floats or uint8 can be wrapped"
            )
        self.precision = self._find_precision()
        self.weights = [("model", self.model.SerializeToString(deterministic=True))]
        self.session = open_session(source, "cpu", 0)

    def run(self, values: npt.NDArray[np.float32]) -> Vectors:
        """The output for one batch."""
        import onnx

        dtype = onnx.helper.tensor_dtype_to_np_dtype(self.input_type)
        try:
            result = self.session.run([self.output], {self.inputs[0].name: values.astype(dtype)})[0]
        except Exception as error:  # noqa: BLE001 - its error classes have no common base but Exception
            raise RunError(f"{self.source}: ONNX Runtime failed ({on_one_line(error)[:200]})") from None
        return np.asarray(result, np.float32)

    def write(self, path: Path, preprocessing: Preprocessing, contract: Contract, *, free_batch: bool) -> None:
        """Writes one graph with preprocessing, network and normalisation."""
        import onnx

        if self.input_type == onnx.TensorProto.UINT8 and not preprocessing.is_identity:
            raise InputError(
                f"{self.source}: takes uint8, so it has no place for range, mean and std", parameter="mean"
            )
        model = onnx.compose.add_prefix(self.model, PREFIX)
        graph = model.graph
        batch = self.input_shape.batch
        if free_batch and batch is not None:
            _free_reshapes(graph, batch)
            batch = None
        del graph.value_info[:]  # shapes of the old batch size
        first = list(graph.node)
        images = onnx.helper.make_tensor_value_info(
            INPUT_NAME, onnx.TensorProto.UINT8, [batch or BATCH_NAME, *contract.size, 3]
        )
        vectors = onnx.helper.make_tensor_value_info(
            OUTPUT_NAME, onnx.TensorProto.FLOAT, [batch or BATCH_NAME, contract.dim]
        )
        front, front_constants = self._front(preprocessing, PREFIX + self.inputs[0].name)
        back, back_constants = self._back(PREFIX + self.output)
        del graph.node[:]
        graph.node.extend([*front, *first, *back])
        graph.initializer.extend([*front_constants, *back_constants])
        kept = [value for value in graph.input if value.name != PREFIX + self.inputs[0].name]
        del graph.input[:]
        graph.input.extend([images, *kept])
        del graph.output[:]
        graph.output.append(vectors)
        onnx.helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError as error:
            raise InputError(f"{self.source}: cannot be wrapped ({on_one_line(error)[:200]})") from None
        onnx.save(model, str(path))

    def _front(self, preprocessing: Preprocessing, end: str) -> tuple[list[Any], list[Any]]:
        """Nodes and constants from `INPUT_NAME` to the tensor `end`, the network's input."""
        from onnx import TensorProto, helper, numpy_helper

        steps: list[tuple[str, list[str], dict[str, Any]]] = []
        constants: dict[str, npt.NDArray[Any]] = {}
        integers = self.input_type == TensorProto.UINT8
        if not integers:
            steps.append(("Cast", [], {"to": TensorProto.FLOAT}))  # TensorRT can only cast uint8
        if preprocessing.color == "BGR":
            constants["channel_order"] = np.array([2, 1, 0], np.int64)
            steps.append(("Gather", ["channel_order"], {"axis": 3}))
        if not integers:
            constants["scale"] = np.array(preprocessing.scale, np.float32)
            constants["offset"] = np.array(preprocessing.offset, np.float32)
            steps += [("Mul", ["scale"], {}), ("Add", ["offset"], {})]
        if self.input_shape.layout == "NCHW":
            steps.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
        if self.input_type not in {TensorProto.FLOAT, TensorProto.UINT8}:
            steps.append(("Cast", [], {"to": self.input_type}))
        steps = steps or [("Identity", [], {})]
        nodes, previous = [], INPUT_NAME
        for number, (operator, more, attributes) in enumerate(steps):
            name = end if number == len(steps) - 1 else f"front/{number}"
            nodes.append(
                helper.make_node(operator, [previous, *more], [name], name=f"front/{operator}_{number}", **attributes)
            )
            previous = name
        return nodes, [numpy_helper.from_array(value, name) for name, value in constants.items()]

    def _back(self, start: str) -> tuple[list[Any], list[Any]]:
        """Nodes and constants from the tensor `start`, the network's output, to unit vectors in float32."""
        from onnx import TensorProto, helper, numpy_helper

        constants = {"smallest_length": np.array(1e-12, np.float32)}
        if self.opset >= REDUCE_AXES_AS_INPUT:
            constants["vector_axis"] = np.array([1], np.int64)
            length = helper.make_node("ReduceL2", ["back/rows", "vector_axis"], ["back/length"], keepdims=1)
        else:
            length = helper.make_node("ReduceL2", ["back/rows"], ["back/length"], axes=[1], keepdims=1)
        nodes = [
            helper.make_node("Cast", [start], ["back/float"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["back/float"], ["back/rows"], axis=1),  # [N, D, 1, 1] to [N, D]
            length,
            helper.make_node("Max", ["back/length", "smallest_length"], ["back/divisor"]),
            helper.make_node("Div", ["back/rows", "back/divisor"], [OUTPUT_NAME]),
        ]
        return nodes, [numpy_helper.from_array(value, name) for name, value in constants.items()]

    def _find_precision(self) -> str:
        from onnx import TensorProto

        graph = self.model.graph
        if any(node.op_type in INT8_OPERATORS for node in graph.node):
            return "int8"
        return "fp16" if any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer) else "fp32"


def _dims(value: Any) -> list[int | None] | None:
    """The shape of an input; None for a dimension that may vary."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in tensor.shape.dim]


def _free_reshapes(graph: Any, batch: int) -> None:
    """Makes each reshape of activations whose constant shape begins with the batch size keep the input's batch."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for index, node in enumerate(graph.node):
        if node.op_type != "Reshape" or node.input[0] in constants or node.input[1] not in constants:
            continue
        if any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute):
            continue
        sizes = np.array(numpy_helper.to_array(constants[node.input[1]]))
        if sizes.ndim == 1 and len(sizes) > 1 and sizes[0] == batch:
            sizes[0] = 0
            name = f"free_batch/{index}"
            graph.initializer.append(numpy_helper.from_array(sizes, name))
            node.input[1] = name
