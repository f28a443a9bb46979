"""What the builder of `tensorrt` is told, with a stand-in for it, and engines that another program built."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.fake_cuda import CONTRACT, MODEL, TENSORRT, Engine, Error, Gpu, crops, embeddings, like
from onnx import TensorProto, helper

from bot_deploy import open_embedder
from bot_deploy.artifacts import engine_cache, engine_file
from bot_deploy.artifacts.contract import METADATA_KEY
from bot_deploy.backends import nvidia
from bot_deploy.errors import InputError, RunError
from bot_deploy.export.to_tensorrt import EngineOptions, adopt_engine, to_engine


@like("tensorrt_rtx", "ITimingCache")
class TimingCache:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> bytes:
        return self._data + b"+"


@like("tensorrt_rtx", "IBuilderConfig")
class Config:
    builder_optimization_level = 3
    hardware_compatibility_level = "NONE"

    def __init__(self) -> None:
        self._flags = {"TF32"}
        self._limits: dict[str, int] = {}
        self._timings: TimingCache | None = None

    def clear_flag(self, flag: str) -> None:
        self._flags.discard(flag)

    def set_flag(self, flag: str) -> None:
        self._flags.add(flag)

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self._limits[pool] = size

    def create_timing_cache(self, data: bytes) -> TimingCache:
        return TimingCache(data)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self._timings = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self._timings

    def add_optimization_profile(self, profile: Profile) -> int:
        assert profile._shapes
        return 0


@like("tensorrt_rtx", "IOptimizationProfile")
class Profile:
    def __init__(self) -> None:
        self._shapes: dict[str, Any] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self._shapes[name] = shapes


class Package(SimpleNamespace):
    """The module `tensorrt`, whose builder keeps its settings in `configs`."""

    def __init__(self, gpu: Gpu) -> None:
        configs: list[Config] = []

        @like("tensorrt_rtx", "Builder")
        class Builder:
            def __init__(self, logger: object) -> None:
                if gpu._fault("Builder"):
                    logger.errors.append("CUDA initialization failure with error: 35")  # type: ignore[attr-defined]
                    raise TypeError("pybind11::init(): factory function returned nullptr")

            def create_network(self, flags: int) -> int:
                assert flags == 1 << 1  # strongly typed
                return flags

            def create_builder_config(self) -> Config:
                configs.append(Config())
                return configs[-1]

            def create_optimization_profile(self) -> Profile:
                return Profile()

            def build_serialized_network(self, network: int, config: Config) -> bytes:
                return b"an engine"

        super().__init__(
            **vars(TENSORRT),
            configs=configs,
            Builder=Builder,
            OnnxParser=lambda network, logger: SimpleNamespace(parse=lambda model: True),
            Runtime=lambda logger: SimpleNamespace(
                deserialize_cuda_engine=lambda data: (
                    Engine(gpu, (2, 2, 4), user_managed=True) if data == b"an engine" else None
                )
            ),
            NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
            BuilderFlag=SimpleNamespace(TF32="TF32", VERSION_COMPATIBLE="VERSION_COMPATIBLE"),
            MemoryPoolType=SimpleNamespace(WORKSPACE="WORKSPACE"),
            HardwareCompatibilityLevel=SimpleNamespace(
                AMPERE_PLUS="AMPERE_PLUS", SAME_COMPUTE_CAPABILITY="SAME_COMPUTE_CAPABILITY"
            ),
        )


@pytest.fixture
def gpu() -> Gpu:
    return Gpu()


@pytest.fixture
def package(gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A machine with one GPU and the package `tensorrt`."""
    package = Package(gpu)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(nvidia, "is_installed", lambda name: name == "tensorrt")
    monkeypatch.setattr(nvidia, "load_tensorrt", lambda _: (package, SimpleNamespace(errors=[])))
    monkeypatch.setattr(nvidia, "load_cuda", lambda: gpu)
    return package


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An ONNX file with CONTRACT; the stand-in's parser takes any graph."""
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 4, 2, 3])
    output = helper.make_tensor_value_info("embeddings", TensorProto.UINT8, ["N", 4, 2, 3])
    graph = helper.make_graph([helper.make_node("Identity", ["images"], ["embeddings"])], "g", [images], [output])
    onnx_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(onnx_model, {METADATA_KEY: replace(CONTRACT, precision="fp16").to_json()})
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_model.SerializeToString())
    return path


