"""Engine files without TensorRT: what is refused before anything is loaded, and running one on a GPU made of lists."""

# ruff: noqa: N802, N815 - the stand-in has the names of CUDA

from __future__ import annotations

import ctypes
import enum
import gc
import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bot_deploy import engines, open_embedder
from bot_deploy.backends import tensorrt
from bot_deploy.contract import Contract
from bot_deploy.embedder import Embedder
from bot_deploy.engines import Sidecar
from bot_deploy.errors import InputError, RunError

HEIGHT, WIDTH, DIM = 4, 2, 3
CONTRACT = Contract(arch="resnet18", height=HEIGHT, width=WIDTH, dim=DIM, fingerprint="0" * 16)
SIDECAR = Sidecar(
    contract=CONTRACT,
    sha256=hashlib.sha256(b"an engine").hexdigest(),
    onnx_sha256="1" * 64,
    package="tensorrt",
    version="10.13.2",
    archs=("sm86", "sm89"),
    profile=(1, 2, 4),
    precision="fp16",
)

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
    engines.write(path, b"an engine", SIDECAR)
    return path


# ---- the file ----


def test_sidecar_comes_back_as_written(model: Path) -> None:
    assert engines.read(model) == (b"an engine", SIDECAR)
    fields = json.loads(model.with_name("model.engine.json").read_text())
    assert fields["sha256"] == hashlib.sha256(b"an engine").hexdigest()
    assert fields["contract"]["height"] == HEIGHT
    assert fields["archs"] == ["sm86", "sm89"]
    assert fields["profile"] == [1, 2, 4]


def test_key_is_of_what_builds_the_engine_and_of_nothing_else() -> None:
    assert SIDECAR.key() == replace(SIDECAR, sha256="").key()
    program = "import sys, test_engine_files as t; sys.stdout.write(t.SIDECAR.key())"
    for seed in ("1", "2"):  # of Python's own hash, which nothing here may hang on
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)}
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
        )
        assert done.stdout == SIDECAR.key()
    others = [
        {"onnx_sha256": "2" * 64},
        {"package": "tensorrt-rtx"},
        {"version": "10.13.3"},
        {"archs": ("sm86",)},
        {"profile": (1, 2, 5)},
        {"precision": "fp32"},
    ]
    assert len({replace(SIDECAR, **other).key() for other in others} | {SIDECAR.key()}) == 7


def _flip(model: Path, companion: Path) -> None:
    model.write_bytes(b"an enginE")


def _cut(model: Path, companion: Path) -> None:
    model.write_bytes(b"an engin")


def _drop(model: Path, companion: Path) -> None:
    companion.unlink()


def _swap(model: Path, companion: Path) -> None:
    other = replace(SIDECAR, sha256=hashlib.sha256(b"another").hexdigest())
    engines.write(model.with_name("other.engine"), b"another", other)
    engines.sidecar_path(model.with_name("other.engine")).replace(companion)


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
    del fields["archs"]
    companion.write_text(json.dumps(fields))


SPOILS = [
    pytest.param(_flip, "it is not run", id="flipped-byte"),
    pytest.param(_cut, "it is not run", id="truncated"),
    pytest.param(_drop, "model.engine.json is not beside it", id="no-sidecar"),
    pytest.param(_swap, "it is not run", id="sidecar-of-another"),
    pytest.param(_garble, "not readable", id="sidecar-not-text"),
    pytest.param(_list, "not the description of an engine", id="sidecar-not-a-dictionary"),
    pytest.param(_forget, "damaged", id="field-missing"),
    pytest.param(_edit(format=2), "sidecar format 2", id="newer-format"),
    pytest.param(_edit(package="os"), "damaged", id="another-module"),
    pytest.param(_edit(profile=[4, 2, 1]), "damaged", id="profile-backwards"),
    pytest.param(_edit(profile="1:2:4"), "damaged", id="profile-text"),
    pytest.param(_edit(contract={"format": 9}), "contract format 9", id="newer-contract"),
    pytest.param(_edit(sha256=None), "damaged", id="no-hash"),
]


