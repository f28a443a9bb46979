"""Engines that TensorRT-RTX builds without a GPU, and the engines that are refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers.fake_cuda import MODEL

from bot_deploy import open_embedder
from bot_deploy.artifacts import checkpoint, engine_cache, engine_file
from bot_deploy.artifacts.checkpoint import contract_of
from bot_deploy.artifacts.contract import METADATA_KEY, Contract
from bot_deploy.backends import nvidia
from bot_deploy.driver import Gpu
from bot_deploy.errors import InputError, RunError
from bot_deploy.export import to_tensorrt
from bot_deploy.export.graph import inference_graph
from bot_deploy.export.to_onnx import to_onnx
from bot_deploy.export.to_tensorrt import BuiltEngine, EngineOptions, to_engine
from bot_deploy.model import ReID

rtx = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'bot-deploy[tensorrt-rtx]'")


def _gpu() -> str:
    try:
        return nvidia.find_gpu().arch
    except RunError:
        return ""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _tiny(tmp_path_factory.mktemp("tiny") / "model.onnx", "fp32")


@pytest.fixture
def engine(tiny: Path, tmp_path: Path) -> BuiltEngine:
    return to_engine(tiny, tmp_path / "model.engine", gpu_archs=("sm89",))


def _tiny(path: Path, precision: str) -> Path:
    """A complete graph of one convolution, with the types of `precision` in it, and with random weights."""
    weights = (
        "w = DequantizeLinear <axis = 0> (w8, ws, wz) x = QuantizeLinear (p, xs, xz) q = DequantizeLinear (x, xs, xz)"
    )
    convolution = {
        "fp32": "f = Conv <kernel_shape = [3, 3]> (p, w)",
        "fp16": "h = Cast <to = 10> (p) f = Conv <kernel_shape = [3, 3]> (h, w)",
        "int8": f"{weights} f = Conv <kernel_shape = [3, 3]> (q, w)",
    }[precision]
    model = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["" : 18]>
        tiny (uint8[N, 16, 8, 3] images) => (float[N, 4] embeddings) {{
            t = Cast <to = 1> (images)
            p = Transpose <perm = [0, 3, 1, 2]> (t)
            {convolution}
            g = Cast <to = 1> (f)
            m = ReduceMean <keepdims = 0> (g, axes)
            n = ReduceL2 <keepdims = 1> (m, one)
            embeddings = Div (m, n)
        }}""")
    rng = np.random.default_rng(0)
    tensors = {"axes": np.array([2, 3]), "one": np.array([1])}
    if precision == "int8":
        tensors["w8"] = rng.integers(-127, 128, (4, 3, 3, 3), dtype=np.int8)
        tensors |= {"ws": np.full(4, 0.01, np.float32), "wz": np.zeros(4, np.int8)}
        tensors |= {"xs": np.array(2, np.float32), "xz": np.array(0, np.int8)}
    else:
        tensors["w"] = rng.normal(size=(4, 3, 3, 3)).astype(np.float16 if precision == "fp16" else np.float32)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in tensors.items())
    contract = Contract(arch="tiny", height=16, width=8, dim=4, fingerprint="0" * 16, precision=precision)
    onnx.helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def _forbidden(*arguments: object) -> bytes:
    raise AssertionError("built again")


# ---- building ----


