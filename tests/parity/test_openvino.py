"""OpenVINO against ONNX Runtime and PyTorch."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bot_deploy import open_embedder
from bot_deploy.datasets import open_dataset
from bot_deploy.errors import InputError, RunError
from bot_deploy.export import parity

if TYPE_CHECKING:
    from pathlib import Path

ov: Any = pytest.importorskip("openvino", reason="needs OpenVINO: pip install 'bot-deploy[openvino]'")


def native_bf16() -> bool:
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_all_batch_sizes_give_the_same_embeddings(onnx_file: Path, checkpoint_file: Path, batch: int) -> None:
    images = np.random.default_rng(batch).integers(0, 256, (batch, 64, 32, 3), dtype=np.uint8)
    embedder = open_embedder(onnx_file, "openvino")
    got = embedder.run(images)
    assert got.shape == (batch, 512)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, open_embedder(onnx_file, "cpu").run(images), atol=1e-4)
    np.testing.assert_allclose(got, open_embedder(checkpoint_file).run(images), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    # What was handed out stays as it is when the same request computes something else.
    kept = got.copy()
    assert not np.allclose(embedder.run(255 - images), kept, atol=1e-3)
    np.testing.assert_array_equal(got, kept)


def test_parity_passes(onnx_file: Path, checkpoint_file: Path, people: Path) -> None:
    crops = parity.sample_crops(open_dataset(people), (64, 32), count=64)
    embedder = open_embedder(onnx_file, "openvino")
    result = parity.compare_embeddings(open_embedder(checkpoint_file), embedder, crops, parity.TOLERANCES["fp32"])
    assert result.passed, result.table()
    assert embedder.contract == open_embedder(checkpoint_file).contract
    assert "OpenVINO" in embedder.backend
    assert "f32" in embedder.backend


def test_computes_in_float32_on_the_given_number_of_threads(onnx_file: Path) -> None:
    import bot_deploy.backends.openvino as backend

    seen = {}

    class Core(ov.Core):  # type: ignore[misc]
        def compile_model(self, *arguments: object) -> object:
            compiled = super().compile_model(*arguments)
            for name in ("INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS", "NUM_STREAMS"):
                seen[name] = compiled.get_property(name)
            return compiled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ov, "Core", Core)
        backend.open_model(onnx_file, "openvino", 1)
    assert seen["INFERENCE_PRECISION_HINT"] == ov.Type.f32
    assert seen["INFERENCE_NUM_THREADS"] == 1
    assert seen["NUM_STREAMS"] == 1


def test_bf16_is_refused_where_the_cpu_has_none(onnx_file: Path) -> None:
    if native_bf16():
        pytest.skip("this CPU has bfloat16 instructions")
    with pytest.raises(RunError, match=r"no bfloat16 instructions.*the device openvino"):
        open_embedder(onnx_file, "openvino-bf16")


def test_bf16_is_close_but_not_float32(onnx_file: Path, people: Path) -> None:
    if not native_bf16():
        pytest.skip("needs a CPU with bfloat16 instructions")
    crops = parity.sample_crops(open_dataset(people), (64, 32), count=16)
    exact, rounded = (open_embedder(onnx_file, device).run(crops) for device in ("openvino", "openvino-bf16"))
    assert np.abs(exact - rounded).max() > 1e-5
    assert (exact * rounded).sum(1).min() > 0.99


def test_int8_computes_in_int8(onnx_file: Path, people: Path, tmp_path: Path) -> None:
    from onnxruntime import quantization

    crops = parity.sample_crops(open_dataset(people), (64, 32), count=16)

    class Crops(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter([{"images": crops}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    quantized = tmp_path / "model.int8.onnx"
    quantization.quantize_static(
        onnx_file, quantized, Crops(), per_channel=True, op_types_to_quantize=["Conv"], reduce_range=True
    )
    embedder = open_embedder(quantized, "openvino")
    exact, rounded = open_embedder(onnx_file, "openvino").run(crops), embedder.run(crops)
    assert np.abs(exact - rounded).max() > 1e-4
    assert (exact * rounded).sum(1).min() > 0.95
    nodes = ov.Core().compile_model(str(quantized), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).get_runtime_model()
    kinds = [node.get_rt_info()["runtimePrecision"].value for node in nodes.get_ops() if "Conv" in _kind(node)]
    assert kinds
    assert sum(kind in {"u8", "i8"} for kind in kinds) > len(kinds) / 2


def _kind(node: Any) -> str:
    return str(node.get_rt_info()["layerType"].value)


def test_missing_package_is_named(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RunError, match=r"pip install 'bot-deploy\[openvino\]'"):
        open_embedder(onnx_file, "openvino")


def test_a_graph_that_it_cannot_compile_is_one_line(onnx_file: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(str(onnx_file))
    model.graph.node[5].input[0] = "nowhere"
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(InputError, match=r"model\.onnx: OpenVINO cannot open it") as caught:
        open_embedder(tmp_path / "model.onnx", "openvino")
    assert "\n" not in str(caught.value)


def test_serves_several_threads(onnx_file: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    embedder = open_embedder(onnx_file, "openvino")
    batches = np.random.default_rng(0).integers(0, 256, (12, 1, 64, 32, 3), dtype=np.uint8)
    expected = [embedder.run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for got, wanted in zip(pool.map(embedder.run, batches), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