@pytest.mark.parametrize(("spoil", "words"), SPOILS)
def test_what_was_tampered_with_is_refused(model: Path, spoil: object, words: str) -> None:
    spoil(model, engines.sidecar_path(model))  # type: ignore[operator]
    with pytest.raises(InputError, match=words) as refused:
        open_embedder(model)
    assert "model.engine" in str(refused.value)
    assert "bot export" in str(refused.value) or "another" in words or "format" in words


@pytest.mark.parametrize("spoil", [_flip, _drop, _swap])
def test_it_is_one_line_and_nothing_of_tensorrt_is_needed_to_see_it(model: Path, spoil: object) -> None:
    spoil(model, engines.sidecar_path(model))  # type: ignore[operator]
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


# ---- a GPU made of lists: what is put on its stream happens when it is waited for, and not before ----


class Error(enum.IntEnum):
    success = 0
    memory_allocation = 2
    stream_capture_unsupported = 900


class Gpu:
    """The functions of `cuda.bindings.runtime` that an engine is run with."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = enum.IntEnum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
    cudaStreamCaptureMode = enum.IntEnum("cudaStreamCaptureMode", {"cudaStreamCaptureModeThreadLocal": 1})
    cudaDeviceAttr = SimpleNamespace(cudaDevAttrComputeCapabilityMajor=75, cudaDevAttrComputeCapabilityMinor=76)

    def __init__(self, memory: int = 1 << 20, *, capturable: bool = True) -> None:
        self.left, self.capturable = memory, capturable
        self.memory: dict[int, tuple[str, object]] = {}
        self.streams: set[int] = set()
        self.executables: dict[int, list[object]] = {}
        self.queue: list[object] = []
        self.capture: list[object] | None = None
        self.log: list[str] = []

    def cudaGetErrorString(self, error: Error) -> tuple[Error, bytes]:
        return Error(0), {2: b"out of memory"}.get(int(error), b"something else")

    def cudaGetDeviceCount(self) -> tuple[Error, int]:
        return Error(0), 1

    def cudaDeviceGetAttribute(self, attribute: int, device: int) -> tuple[Error, int]:
        return Error(0), {75: 8, 76: 9}[attribute]

    def _allocate(self, kind: str, count: int) -> tuple[Error, int | None]:
        if count > self.left:
            return Error(2), None
        self.left -= count
        block = (ctypes.c_uint8 * count)(*[0xAB] * count)  # memory comes with what was in it
        self.memory[ctypes.addressof(block)] = kind, block
        return Error(0), ctypes.addressof(block)

    def cudaMalloc(self, count: int) -> tuple[Error, int | None]:
        return self._allocate("device", count)

    def cudaMallocHost(self, count: int) -> tuple[Error, int | None]:
        return self._allocate("host", count)

    def cudaFree(self, address: int) -> tuple[Error]:
        assert self.memory.pop(address)[0] == "device"
        return (Error(0),)

    def cudaFreeHost(self, address: int) -> tuple[Error]:
        assert self.memory.pop(address)[0] == "host"
        return (Error(0),)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Error, int]:
        assert flags == self.cudaStreamNonBlocking  # the default stream cannot be captured
        self.streams.add(77)
        return Error(0), 77

    def cudaStreamDestroy(self, stream: int) -> tuple[Error]:
        self.streams.remove(stream)
        return (Error(0),)

    def put(self, name: str, work: object) -> None:
        self.log.append(name)
        (self.queue if self.capture is None else self.capture).append(work)

    def cudaMemcpyAsync(self, target: int, source: int, count: int, kind: int, stream: int) -> tuple[Error]:
        assert stream in self.streams
        ends = ("host", "device") if kind == 1 else ("device", "host")
        assert (self.memory[source][0], self.memory[target][0]) == ends
        assert count <= min(len(self.memory[end][1]) for end in (source, target))  # type: ignore[arg-type]
        self.put("in" if kind == 1 else "out", lambda: ctypes.memmove(target, source, count))
        return (Error(0),)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Error]:
        assert stream in self.streams
        assert self.capture is None  # forbidden while capturing
        self.log.append("wait")
        for work in self.queue:
            work()  # type: ignore[operator]
        self.queue.clear()
        return (Error(0),)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Error]:
        assert stream in self.streams
        assert mode == 1
        self.log.append("capture")
        self.capture = []
        return (Error(0),)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Error, list[object] | None]:
        graph, self.capture = self.capture, None
        self.log.append("captured")
        return (Error(0), graph) if self.capturable else (Error(900), None)

    def cudaGraphInstantiate(self, graph: list[object], flags: int) -> tuple[Error, int]:
        self.executables[len(self.executables)] = list(graph)
        return Error(0), len(self.executables) - 1

    def cudaGraphDestroy(self, graph: list[object]) -> tuple[Error]:
        graph.clear()
        return (Error(0),)

    def cudaGraphExecDestroy(self, executable: int) -> tuple[Error]:
        self.executables[executable] = []
        return (Error(0),)

    def cudaGraphLaunch(self, executable: int, stream: int) -> tuple[Error]:
        self.log.append("launch")
        self.queue.extend(self.executables[executable])
        return (Error(0),)


class Context:
    """An execution context whose network is `embeddings`."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.shape, self.addresses, self.memory = engine, None, {}, None
        self.settled = self.captured = False

    def set_device_memory(self, address: int, size: int) -> None:
        assert self.engine.gpu.memory[address][0] == "device"
        assert size >= self.engine.device_memory_size_v2
        self.memory = address

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert self.engine.gpu.memory[address][0] == "device"
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert not self.captured  # undefined behaviour, says the manual
        assert name == "images"
        self.settled = self.settled and shape == self.shape
        self.shape = shape
        least, _, most = self.engine.profile
        return least <= shape[0] <= most

    def execute_async_v3(self, stream: int) -> bool:
        gpu = self.engine.gpu
        assert type(stream) is int
        assert stream in gpu.streams
        assert self.memory is not None or not self.engine.user_managed
        if gpu.capture is not None:
            assert self.settled  # a first pass must have gone before
            self.captured = True
        self.settled = True
        count = self.shape[0]
        source, target = self.addresses["images"], self.addresses["embeddings"]

        def work() -> None:
            pixels = (ctypes.c_uint8 * (count * HEIGHT * WIDTH * 3)).from_address(source)
            images = np.frombuffer(pixels, np.uint8).reshape(count, HEIGHT, WIDTH, 3)
            memory = (ctypes.c_float * (count * DIM)).from_address(target)
            np.frombuffer(memory, np.float32).reshape(count, DIM)[:] = embeddings(images)

        gpu.put(f"run {count}", work)
        return self.engine.runs