@pytest.fixture(scope="module", params=["mobilenet_v2", "resnet50"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ReID, Contract, Path]:
    """A network with random weights for crops of 256 x 128, exported."""
    torch.manual_seed(0)
    model = ReID(request.param, 5)
    contract = contract_of(model, 256, 128)
    saved = checkpoint.Checkpoint(contract, model.state_dict(), 5, 1, "bnneck", ("none",))
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    to_onnx(inference_graph(saved, contract), contract, path)
    return model, contract, path


@pytest.mark.slow
def test_real_backbones_build_without_a_gpu(backbone: tuple[ReID, Contract, Path], tmp_path: Path) -> None:
    model, contract, path = backbone
    built = to_engine(path, tmp_path / "model.engine", batch=(1, 4, 16), gpu_archs=("sm89", "sm120"))
    data, sidecar = engine_file.read(tmp_path / "model.engine")
    assert sidecar == built.sidecar
    assert sidecar.contract == contract
    assert sidecar.sha256 == hashlib.sha256(data).hexdigest()
    assert sidecar.onnx_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (sidecar.package, sidecar.version) == ("tensorrt-rtx", rtx.__version__)
    assert (sidecar.gpu_archs, sidecar.profile, sidecar.precision) == (("sm89", "sm120"), (1, 4, 16), "fp32")
    # The weights are inside: those of the backbone, in float32.
    weights = sum(tensor.numel() for tensor in model.backbone.parameters())
    assert 4 * weights < len(data) < 5 * weights


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_precision_is_what_the_onnx_types_say(precision: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    built = to_engine(_tiny(tmp_path / "model.onnx", precision), tmp_path / "model.engine", gpu_archs=("sm89",))
    assert built.sidecar.precision == precision
    assert ("no INT8 convolutions" in caplog.text) is (precision == "int8")
    assert built.path.read_bytes()


# ---- the cache ----


def test_a_second_build_comes_from_the_cache(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = to_engine(tiny, tmp_path / "a.engine", gpu_archs=("sm120", "sm89"))
    assert not first.cached
    monkeypatch.setattr(to_tensorrt, "_build", _forbidden)
    again = to_engine(tiny, tmp_path / "b.engine", gpu_archs=("sm89", "sm120", "sm89"))
    assert again.cached
    assert again.sidecar == first.sidecar
    assert (tmp_path / "b.engine").read_bytes() == (tmp_path / "a.engine").read_bytes()
    assert engine_file.read(tmp_path / "b.engine")[1] == first.sidecar
    for other in ({"batch": (1, 8, 32)}, {"gpu_archs": ("sm89",)}):
        with pytest.raises(AssertionError, match="built again"):
            to_engine(tiny, tmp_path / "c.engine", **{"gpu_archs": ("sm89", "sm120"), **other})


def test_other_weights_are_another_engine(tiny: Path, tmp_path: Path) -> None:
    first = to_engine(tiny, tmp_path / "a.engine", gpu_archs=("sm89",))
    model = onnx.load(str(tiny))
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) + 1, "w"))
    onnx.save(model, str(tmp_path / "other.onnx"))
    second = to_engine(tmp_path / "other.onnx", tmp_path / "b.engine", gpu_archs=("sm89",))
    assert not second.cached
    assert second.sidecar.key() != first.sidecar.key()


@pytest.mark.parametrize("spoil", ["engine", "hash", "sidecar"])
def test_a_changed_file_in_the_cache_is_built_again(tiny: Path, tmp_path: Path, spoil: str) -> None:
    first = to_engine(tiny, tmp_path / "a.engine", gpu_archs=("sm89",))
    (kept,) = engine_cache.folder().glob("*.engine")
    companion = engine_file.sidecar_path(kept)
    if spoil == "engine":
        kept.write_bytes(b"\0" + kept.read_bytes()[1:])
    elif spoil == "hash":
        companion.write_text(companion.read_text().replace(first.sidecar.sha256, "0" * 64))
    else:  # of an engine built from other weights, hash and all
        engine_file.write(
            kept, b"evil", replace(first.sidecar, sha256=hashlib.sha256(b"evil").hexdigest(), version="0")
        )
    again = to_engine(tiny, tmp_path / "b.engine", gpu_archs=("sm89",))
    assert not again.cached
    assert (tmp_path / "b.engine").stat().st_size == (tmp_path / "a.engine").stat().st_size
    assert to_engine(tiny, tmp_path / "c.engine", gpu_archs=("sm89",)).cached  # the cache is correct again


