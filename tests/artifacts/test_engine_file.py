"""Engine files without TensorRT: what is refused before anything is loaded, and what opens."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.fake_cuda import CONTRACT, DIM, HEIGHT, SIDECAR, TENSORRT, Engine, Error, Gpu, crops, embeddings

from bot_deploy import open_embedder
from bot_deploy.artifacts import engine_file
from bot_deploy.backends import nvidia
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError, RunError

WITHOUT_TENSORRT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Refuse())
from bot_deploy.cli import main
main()
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    engine_file.write(path, b"an engine", SIDECAR)
    return path


# ---- the file ----


def test_sidecar_comes_back_as_written(model: Path) -> None:
    assert engine_file.read(model) == (b"an engine", SIDECAR)
    fields = json.loads(model.with_name("model.engine.json").read_text())
    assert fields["sha256"] == hashlib.sha256(b"an engine").hexdigest()
    assert fields["contract"]["height"] == HEIGHT
    assert fields["gpu_archs"] == ["sm86", "sm89"]
    assert fields["profile"] == [1, 2, 4]


def test_sidecars_with_the_older_key_for_gpus_open(model: Path) -> None:
    companion = engine_file.sidecar_path(model)
    companion.write_text(companion.read_text().replace('"gpu_archs"', '"archs"'))
    assert engine_file.read(model) == (b"an engine", SIDECAR)


def test_key_depends_on_every_build_input_and_on_nothing_else() -> None:
    assert SIDECAR.key() == replace(SIDECAR, sha256="").key()
    program = "import sys; from helpers.fake_cuda import SIDECAR; sys.stdout.write(SIDECAR.key())"
    for seed in ("1", "2"):  # of Python's own hash, which nothing here may hang on
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
        )
        assert done.stdout == SIDECAR.key()
    others = [
        {"onnx_sha256": "2" * 64},
        {"package": "tensorrt-rtx"},
        {"version": "10.13.3"},
        {"gpu_archs": ("sm86",)},
        {"profile": (1, 2, 5)},
        {"precision": "fp32"},
        {"gpu": ""},
        {"version_compatible": True},
        {"build_options": "level 5"},
    ]
    assert len({replace(SIDECAR, **other).key() for other in others} | {SIDECAR.key()}) == 10


def _flip(model: Path, companion: Path) -> None:
    model.write_bytes(b"an enginE")


def _cut(model: Path, companion: Path) -> None:
    model.write_bytes(b"an engin")


def _drop(model: Path, companion: Path) -> None:
    companion.unlink()


def _swap(model: Path, companion: Path) -> None:
    other = replace(SIDECAR, sha256=hashlib.sha256(b"another").hexdigest())
    engine_file.write(model.with_name("other.engine"), b"another", other)
    engine_file.sidecar_path(model.with_name("other.engine")).replace(companion)


def _edit(**fields: object) -> object:
    def edit(model: Path, companion: Path) -> None:
        companion.write_text(json.dumps({**json.loads(companion.read_text()), **fields}))

    return edit


def _garble(model: Path, companion: Path) -> None:
    companion.write_bytes(b"\xff\xfe not text")


def _list(model: Path, companion: Path) -> None:
    companion.write_text("[]")


def _forget(model: Path, companion: Path) -> None:
    fields = json.loads(companion.read_text())
    del fields["gpu_archs"]
    companion.write_text(json.dumps(fields))


SPOILS = [
    pytest.param(_flip, "it is not run", id="flipped-byte"),
    pytest.param(_cut, "it is not run", id="truncated"),
    pytest.param(_drop, "model.engine.json is not beside it", id="no-sidecar"),
    pytest.param(_swap, "it is not run", id="sidecar-of-another"),
    pytest.param(_garble, "not readable", id="sidecar-not-text"),
    pytest.param(_list, "its sidecar is not readable", id="sidecar-not-a-dictionary"),
    pytest.param(_forget, "damaged", id="field-missing"),
    pytest.param(_edit(format=2), "sidecar format 2", id="newer-format"),
    pytest.param(_edit(package="os"), "damaged", id="another-module"),
    pytest.param(_edit(profile=[4, 2, 1]), "damaged", id="profile-backwards"),
    pytest.param(_edit(profile="1:2:4"), "damaged", id="profile-text"),
    pytest.param(_edit(contract={"format": 9}), "contract format 9", id="newer-contract"),
    pytest.param(_edit(sha256=None), "damaged", id="no-hash"),
]


@pytest.mark.parametrize(("spoil", "words"), SPOILS)
def test_a_changed_engine_or_sidecar_is_refused(model: Path, spoil: object, words: str) -> None:
    spoil(model, engine_file.sidecar_path(model))  # type: ignore[operator]
    with pytest.raises(InputError, match=words) as refused:
        open_embedder(model)
    assert "model.engine" in str(refused.value)
    assert "bot export" in str(refused.value) or "another" in words or "format" in words


@pytest.mark.parametrize("spoil", [_flip, _drop, _swap])
def test_the_refusal_is_one_line_and_needs_no_tensorrt(model: Path, spoil: object) -> None:
    spoil(model, engine_file.sidecar_path(model))  # type: ignore[operator]
    done = _bot("eval", model)
    assert done.returncode == 2
    assert done.stderr.startswith("bot: ")
    assert len(done.stderr.splitlines()) == 1


def test_package_that_is_not_installed_is_named(model: Path) -> None:
    done = _bot("eval", model)
    assert done.returncode == 1
    assert done.stderr == "bot: tensorrt is not installed; pip install 'bot-deploy[tensorrt]'\n"


def _bot(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TENSORRT, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# ---- opening, with a TensorRT that is a stand-in ----


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with an sm89 GPU and TensorRT 10.13.2, which loads `engine`."""
    gpu = Gpu()
    here = SimpleNamespace(gpu=gpu, engine=Engine(gpu, (1, 2, 4), user_managed=True), loaded=[], runtime=None)

    def runtime(logger: object) -> SimpleNamespace:
        here.runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: here.loaded.append(data) or here.engine)
        return here.runtime

    here.trt = SimpleNamespace(**vars(TENSORRT), Runtime=runtime)
    here.logger = SimpleNamespace(errors=[])
    monkeypatch.setattr(nvidia, "load_tensorrt", lambda package: (here.trt, here.logger))
    monkeypatch.setattr(nvidia, "load_cuda", lambda: gpu)
    return here