class Engine:
    device_memory_size_v2 = 512
    num_io_tensors = 2

    def __init__(self, gpu: Gpu, profile: tuple[int, int, int], *, user_managed: bool, runs: bool = True) -> None:
        self.gpu, self.profile, self.user_managed, self.runs = gpu, profile, user_managed, runs
        self.made: list[Context] = []
        self.config: SimpleNamespace | None = None
        self.shapes = {"images": (-1, HEIGHT, WIDTH, 3), "embeddings": (-1, DIM)}

    def get_tensor_name(self, index: int) -> str:
        return ("images", "embeddings")[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def create_runtime_config(self) -> SimpleNamespace:
        self.config = SimpleNamespace(cuda_graph_strategy="DISABLED")
        return self.config

    def create_execution_context(self, how: object) -> Context:
        assert how == "USER_MANAGED" if self.user_managed else how is self.config
        self.made.append(Context(self))
        return self.made[-1]


TENSORRT = SimpleNamespace(
    __name__="tensorrt",
    __version__="10.13.2",
    ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="USER_MANAGED"),
)
RTX = SimpleNamespace(
    __name__="tensorrt_rtx",
    __version__="1.7.1",
    CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="WHOLE_GRAPH_CAPTURE"),
)


def embeddings(images: np.ndarray) -> np.ndarray:
    """The stand-in network: mean, first and last byte of each image."""
    flat = images.reshape(len(images), HEIGHT * WIDTH * 3).astype(np.float32)
    return np.stack([flat.mean(1), flat[:, 0], flat[:, -1]], axis=1)


