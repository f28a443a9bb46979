"""What ONNX Runtime is told beyond the path of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from bot_deploy import open_embedder
from bot_deploy.artifacts.contract import METADATA_KEY, Contract
from bot_deploy.errors import RunError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """An ONNX Runtime that was built with CUDA, on a machine without; the options of its sessions."""
    import onnxruntime as ort

    session, asked = ort.InferenceSession, []

    def open_(path: str, options: Any, *, providers: list[Any], enable_fallback: int, **rest: Any) -> Any:
        asked.append((providers, enable_fallback))
        if providers[0][0] != "CPUExecutionProvider":
            raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected")
        return session(path, options, providers=providers, enable_fallback=enable_fallback, **rest)

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda **_: None, raising=False)
    monkeypatch.setattr(ort, "InferenceSession", open_)
    return asked


def test_a_gpu_that_is_not_there_leaves_the_cpu_and_stdout_alone(
    onnx_file: Path, blind: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    assert open_embedder(onnx_file).backend.endswith("CPU")
    assert capfd.readouterr().out == ""
    (first, *_), (second, *_) = (providers for providers, _ in blind)
    assert first == ("CUDAExecutionProvider", {"use_tf32": "0"})  # float32 is float32
    assert second == ("CPUExecutionProvider", {})
    assert [fallback for _, fallback in blind] == [0, 0]
    with pytest.raises(RunError, match=r"cannot use cuda \(CUDA failure 100.*use the device cpu"):
        open_embedder(onnx_file, "cuda")


def test_what_fails_while_it_runs_is_one_line(onnx_file: Path) -> None:
    embedder = open_embedder(onnx_file, "cpu")
    with pytest.raises(RunError, match=r"failed on 2 images .*smaller batch"):
        embedder.run(np.zeros((2, 3, 3, 3), np.uint8))


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
    got = open_embedder(tmp_path / "m.onnx", "cpu", check=False).compute(np.full((3, 2, 2, 3), 255, np.uint8))
    np.testing.assert_allclose(got, np.full((3, 4), 12 * 255 * 127), rtol=1e-5)
