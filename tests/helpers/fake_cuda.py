"""A GPU made of lists, and the engine that runs on it: what is put on its stream happens when it is waited for."""

# ruff: noqa: N802, N815 - the stand-in has the names of CUDA

from __future__ import annotations

import ctypes
import enum
import hashlib
from types import SimpleNamespace

import numpy as np

from bot_deploy.artifacts.contract import Contract
from bot_deploy.artifacts.engine_file import Sidecar

HEIGHT, WIDTH, DIM = 4, 2, 3
CONTRACT = Contract(arch="resnet18", height=HEIGHT, width=WIDTH, dim=DIM, fingerprint="0" * 16)
SIDECAR = Sidecar(
    contract=CONTRACT,
    sha256=hashlib.sha256(b"an engine").hexdigest(),
    onnx_sha256="1" * 64,
    package="tensorrt",
    version="10.13.2",
    gpu_archs=("sm86", "sm89"),
    profile=(1, 2, 4),
    precision="fp16",
)


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
    """The stand-in network: mean, first and last byte of each image, as a unit vector."""
    flat = images.reshape(len(images), HEIGHT * WIDTH * 3).astype(np.float32)
    vectors = np.stack([flat.mean(1) + 1, flat[:, 0], flat[:, -1]], axis=1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def crops(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
