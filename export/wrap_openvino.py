"""OpenVINO IR of other toolkits: opened as they are, and written with preprocessing and L2 normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bot_deploy.artifacts import ir_file
from bot_deploy.artifacts.contract import INPUT_NAME, OUTPUT_NAME
from bot_deploy.errors import InputError, RunError, missing_package, on_one_line
from bot_deploy.telemetry import without_telemetry

from .wrap import choose_output, find_input_shape

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.embedder import Vectors

    from .wrap import Preprocessing

EPSILON = 1e-24  # of the squared length; a vector of zeros stays one


def open_foreign(source: Path, output: str | None) -> ForeignIR:
    """The IR at `source`.

    Raises:
        InputError: not an IR, no image input, or no such output.
        RunError: OpenVINO is not installed.
    """
    try:
        with without_telemetry():
            import openvino as ov
    except ImportError:
        raise missing_package("openvino") from None
    weights = ir_file.weights_path(source)
    if not weights.is_file():
        raise InputError(f"{source}: {weights.name} is not beside it; copy both files")
    return ForeignIR(ov, source, output)


class ForeignIR:
    """An IR, as `wrap.ForeignModel`."""

    def __init__(self, ov: Any, source: Path, output: str | None) -> None:
        self.ov, self.source = ov, source
        self.core = ov.Core()
        model = self._read()
        outputs = [_name(port) for port in model.outputs]
        self.output = choose_output(outputs, output, source)
        dims = [port.get_partial_shape() for port in model.inputs]
        shape = None if len(dims) != 1 or dims[0].rank.is_dynamic else [_length(size) for size in dims[0]]
        self.input_shape = find_input_shape([_name(port) for port in model.inputs], shape, source)
        quantised = any(operation.get_type_name() == "FakeQuantize" for operation in model.get_ops())
        self.precision = "int8" if quantised else "fp32"
        self.weights = [("graph", source.read_bytes()), ("weights", ir_file.weights_path(source).read_bytes())]
        try:
            self.compiled = self.core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            raise InputError(f"{source}: OpenVINO cannot compile it ({on_one_line(error)[-200:]})") from None

    def run(self, values: npt.NDArray[np.float32]) -> Vectors:
        """The output for one batch."""
        try:
            return np.asarray(self.compiled({0: values})[self.output], np.float32)
        except RuntimeError as error:
            raise RunError(f"{self.source}: OpenVINO failed ({on_one_line(error)[-200:]})") from None

    def write(self, path: Path, preprocessing: Preprocessing, contract: Contract, *, free_batch: bool) -> None:
        """Writes the .xml at `path` and its .bin."""
        ov, model = self.ov, self._read()
        if free_batch:
            _free_reshapes(model, self.input_shape.batch or 1)
        batch = -1 if free_batch or self.input_shape.batch is None else self.input_shape.batch
        sides = (contract.height, contract.width)
        shape = (batch, 3, *sides) if self.input_shape.layout == "NCHW" else (batch, *sides, 3)
        try:
            model.reshape({model.input(0): ov.PartialShape(list(shape))})
            wrapped = self._with_preprocessing(model, preprocessing)
            ov.save_model(wrapped, str(path), compress_to_fp16=False)
        except RuntimeError as error:
            raise InputError(f"{self.source}: cannot be wrapped ({on_one_line(error)[-200:]})") from None
        ir_file.seal(path, contract)

    def _read(self) -> Any:
        try:
            return self.core.read_model(str(self.source))
        except RuntimeError as error:
            raise InputError(f"{self.source}: not a readable OpenVINO IR ({on_one_line(error)[-200:]})") from None

    def _with_preprocessing(self, model: Any, preprocessing: Preprocessing) -> Any:
        ov = self.ov
        from openvino import opset13 as ops

        # Scale and offset are of the model's channel order, so the channels are swapped first.
        parameter = model.input(0).get_node()
        dims = model.input(0).get_partial_shape()
        images = ops.parameter(
            ov.PartialShape([dims[0], preprocessing.height, preprocessing.width, 3]), ov.Type.u8, INPUT_NAME
        )
        images.output(0).get_tensor().set_names({INPUT_NAME})
        pixels: Any = ops.convert(images, "f32")
        if preprocessing.color == "BGR":
            pixels = ops.gather(pixels, np.array([2, 1, 0], np.int64), np.array(3, np.int64))
        pixels = ops.add(
            ops.multiply(pixels, np.array(preprocessing.scale, np.float32)), np.array(preprocessing.offset, np.float32)
        )
        if self.input_shape.layout == "NCHW":
            pixels = ops.transpose(pixels, np.array([0, 3, 1, 2], np.int64))
        if parameter.get_element_type() != ov.Type.f32:
            pixels = ops.convert(pixels, parameter.get_element_type().get_type_name())
        for target in parameter.output(0).get_target_inputs():
            target.replace_source_output(pixels.output(0))
        vectors: Any = model.output(self.output).get_node().input_value(0)
        vectors = ops.convert(vectors, "f32")
        # [N, D, 1, 1] to [N, D]
        vectors = ops.reshape(vectors, np.array([0, -1], np.int64), special_zero=True)
        unit = ops.normalize_l2(vectors, np.array([1], np.int64), EPSILON, "max")
        unit.output(0).get_tensor().set_names({OUTPUT_NAME})
        return ov.Model([ops.result(unit, OUTPUT_NAME)], [images], "wrapped")


def _free_reshapes(model: Any, batch: int) -> None:
    """Makes each reshape of activations whose constant shape begins with the batch size keep the input's batch."""
    from openvino import opset13 as ops

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Reshape":
            continue
        pattern, data = node.input_value(1).get_node(), node.input_value(0).get_node()
        if pattern.get_type_name() != "Constant" or data.get_type_name() == "Constant":
            continue
        sizes = np.array(pattern.data)
        if sizes.ndim == 1 and len(sizes) > 1 and sizes[0] == batch and node.get_attributes().get("special_zero"):
            sizes[0] = 0
            node.input(1).replace_source_output(ops.constant(sizes).output(0))


def _name(port: Any) -> str:
    names = sorted(port.get_names())
    return names[0] if names else str(port.get_node().get_friendly_name())


def _length(size: Any) -> int | None:
    return None if size.is_dynamic else int(size.get_length())