def test_engine_that_fits_runs(model: Path, machine: SimpleNamespace) -> None:
    opened = open_embedder(model)
    assert isinstance(opened, Embedder)
    assert opened.contract == CONTRACT
    assert opened.backend == "tensorrt 10.13.2 sm89 fp16"
    assert opened.batch_size == 8  # two of the largest batches
    assert machine.loaded == [b"an engine"]
    np.testing.assert_array_equal(opened.run(crops(9)), embeddings(crops(9)))


def test_other_version_is_refused_unloaded(model: Path, machine: SimpleNamespace) -> None:
    machine.trt.__version__ = "10.13.3"
    with pytest.raises(InputError, match=r"built with tensorrt 10\.13\.2, but 10\.13\.3 is installed; .*bot export"):
        open_embedder(model)
    assert not machine.loaded


def test_other_gpu_is_refused_unloaded(model: Path, machine: SimpleNamespace) -> None:
    engine_file.write(model, b"an engine", replace(SIDECAR, gpu_archs=("sm120",)))
    with pytest.raises(InputError, match=r"built for sm120, but the GPU is sm89; export it again with `bot export"):
        open_embedder(model)
    assert not machine.loaded


def test_another_model_of_gpu_is_refused_unloaded(model: Path, machine: SimpleNamespace) -> None:
    engine_file.write(model, b"an engine", replace(SIDECAR, gpu="NVIDIA L4, 58 multiprocessors"))
    with pytest.raises(InputError, match=r"built for NVIDIA L4, 58 multi.*but the GPU is NVIDIA GeForce RTX 4090, 128"):
        open_embedder(model)
    assert not machine.loaded