def crops(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)


def runner(
    gpu: Gpu, profile: tuple[int, int, int] = (1, 2, 4), trt: SimpleNamespace = TENSORRT, *, runs: bool = True
) -> tensorrt.Runner:
    engine = Engine(gpu, profile, user_managed=trt is TENSORRT, runs=runs)
    return tensorrt.Runner(trt, gpu, engine, replace(SIDECAR, profile=profile))


@pytest.mark.parametrize("trt", [TENSORRT, RTX], ids=["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("profile", [(1, 2, 4), (3, 3, 5), (2, 6, 6), (1, 1, 1)])
def test_any_batch_comes_back_whole_and_in_order(profile: tuple[int, int, int], trt: SimpleNamespace) -> None:
    running = runner(Gpu(), profile, trt)
    for count in (*range(12), 3, 1, 11, 2):  # sizes come back, so that captured passes run, too
        images = crops(count, seed=count)
        vectors = running.run(images)
        assert vectors.shape == (count, DIM)
        assert vectors.dtype == np.float32
        np.testing.assert_array_equal(vectors, embeddings(images))


def test_results_are_the_callers_own() -> None:
    running = runner(Gpu())
    first = running.run(crops(2, seed=1))
    running.run(crops(2, seed=2))
    np.testing.assert_array_equal(first, embeddings(crops(2, seed=1)))


def test_every_second_pixel_of_a_larger_picture_is_taken_as_seen() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 2 * HEIGHT, WIDTH, 3), dtype=np.uint8)[:, ::2]
    np.testing.assert_array_equal(runner(Gpu()).run(images), embeddings(images))


def test_order_of_calls_and_one_graph_for_each_small_batch() -> None:
    gpu = Gpu()
    running = runner(gpu, (1, 2, 4))
    running.run(crops(2))
    first = ["in", "run 2", "out", "wait"]
    capture = ["capture", "in", "run 2", "out", "captured"]
    assert gpu.log == [*first, *capture]
    gpu.log.clear()
    running.run(crops(2))
    assert gpu.log == ["launch", "wait"]
    gpu.log.clear()
    running.run(crops(7))  # 4 and 3, more than the best: no graphs
    running.run(crops(4))
    assert gpu.log == [word for size in (4, 3, 4) for word in ("in", f"run {size}", "out", "wait")]
    gpu.log.clear()
    running.run(crops(2))  # its context was left alone by the larger ones
    assert gpu.log == ["launch", "wait"]


def test_less_than_the_least_is_padded_and_the_padding_is_black() -> None:
    gpu = Gpu()
    running = runner(gpu, (3, 3, 4))
    running.run(np.full((4, HEIGHT, WIDTH, 3), 255, np.uint8))
    vectors = running.run(crops(1))
    assert "run 3" in gpu.log
    assert vectors.shape == (1, DIM)
    assert not running.pixels[1:3].any()


def test_rtx_makes_its_graphs_itself_in_one_context() -> None:
    gpu = Gpu()
    running = runner(gpu, (1, 2, 4), RTX)
    for count in (2, 2, 1, 4):
        running.run(crops(count))
    assert "capture" not in gpu.log
    assert len(running.engine.made) == 1
    assert running.engine.config.cuda_graph_strategy == "WHOLE_GRAPH_CAPTURE"


def test_what_cannot_be_captured_runs_without_a_graph_and_is_tried_once() -> None:
    gpu = Gpu(capturable=False)
    running = runner(gpu)
    for seed in range(3):
        np.testing.assert_array_equal(running.run(crops(2, seed)), embeddings(crops(2, seed)))
    assert gpu.log.count("capture") == 1
    assert "launch" not in gpu.log


@pytest.mark.parametrize("trt", [TENSORRT, RTX], ids=["tensorrt", "tensorrt-rtx"])
def test_memory_is_given_back(trt: SimpleNamespace) -> None:
    gpu = Gpu()
    running = runner(gpu, (1, 2, 4), trt)
    running.run(crops(7))
    running.run(crops(2))
    assert {kind for kind, _ in gpu.memory.values()} == {"host", "device"}
    assert bool(gpu.executables) is (trt is TENSORRT)
    del running
    gc.collect()
    assert not gpu.memory
    assert not gpu.streams
    assert not any(gpu.executables.values())


