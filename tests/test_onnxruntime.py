"""What ONNX Runtime is told beyond the path of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from bot_deploy import open_embedder
from bot_deploy.contract import METADATA_KEY, Contract

if TYPE_CHECKING:
    from pathlib import Path


def test_int8_products_do_not_overflow(tmp_path: Path) -> None:
    """White pixels under the largest weights: without VNNI, ONNX Runtime adds pairs of products in 16 bits."""
    contract = Contract(arch="sum", height=2, width=2, dim=4, fingerprint="f")
    constants = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "w": np.full((4, 12), 127, np.int8).reshape(4, 12, 1, 1),
        "w_scale": np.ones(4, np.float32),
        "w_zero": np.zeros(4, np.int8),
        "out_scale": np.float32(12 * 255 * 127 / 200),
        "shape": np.array([-1, 12, 1, 1]),
        "flat": np.array([-1, 4]),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "shape"], ["x"]),
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "one", "zero"], ["x_d"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_d"], axis=0),
        helper.make_node("Conv", ["x_d", "w_d"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "out_scale", "zero"], ["y_q"]),
        helper.make_node("DequantizeLinear", ["y_q", "out_scale", "zero"], ["y_d"]),
        helper.make_node("Reshape", ["y_d", "flat"], ["embeddings"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 2, 2, 3])
    embeddings = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["N", 4])
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [images], [embeddings], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    got = open_embedder(tmp_path / "m.onnx", "cpu").run(np.full((3, 2, 2, 3), 255, np.uint8))
    np.testing.assert_allclose(got, np.full((3, 4), 12 * 255 * 127), rtol=1e-5)