def test_sidecars_without_the_newer_fields_open(model: Path, machine: SimpleNamespace) -> None:
    companion = engine_file.sidecar_path(model)
    fields = json.loads(companion.read_text())
    for name in engine_file.OPTIONAL:
        del fields[name]
    companion.write_text(json.dumps(fields))
    assert engine_file.read(model)[1] == replace(SIDECAR, gpu="")
    assert open_embedder(model).backend == "tensorrt 10.13.2 sm89 fp16"


def test_a_version_compatible_engine_may_bring_code_for_the_cpu(model: Path, machine: SimpleNamespace) -> None:
    engine_file.write(model, b"an engine", replace(SIDECAR, version_compatible=True))
    machine.trt.__version__ = "10.14.0"
    open_embedder(model)
    assert machine.runtime.engine_host_code_allowed is True


def test_the_second_gpu_is_asked_for(model: Path, machine: SimpleNamespace) -> None:
    with pytest.raises(RunError, match="no GPU cuda:1, because CUDA sees 1; `bot env`"):
        open_embedder(model, "cuda:1")
    machine.gpu._gpus = 2
    np.testing.assert_array_equal(open_embedder(model, "cuda:1").run(crops(3)), embeddings(crops(3)))
    assert machine.gpu._current == 1


def test_no_gpu_is_a_run_error_with_the_message_of_cuda(
    model: Path, machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.gpu, "cudaGetDeviceCount", lambda: (Error(2), None))
    with pytest.raises(RunError, match=r"no NVIDIA GPU .*out of memory"):
        open_embedder(model)
    assert not machine.loaded


def test_an_engine_that_tensorrt_rejects_gives_its_message(model: Path, machine: SimpleNamespace) -> None:
    machine.engine = None
    machine.logger.errors.append("of an earlier one")
    machine.trt.Runtime = lambda logger: SimpleNamespace(
        deserialize_cuda_engine=lambda data: logger.errors.append("bad magic\nnumber")
    )
    with pytest.raises(InputError, match=r"cannot load it \(bad magic number\)"):
        open_embedder(model)


@pytest.mark.parametrize("message", ["CUDA initialization failure with error: 35", "out of memory"])
def test_a_failure_of_cuda_is_not_blamed_on_the_engine(model: Path, machine: SimpleNamespace, message: str) -> None:
    machine.engine = None
    machine.trt.Runtime = lambda logger: SimpleNamespace(
        deserialize_cuda_engine=lambda data: logger.errors.append(message)
    )
    with pytest.raises(RunError, match=rf"cannot load it \({message}\); `bot env`") as failed:
        open_embedder(model)
    assert "export" not in str(failed.value)


def test_tensorrt_that_does_not_start_is_one_line(model: Path, machine: SimpleNamespace) -> None:
    def runtime(logger: SimpleNamespace) -> None:
        logger.errors.append("CUDA initialization failure")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    machine.trt.Runtime = runtime
    with pytest.raises(RunError, match=r"tensorrt does not start \(CUDA initialization failure; pybind11.*bot env"):
        open_embedder(model)


@pytest.mark.parametrize(("name", "shape"), [("images", (-1, HEIGHT, 9, 3)), ("embeddings", (-1, DIM + 1))])
def test_engine_that_does_not_keep_its_contract_is_refused(
    model: Path, machine: SimpleNamespace, name: str, shape: tuple[int, ...]
) -> None:
    machine.engine._shapes[name] = shape
    with pytest.raises(InputError, match="not what its contract says"):
        open_embedder(model)