def test_an_unwritable_cache_is_reported_and_the_engine_is_built(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    to_engine(tiny, tmp_path / "a.engine", gpu_archs=("sm89",))
    assert engine_file.read(tmp_path / "a.engine")
    assert "not kept for the next time" in caplog.text


# ---- errors ----


def test_errors_of_the_parser_are_shown(tiny: Path, tmp_path: Path) -> None:
    model = onnx.load(str(tiny))
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    node.op_type, node.name = "NoSuchOp", "here"
    onnx.save(model, str(tmp_path / "broken.onnx"))
    with pytest.raises(
        RunError, match=r"the ONNX parser of tensorrt-rtx [\d.]+ says: NoSuchOp here: .*Plugin not found"
    ) as e:
        to_engine(tmp_path / "broken.onnx", tmp_path / "model.engine", gpu_archs=("sm89",))
    assert "\n" not in str(e.value)
    assert not (tmp_path / "model.engine").exists()


def test_errors_of_the_builder_are_shown(tiny: Path, tmp_path: Path) -> None:
    model = onnx.load(str(tiny))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2  # no batch but two
    onnx.save(model, str(tmp_path / "fixed.onnx"))
    with pytest.raises(RunError, match=r"tensorrt-rtx [\d.]+ says: .*profile") as e:
        to_engine(tmp_path / "fixed.onnx", tmp_path / "model.engine", gpu_archs=("sm89",))
    assert "\n" not in str(e.value)
    assert not list(engine_cache.folder().glob("*"))


def test_foreign_files_are_refused(tiny: Path, tmp_path: Path) -> None:
    model = onnx.load(str(tiny))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "foreign.onnx"))
    (tmp_path / "text.onnx").write_text("this is no ONNX")
    for name, message in (
        ("foreign", "no contract inside"),
        ("text", "not an ONNX model"),
        ("none", "no such model file"),
    ):
        with pytest.raises(InputError, match=message):
            to_engine(tmp_path / f"{name}.onnx", tmp_path / "model.engine", gpu_archs=("sm89",))


