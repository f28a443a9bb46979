"""The float part of an INT8 graph in FP16: types, scales, and results against the graph before."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from bot_deploy.export.half_floats import MIN_SCALE, halve_floats
from bot_deploy.export.int8 import _compute

SCALES = np.array([0.01, 0.0123, 0.02, 0.031], np.float32)


def model(attention: str = "") -> onnx.ModelProto:
    """An INT8 graph: a quantised convolution, one in float32 with its activation, and their sum."""
    graph = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["" : 18]>
        small (uint8[N, 8, 4, 3] images) => (float[N, 4] embeddings) {{
            t = Cast <to = 1> (images)
            p = Transpose <perm = [0, 3, 1, 2]> (t)
            n = Mul (p, factor)
            w = DequantizeLinear <axis = 0> (w8, ws, wz)
            x = QuantizeLinear (n, xs, xz)
            q = DequantizeLinear (x, xs, xz)
            f = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (q, w)
            c = Conv <kernel_shape = [1, 1]> (f, v, b)
            r = Clip (c, low, high)
            s = Add (f, r)
            {attention or "a = Identity (s)"}
            m = ReduceMean <keepdims = 0> (a, axes)
            l = ReduceL2 <keepdims = 1> (m, one)
            embeddings = Div (m, l)
        }}""")
    rng = np.random.default_rng(0)
    tensors = {
        "factor": np.float32(0.01),
        "w8": rng.integers(-127, 128, (4, 3, 3, 3), dtype=np.int8),
        "ws": SCALES,
        "wz": np.zeros(4, np.int8),
        "xs": np.float32(0.0213),
        "xz": np.int8(0),
        "v": rng.normal(size=(4, 4, 1, 1)).astype(np.float32),
        "b": rng.normal(size=4).astype(np.float32),
        "low": np.float32(0),
        "high": np.float32(6),
        "axes": np.array([2, 3]),
        "one": np.array([1]),
    }
    graph.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items())
    onnx.checker.check_model(graph, full_check=True)
    return graph


def types(halved: onnx.ModelProto) -> dict[str, int]:
    """Name -> type of all values and constants, after ONNX's own check of types."""
    inferred = onnx.shape_inference.infer_shapes(halved, check_type=True, strict_mode=True)
    found = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    return found | {tensor.name: tensor.data_type for tensor in inferred.graph.initializer}


def constants(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


def test_layers_and_what_follows_them_are_fp16_and_the_rest_is_float32() -> None:
    halved = halve_floats(model())
    onnx.checker.check_model(halved, full_check=True)
    found = types(halved)
    assert {name for name in found if found[name] == TensorProto.FLOAT16} == {
        *("w", "q", "f", "c", "r", "s"),  # values
        *("ws.fp16", "xs.fp16", "v.fp16", "b.fp16", "low.fp16", "high.fp16"),  # constants
    }
    assert {found[name] for name in ("t", "p", "n", "factor", "xs", "a", "m", "l")} == {TensorProto.FLOAT}
    assert [node.input[0] for node in halved.graph.node if node.op_type == "Cast"] == ["images", "s"]
    assert halved.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_scales_are_numbers_of_fp16_and_weights_keep_their_values() -> None:
    before, after = constants(model()), constants(halve_floats(model()))
    assert after["xs"] == np.float16(before["xs"]) == after["xs.fp16"]  # quantised and dequantised alike
    np.testing.assert_array_equal(after["ws.fp16"], SCALES.astype(np.float16))
    old, new = (
        c["w8"] * s.astype(np.float64)[:, None, None, None] for c, s in ((before, SCALES), (after, after["ws.fp16"]))
    )
    steps = SCALES[:, None, None, None]
    inside = np.abs(before["w8"]) < 127  # the greatest may be cut off
    assert (np.abs(old - new)[inside] <= 0.51 * np.broadcast_to(steps, old.shape)[inside]).all()


def test_tiny_scales_do_not_vanish() -> None:
    small = model()
    for tensor in small.graph.initializer:
        if tensor.name == "ws":
            tensor.CopyFrom(numpy_helper.from_array(np.array([1e-9, 2e-6, 0.01, 0.02], np.float32), "ws"))
        if tensor.name == "w8":
            weights = numpy_helper.to_array(tensor)
    after = constants(halve_floats(small))
    assert after["ws.fp16"][:2].tolist() == [MIN_SCALE, MIN_SCALE]
    assert not after["w8"][0].any()
    np.testing.assert_allclose(after["w8"][1], weights[1] * (2e-6 / MIN_SCALE), atol=0.5)


def test_results_are_those_of_the_graph_before() -> None:
    images = np.random.default_rng(1).integers(0, 256, (16, 8, 4, 3), dtype=np.uint8)
    expected = _compute(model().SerializeToString(), "embeddings", images)
    vectors = _compute(halve_floats(model()).SerializeToString(), "embeddings", images)
    assert (vectors * expected).sum(1).min() > 0.9999
    assert not np.array_equal(vectors, expected)


@pytest.mark.parametrize("kind", ["MatMul", "Softmax"])
def test_attention_stays_in_float32(kind: str) -> None:
    """A product of two activations, and a sum over many numbers."""
    attention = {
        "MatMul": "y = Transpose <perm = [0, 1, 3, 2]> (s) a = MatMul (s, y)",
        "Softmax": "a = Softmax <axis = 2> (s)",
    }[kind]
    found = types(halve_floats(model(attention)))
    assert found["s"] == TensorProto.FLOAT16
    assert found["a"] == TensorProto.FLOAT


def test_a_graph_with_fp16_scales_keeps_its_opset() -> None:
    newer = model()
    newer.opset_import[0].version = 21
    assert halve_floats(newer).opset_import[0].version == 21
    assert halve_floats(model()).opset_import[0].version == 19
