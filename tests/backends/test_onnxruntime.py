"""What ONNX Runtime is told beyond the path of the model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from bot_deploy import open_embedder
from bot_deploy.artifacts import read_contract, write_contract
from bot_deploy.artifacts.contract import METADATA_KEY, Contract
from bot_deploy.backends import onnxruntime
from bot_deploy.driver import Driver, Gpu
from bot_deploy.errors import RunError

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.embedder import Embedder


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
    options = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}  # float32 is float32
    assert first == ("CUDAExecutionProvider", options | {"device_id": "0"})
    assert second == ("CPUExecutionProvider", {})
    assert [fallback for _, fallback in blind] == [0, 0]
    with pytest.raises(RunError, match=r"cannot use cuda:1 \(CUDA failure 100.*use the device cpu.*`bot env`"):
        open_embedder(onnx_file, "cuda:1")
    assert blind[-1][0][0] == ("CUDAExecutionProvider", options | {"device_id": "1"})


GPU = Gpu("NVIDIA GeForce GTX 680", "sm30", 8, 2**31)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU that opens every model and fails at the first batch; the devices that were opened."""
    opened, open_model = [], onnxruntime.open_model

    def open_(path: Path, device: str, threads: int) -> Embedder:
        def fail(batch: np.ndarray) -> np.ndarray:
            raise RunError("ONNX Runtime failed on 1 images (no kernel image is available for execution on the device)")

        opened.append(device)
        embedder = open_model(path, "cpu", threads)
        return replace(embedder, compute=fail) if device == "cuda" else embedder

    monkeypatch.setattr(onnxruntime, "open_model", open_)
    return opened


@pytest.mark.parametrize("gpus", [(GPU,), ()])
def test_auto_goes_on_after_a_gpu_that_fails_at_the_first_batch(
    gpus: tuple[Gpu, ...],
    onnx_file: Path,
    faulty: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("bot_deploy.embedder.find_driver", lambda: Driver("580", "13.0", gpus))
    assert open_embedder(onnx_file).run(np.zeros((1, 64, 32, 3), np.uint8)).shape[0] == 1
    assert faulty == ["cuda", "cpu"]
    # Who has a GPU is told why it is idle; who has none is not.
    assert ("no GPU is used: " in caplog.text and "no kernel image" in caplog.text) is bool(gpus)
    with pytest.raises(RunError, match=r"\.onnx: ONNX Runtime failed .*no kernel image is available"):
        open_embedder(onnx_file, "cuda")


def test_int8_is_not_run_on_a_gpu(onnx_file: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.int8.onnx"
    model.write_bytes(onnx_file.read_bytes())
    write_contract(model, replace(read_contract(model), precision="int8"))
    with pytest.raises(RunError, match="no INT8 convolutions for CUDA"):
        open_embedder(model, "cuda")
    assert open_embedder(model).backend.endswith("CPU")


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