def test_gpu_without_memory_is_one_line_and_keeps_nothing() -> None:
    gpu = Gpu(memory=200)
    with pytest.raises(RunError, match="out of memory"):
        runner(gpu)
    gc.collect()
    assert not gpu.memory


def test_engine_that_does_not_run_says_so() -> None:
    with pytest.raises(RunError, match="cannot run a batch of 2"):
        runner(Gpu(), runs=False).run(crops(2))


def test_two_threads_do_not_mix_their_batches() -> None:
    running = runner(Gpu())
    wrong: list[int] = []

    def work(seed: int) -> None:
        for turn in range(50):
            images = crops(1 + turn % 4, seed)
            if not np.array_equal(running.run(images), embeddings(images)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- opening, with a TensorRT that is a stand-in ----


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with an sm89 GPU and TensorRT 10.13.2, which loads `engine`."""
    gpu = Gpu()
    here = SimpleNamespace(gpu=gpu, engine=Engine(gpu, (1, 2, 4), user_managed=True), loaded=[])

    def runtime(logger: object) -> SimpleNamespace:
        return SimpleNamespace(deserialize_cuda_engine=lambda data: here.loaded.append(data) or here.engine)

    here.trt = SimpleNamespace(**vars(TENSORRT), Runtime=runtime)
    here.logger = SimpleNamespace(errors=[])
    monkeypatch.setattr(engines, "load", lambda package: (here.trt, here.logger))
    monkeypatch.setattr(engines, "load_cuda", lambda: gpu)
    return here


def test_engine_that_fits_runs(model: Path, machine: SimpleNamespace) -> None:
    opened = open_embedder(model)
    assert isinstance(opened, Embedder)
    assert opened.contract == CONTRACT
    assert opened.backend == "tensorrt 10.13.2 sm89 fp16"
    assert opened.batch == 4
    assert machine.loaded == [b"an engine"]
    np.testing.assert_array_equal(opened.run(crops(9)), embeddings(crops(9)))


def test_other_version_is_refused_unloaded(model: Path, machine: SimpleNamespace) -> None:
    machine.trt.__version__ = "10.13.3"
    with pytest.raises(InputError, match=r"built with tensorrt 10\.13\.2, but 10\.13\.3 is installed; .*bot export"):
        open_embedder(model)
    assert not machine.loaded


def test_other_gpu_is_refused_unloaded(model: Path, machine: SimpleNamespace) -> None:
    engines.write(model, b"an engine", replace(SIDECAR, archs=("sm120",)))
    with pytest.raises(InputError, match=r"built for sm120, but the GPU is sm89; .*--gpu-arch sm89"):
        open_embedder(model)
    assert not machine.loaded


def test_no_gpu_is_a_failed_run_in_cudas_words(
    model: Path, machine: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.gpu, "cudaGetDeviceCount", lambda: (Error(2), None))
    with pytest.raises(RunError, match=r"no NVIDIA GPU .*out of memory"):
        open_embedder(model)
    assert not machine.loaded


def test_engine_that_tensorrt_rejects_gives_its_words(model: Path, machine: SimpleNamespace) -> None:
    machine.engine = None
    machine.logger.errors.append("of an earlier one")
    machine.trt.Runtime = lambda logger: SimpleNamespace(
        deserialize_cuda_engine=lambda data: logger.errors.append("bad magic\nnumber")
    )
    with pytest.raises(InputError, match=r"cannot load it \(bad magic number\)"):
        open_embedder(model)


@pytest.mark.parametrize(("name", "shape"), [("images", (-1, HEIGHT, 9, 3)), ("embeddings", (-1, DIM + 1))])
def test_engine_that_does_not_keep_its_contract_is_refused(
    model: Path, machine: SimpleNamespace, name: str, shape: tuple[int, ...]
) -> None:
    machine.engine.shapes[name] = shape
    with pytest.raises(InputError, match="not what its contract says"):
        open_embedder(model)