def test_by_default_an_engine_is_for_this_model_of_gpu(package: Package, model: Path, tmp_path: Path) -> None:
    built = to_engine(model, tmp_path / "model.engine", batch=(2, 2, 4))  # the profile of the stand-in's engine
    (config,) = package.configs
    assert config._flags == set()  # no TF32
    assert (config._limits, config.builder_optimization_level, config.hardware_compatibility_level) == ({}, 3, "NONE")
    assert (built.sidecar.gpu_archs, built.sidecar.gpu) == (("sm89",), "NVIDIA GeForce RTX 4090, 128 multiprocessors")
    assert (built.sidecar.version_compatible, built.sidecar.build_options) == (False, "")
    assert open_embedder(tmp_path / "model.engine").backend == "tensorrt 10.13.2 sm89 fp16"


def test_options_reach_the_builder_and_the_sidecar(package: Package, model: Path, tmp_path: Path) -> None:
    options = EngineOptions(5, 2048, ("capability", "versions"))
    sidecar = to_engine(model, tmp_path / "model.engine", options=options).sidecar
    (config,) = package.configs
    assert config._flags == {"VERSION_COMPATIBLE"}
    assert config._limits == {"WORKSPACE": 2048 << 20}
    assert config.builder_optimization_level == 5
    assert config.hardware_compatibility_level == "SAME_COMPUTE_CAPABILITY"
    assert (sidecar.gpu_archs, sidecar.gpu, sidecar.version_compatible) == (("sm89",), "", True)
    assert sidecar.build_options == "level 5, workspace 2048 MiB, compatible with capability and versions"
    assert engine_file.read(tmp_path / "model.engine")[1] == sidecar
    # Each option makes another engine.
    for other in (
        EngineOptions(4),
        EngineOptions(workspace_mib=1),
        EngineOptions(compatible=("ampere",)),
        EngineOptions(),
    ):
        assert not to_engine(model, tmp_path / "other.engine", options=other).cached
    assert to_engine(model, tmp_path / "again.engine", options=options).cached
    assert package.configs[3].hardware_compatibility_level == "AMPERE_PLUS"