def test_tensorrt_rtx_has_no_options(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not know level 5, compatible with versions; leave that out"):
        to_engine(tiny, tmp_path / "e", gpu_archs=("sm89",), options=EngineOptions(level=5, compatible=("versions",)))


@pytest.mark.parametrize("arch", ["ada", "89", "sm8.9", "SM89", ""])
def test_other_spellings_of_a_gpu_are_an_error(tiny: Path, tmp_path: Path, arch: str) -> None:
    with pytest.raises(InputError, match="write sm89"):
        to_engine(tiny, tmp_path / "model.engine", gpu_archs=(arch,))


def test_unsupported_gpus_are_an_error_that_lists_the_supported_ones(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not build for sm90, but for .*sm89.*bot-deploy\[tensorrt\]"):
        to_engine(tiny, tmp_path / "model.engine", gpu_archs=("sm90", "sm89"))


@pytest.mark.parametrize("batch", [(0, 1, 2), (2, 1, 2), (1, 3, 2), (-1, -1, -1)])
def test_batches_are_min_opt_max(tiny: Path, tmp_path: Path, batch: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="1 <= min <= opt <= max"):
        to_engine(tiny, tmp_path / "model.engine", batch=batch)


# ---- which package builds ----


@pytest.mark.parametrize(
    ("gpu", "packages", "gpu_archs", "chosen"),
    [
        ("sm90", {"tensorrt", "tensorrt-rtx"}, (), ("tensorrt", ("sm90",))),
        ("sm90", {"tensorrt"}, ("sm90",), ("tensorrt", ("sm90",))),
        ("sm89", {"tensorrt-rtx"}, (), ("tensorrt-rtx", ("sm89",))),
        ("sm89", {"tensorrt", "tensorrt-rtx"}, ("sm120", "sm89"), ("tensorrt-rtx", ("sm89", "sm120"))),
        ("", {"tensorrt", "tensorrt-rtx"}, ("sm120",), ("tensorrt-rtx", ("sm120",))),
        ("", {"tensorrt-rtx"}, (), ("tensorrt-rtx", to_tensorrt.DEFAULT_GPU_ARCHS)),
        ("sm89", set(), (), r"'bot-deploy\[tensorrt\]', or 'bot-deploy\[tensorrt-rtx\]'"),
        ("sm89", {"tensorrt"}, ("sm120",), r"for sm120, pip install 'bot-deploy\[tensorrt-rtx\]'"),
        ("", {"tensorrt"}, (), r"with no GPU \(none\), pip install 'bot-deploy\[tensorrt-rtx\]'"),
        ("", set(), ("sm89",), r"'bot-deploy\[tensorrt-rtx\]'; 'bot-deploy\[tensorrt\]' builds on the machine"),
    ],
)
def test_package_follows_from_gpu_and_archs(
    gpu: str, packages: set[str], gpu_archs: tuple[str, ...], chosen: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find() -> Gpu:
        if not gpu:
            raise RunError("none")
        return replace(MODEL, arch=gpu)

    monkeypatch.setattr(nvidia, "find_gpu", find)
    monkeypatch.setattr(nvidia, "is_installed", packages.__contains__)
    if isinstance(chosen, str):
        with pytest.raises(RunError, match=chosen):
            to_tensorrt.choose_builder(gpu_archs)
    else:
        assert to_tensorrt.choose_builder(gpu_archs) == chosen


def test_the_default_gpus_are_logged_and_built_for(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if _gpu():
        pytest.skip("there is a GPU here to build for")
    assert to_engine(tiny, tmp_path / "model.engine").sidecar.gpu_archs == to_tensorrt.DEFAULT_GPU_ARCHS
    assert "no GPU here, so the engine is for sm80, sm86, sm89, sm120" in caplog.text


# ---- real engines that are refused ----


def _bot_eval(model: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bot_deploy", "eval", str(model)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _edit(engine: BuiltEngine, **fields: object) -> None:
    companion = engine_file.sidecar_path(engine.path)
    companion.write_text(json.dumps({**json.loads(companion.read_text()), **fields}))


def test_flipped_byte_is_refused(engine: BuiltEngine) -> None:
    data = bytearray(engine.path.read_bytes())
    data[len(data) // 2] ^= 1
    engine.path.write_bytes(data)
    _refused(engine.path, "it is not run")


def test_missing_sidecar_is_refused(engine: BuiltEngine) -> None:
    engine_file.sidecar_path(engine.path).unlink()
    _refused(engine.path, "model.engine.json is not beside it")


def test_sidecar_of_another_model_is_refused(engine: BuiltEngine, tmp_path: Path) -> None:
    other = to_engine(_tiny(tmp_path / "model.onnx", "fp16"), tmp_path / "other.engine", gpu_archs=("sm89",))
    engine_file.sidecar_path(other.path).replace(engine_file.sidecar_path(engine.path))
    _refused(engine.path, "it is not run")


def test_other_version_is_refused(engine: BuiltEngine) -> None:
    _edit(engine, version="1.0.0")
    _refused(engine.path, f"built with tensorrt-rtx 1.0.0, but {rtx.__version__} is installed")


def _refused(path: Path, message: str) -> None:
    result = _bot_eval(path)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith(f"bot: {path}: ")
    assert message in result.stderr
    assert "bot export --trt" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_other_gpu_is_refused(engine: BuiltEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "find_gpu", lambda number: replace(MODEL, arch="sm86"))
    with pytest.raises(InputError, match="built for sm89, but the GPU is sm86") as e:
        open_embedder(engine.path)
    assert e.value.exit_code == 2


def test_no_gpu_is_a_failed_run(engine: BuiltEngine) -> None:
    if _gpu():
        pytest.skip("there is a GPU here")
    result = _bot_eval(engine.path)
    assert result.returncode == 1
    assert result.stderr.startswith("bot: no NVIDIA GPU that CUDA can use")
    assert len(result.stderr.splitlines()) == 1


def test_engine_gives_what_the_onnx_gives(tiny: Path, tmp_path: Path) -> None:
    if _gpu() not in {name.lower() for name in rtx.ComputeCapability.__members__}:
        pytest.skip("needs a GPU that tensorrt-rtx runs on")
    to_engine(tiny, tmp_path / "model.engine", batch=(2, 3, 5), gpu_archs=(_gpu(),))
    running, reference = open_embedder(tmp_path / "model.engine"), open_embedder(tiny, "cpu")
    for count in (1, 3, 3, 5, 12, 3):
        images = np.random.default_rng(count).integers(0, 256, (count, 16, 8, 3), dtype=np.uint8)
        np.testing.assert_allclose(running.run(images), reference.run(images), atol=1e-5)