def test_timings_are_kept_for_the_next_build(package: Package, model: Path, tmp_path: Path) -> None:
    to_engine(model, tmp_path / "model.engine")
    to_engine(model, tmp_path / "model.engine", batch=(1, 2, 3))
    assert [config._timings._data for config in package.configs] == [b"", b"+"]
    (kept,) = engine_cache.folder().glob("*.timings")
    assert kept.name == "tensorrt-10.13.2-NVIDIA-GeForce-RTX-4090-128-multiprocessors.timings"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 6}, "level 6: choose from 0 to 5"),
        ({"level": -1}, "level -1"),
        ({"workspace_mib": -5}, "-5 MiB: choose 0 or more"),
        ({"compatible": ("all",)}, "'all': choose from capability, ampere, versions"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EngineOptions(**options)


def test_a_builder_that_does_not_start_is_one_line(package: Package, gpu: Gpu, model: Path, tmp_path: Path) -> None:
    gpu._faults["Builder"] = Error.no_kernel_image
    with pytest.raises(RunError, match=r"tensorrt does not start \(CUDA initialization failure.*`bot env`"):
        to_engine(model, tmp_path / "model.engine")
    assert not (tmp_path / "model.engine").exists()


# ---- which GPU and version an engine is for ----


@pytest.mark.parametrize(
    ("changes", "version", "gpu", "reason"),
    [
        ({}, "10.13.2", MODEL, ""),
        ({}, "10.13.3", MODEL, "built with tensorrt 10.13.2, but 10.13.3 is installed"),
        ({"version_compatible": True}, "10.14.0", MODEL, ""),
        ({"version_compatible": True}, "11.0.0", MODEL, ""),
        ({"version_compatible": True}, "10.9.9", MODEL, "but 10.9.9 is installed"),
        ({}, "10.13.2", replace(MODEL, arch="sm90"), "built for sm86, sm89, but the GPU is sm90"),
        ({}, "10.13.2", replace(MODEL, multiprocessors=114), "but the GPU is NVIDIA GeForce RTX 4090, 114 multi"),
        ({}, "10.13.2", replace(MODEL, name="NVIDIA L4"), "but the GPU is NVIDIA L4, 128 multiprocessors"),
        ({"gpu": ""}, "10.13.2", replace(MODEL, name="NVIDIA L4", multiprocessors=58), ""),
        ({"gpu": "", "gpu_archs": ("sm80+",)}, "10.13.2", replace(MODEL, arch="sm120"), ""),
        ({"gpu": "", "gpu_archs": ("sm80+",)}, "10.13.2", replace(MODEL, arch="sm75"), "built for sm80+"),
    ],
)
def test_what_an_engine_runs_on(changes: dict[str, Any], version: str, gpu: Any, reason: str) -> None:
    from helpers.fake_cuda import SIDECAR

    sidecar = replace(SIDECAR, **changes)
    answer = sidecar.wrong_version(version) or sidecar.wrong_gpu(gpu)
    assert reason in answer
    assert bool(reason) == bool(answer)


# ---- engines that another program built ----


def test_an_engine_of_trtexec_is_adopted(package: Package, tmp_path: Path) -> None:
    (tmp_path / "trtexec.engine").write_bytes(b"an engine")
    built = adopt_engine(tmp_path / "trtexec.engine", CONTRACT, tmp_path / "model.engine")
    assert built.sidecar.profile == (2, 2, 4)  # the engine's own
    assert (built.sidecar.package, built.sidecar.version) == ("tensorrt", "10.13.2")
    assert built.sidecar.gpu == MODEL.model
    assert built.sidecar.sha256 == hashlib.sha256(b"an engine").hexdigest()
    opened = open_embedder(tmp_path / "model.engine")
    np.testing.assert_array_equal(opened.run(crops(5)), embeddings(crops(5)))


def test_what_cannot_be_adopted(package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"none\.engine: cannot be read"):
        adopt_engine(tmp_path / "none.engine", CONTRACT, tmp_path / "model.engine")
    (tmp_path / "other.engine").write_bytes(b"of another version")
    with pytest.raises(InputError, match=r"other\.engine: tensorrt cannot load it"):
        adopt_engine(tmp_path / "other.engine", CONTRACT, tmp_path / "model.engine")
    monkeypatch.setattr(nvidia, "is_installed", lambda name: False)
    with pytest.raises(RunError, match=r"engines need TensorRT; pip install 'bot-deploy\[tensorrt\]'"):
        adopt_engine(tmp_path / "other.engine", CONTRACT, tmp_path / "model.engine")
    assert not (tmp_path / "model.engine").exists()


# ---- the cache ----


def test_the_cache_keeps_what_was_used_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from helpers.fake_cuda import SIDECAR

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(engine_cache, "MAX_CACHE_BYTES", 10_000)
    sidecars = [replace(SIDECAR, profile=(1, 2, size)) for size in (4, 5, 6)]
    data = b"x" * 4_000  # two of them fit, each with a sidecar of about 700 bytes
    for age, sidecar in enumerate(sidecars[:2]):
        engine_cache.write_engine(data, replace(sidecar, sha256=hashlib.sha256(data).hexdigest()))
        for path in engine_cache.folder().glob(f"{sidecar.key()}*"):
            os.utime(path, (age, age))
    assert engine_cache.read_engine(sidecars[0])  # used now, so that the second is the oldest
    engine_cache.write_engine(data, replace(sidecars[2], sha256=hashlib.sha256(data).hexdigest()))
    assert [engine_cache.read_engine(sidecar) is not None for sidecar in sidecars] == [True, False, True]
    assert len(list(engine_cache.folder().iterdir())) == 4  # engines go with their sidecars
