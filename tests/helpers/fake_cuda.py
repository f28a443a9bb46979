"""A GPU made of lists, and the engine that runs on it: what is put on its streams happens when it is waited for.

With a seed, parts of it happen earlier, in an order that the streams and events allow: a wait that is missing shows.
It refuses what the headers of CUDA and TensorRT forbid, and any of its calls can be made to fail. The names of its
classes are compared with the real ones where these are installed: see `like`.
"""

# ruff: noqa: N802, N815 - the stand-in has the names of CUDA

from __future__ import annotations

import ctypes
import enum
import hashlib
from collections import deque
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np

from bot_deploy.artifacts.contract import Contract
from bot_deploy.artifacts.engine_file import Sidecar
from bot_deploy.driver import Gpu as GpuModel

HEIGHT, WIDTH, DIM = 4, 2, 3
CONTRACT = Contract(arch="resnet18", height=HEIGHT, width=WIDTH, dim=DIM, fingerprint="0" * 16)
MODEL = GpuModel("NVIDIA GeForce RTX 4090", "sm89", 128, 24 << 30)
SIDECAR = Sidecar(
    contract=CONTRACT,
    sha256=hashlib.sha256(b"an engine").hexdigest(),
    onnx_sha256="1" * 64,
    package="tensorrt",
    version="10.13.2",
    gpu_archs=("sm86", "sm89"),
    profile=(1, 2, 4),
    precision="fp16",
    gpu=MODEL.model,
)


def like(module: str, name: str = "") -> Callable[[type], type]:
    """Makes a stand-in as strict as the class `name` of `module`, or as the module: no attribute that it lacks.

    A public attribute of the stand-in that the real one lacks is an error here, and setting one is an error there. The
    code under test can so misspell nothing, neither in a call nor in an assignment.
    """

    def check(stand_in: type) -> type:
        if not find_spec(module.partition(".")[0]):
            return stand_in
        real = import_module(module)
        known = set(dir(getattr(real, name) if name else real))
        own = {attribute for attribute in vars(stand_in) if not attribute.startswith("_")}
        assert own <= known, f"{name or module} has no {', '.join(sorted(own - known))}"

        def set_known(self: object, attribute: str, value: object) -> None:
            assert attribute.startswith("_") or attribute in known, f"{name or module} has no {attribute}"
            object.__setattr__(self, attribute, value)

        stand_in.__setattr__ = set_known  # type: ignore[assignment,method-assign]
        return stand_in

    return check


class Error(enum.IntEnum):
    success = 0
    memory_allocation = 2
    no_kernel_image = 209
    illegal_address = 700
    launch_failure = 719
    stream_capture_unsupported = 900
    stream_capture_invalidated = 901


WORDS = {
    2: b"out of memory",
    209: b"no kernel image is available for execution on the device",
    700: b"an illegal memory access was encountered",
    719: b"unspecified launch failure",
}
STICKY = {700, 719}  # after these, every call of the process fails


@like("cuda.bindings.runtime")
class Gpu:
    """The functions of `cuda.bindings.runtime` that an engine is run with, on a machine with `gpus` GPUs."""

    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaMemcpyKind = enum.IntEnum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
    cudaStreamCaptureMode = enum.IntEnum("cudaStreamCaptureMode", {"cudaStreamCaptureModeThreadLocal": 1})

    def __init__(
        self, memory: int = 1 << 20, *, capturable: bool = True, gpus: int = 1, seed: int | None = None
    ) -> None:
        self._left, self._capturable, self._gpus, self._current = memory, capturable, gpus, 0
        self._chance = None if seed is None else np.random.default_rng(seed)
        self._memory: dict[int, tuple[str, Any, int]] = {}  # address -> kind, block, GPU
        self._streams: dict[int, int] = {}  # stream -> GPU
        self._executables: dict[int, list[Any]] = {}
        # Stream -> what it has to do: a name and work, or an event and the number of a record to wait for or to make.
        self._queues: dict[int, deque[tuple[str, Any, int]]] = {}
        self._events: dict[int, list[int]] = {}  # event -> number of records asked for, and number of those done
        self._done: list[str] = []  # names of the work that was done, in order
        self._capture: list[Any] | None = None
        self._captured_stream = 0
        self._invalid = False  # the capture
        self._log: list[str] = []
        self._faults: dict[str, Error] = {}  # name of a function -> what it returns
        self._broken: Error | None = None

    def _fault(self, function: str) -> Error:
        error = self._broken or self._faults.get(function, Error.success)
        if error in STICKY:
            self._broken = error
        return error

    def _forbidden_in_capture(self) -> Error:
        """As the mode "thread local" forbids it: an error that also invalidates the capture."""
        if self._capture is None:
            return Error.success
        self._invalid = True
        return Error.stream_capture_unsupported

    def cudaGetErrorString(self, error: Error) -> tuple[Error, bytes]:
        return Error.success, WORDS.get(int(error), b"something else")

    def cudaGetDeviceCount(self) -> tuple[Error, int]:
        return self._fault("cudaGetDeviceCount"), self._gpus

    def cudaGetDeviceProperties(self, device: int) -> tuple[Error, Any]:
        assert 0 <= device < self._gpus
        properties = SimpleNamespace(
            name=MODEL.name.encode(),
            major=8,
            minor=9,
            multiProcessorCount=MODEL.multiprocessors,
            totalGlobalMem=MODEL.memory,
        )
        return self._fault("cudaGetDeviceProperties"), properties

    def cudaSetDevice(self, device: int) -> tuple[Error]:
        assert 0 <= device < self._gpus
        self._current = device
        return (self._fault("cudaSetDevice"),)

    def _allocate(self, kind: str, count: int) -> tuple[Error, int | None]:
        error = self._forbidden_in_capture()
        if error or count > self._left:
            return error or Error.memory_allocation, None
        self._left -= count
        block = (ctypes.c_uint8 * count)(*[0xAB] * count)  # memory comes with what was in it
        self._memory[ctypes.addressof(block)] = kind, block, self._current
        return Error.success, ctypes.addressof(block)

    def cudaMalloc(self, count: int) -> tuple[Error, int | None]:
        return self._allocate("device", count)

    def cudaMallocHost(self, count: int) -> tuple[Error, int | None]:
        return self._allocate("host", count)

    def cudaFree(self, address: int) -> tuple[Error]:
        assert self._memory.pop(address)[0] == "device"
        return (Error.success,)

    def cudaFreeHost(self, address: int) -> tuple[Error]:
        assert self._memory.pop(address)[0] == "host"
        return (Error.success,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Error, int]:
        assert flags == self.cudaStreamNonBlocking  # the default stream cannot be captured
        stream = 77 + len(self._streams)
        self._streams[stream], self._queues[stream] = self._current, deque()
        return Error.success, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[Error]:
        del self._streams[stream], self._queues[stream]
        return (Error.success,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Error, int]:
        assert flags == self.cudaEventDisableTiming  # one with timing makes a stream wait longer
        event = 177 + len(self._events)
        self._events[event] = [0, 0]
        return Error.success, event

    def cudaEventDestroy(self, event: int) -> tuple[Error]:
        del self._events[event]
        return (Error.success,)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Error]:
        self._check_stream(stream)
        assert self._capture is None  # it would become a part of the graph
        error = self._fault("cudaEventRecord")
        if not error:
            self._events[event][0] += 1
            self._queues[stream].append(("record", event, self._events[event][0]))
        return (error,)

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[Error]:
        self._check_stream(stream)
        assert flags == 0
        assert self._capture is None
        error = self._fault("cudaStreamWaitEvent")
        if not error:  # an event that was never recorded lets everything pass
            self._queues[stream].append(("wait", event, self._events[event][0]))
        return (error,)

    def cudaEventSynchronize(self, event: int) -> tuple[Error]:
        error = self._forbidden_in_capture() or self._fault("cudaEventSynchronize")
        if error:
            return (error,)
        self._log.append("wait")
        number = self._events[event][0]
        while self._events[event][1] < number:
            # Only a stream that records it can end the wait, and what that stream waits for itself.
            recording = next(stream for stream, queue in self._queues.items() if ("record", event, number) in queue)
            self._drain_one(recording)
        return (Error.success,)

    def _drain_one(self, stream: int) -> None:
        """Does the next thing on `stream`, and before it what that waits for."""
        kind, what, number = self._queues[stream][0]
        while kind == "wait" and self._events[what][1] < number:
            self._drain_one(next(other for other, queue in self._queues.items() if ("record", what, number) in queue))
        self._queues[stream].popleft()
        if kind == "record":
            self._events[what][1] = number
        elif kind != "wait":
            what()
            self._done.append(kind)

    def _let_time_pass(self) -> None:
        """With a seed: does some of what could be done by now."""
        while self._chance is not None and self._chance.random() < 0.6:
            stream = int(self._chance.choice(list(self._queues)))
            queue = self._queues[stream]
            if queue and not (queue[0][0] == "wait" and self._events[queue[0][1]][1] < queue[0][2]):
                self._drain_one(stream)

    def _check_stream(self, stream: int) -> None:
        # A stream of another GPU than the thread's present one is an invalid handle.
        assert self._streams[int(stream)] == self._current

    def _put(self, name: str, work: object, stream: int) -> None:
        self._log.append(name)
        if self._capture is None:
            self._queues[stream].append((name, work, 0))
            self._let_time_pass()
        else:
            assert stream == self._captured_stream  # another stream goes on with its work
            self._capture.append((name, work, 0))

    def cudaMemcpyAsync(self, target: int, source: int, count: int, kind: int, stream: int) -> tuple[Error]:
        self._check_stream(stream)
        ends = ("host", "device") if kind == 1 else ("device", "host")
        # An address that CUDA did not allocate is pageable memory, for which the copy would wait.
        assert (self._memory[source][0], self._memory[target][0]) == ends
        assert count <= min(len(self._memory[end][1]) for end in (source, target))
        error = self._fault("cudaMemcpyAsync")
        if not error:
            self._put("in" if kind == 1 else "out", lambda: ctypes.memmove(target, source, count), stream)
        return (error,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Error]:
        self._check_stream(stream)
        error = self._forbidden_in_capture() or self._fault("cudaStreamSynchronize")
        if error:
            return (error,)
        self._log.append("wait for all")
        while self._queues[stream]:
            self._drain_one(stream)
        return (Error.success,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Error]:
        self._check_stream(stream)
        assert mode == 1
        assert self._capture is None
        self._log.append("capture")
        self._capture, self._captured_stream, self._invalid = [], stream, False
        return (self._fault("cudaStreamBeginCapture"),)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Error, Any]:
        self._check_stream(stream)
        assert self._capture is not None
        graph, self._capture = self._capture, None
        self._log.append("captured")
        if self._invalid:
            return Error.stream_capture_invalidated, None
        return (Error.success, graph) if self._capturable else (Error.stream_capture_unsupported, None)

    def cudaGraphInstantiate(self, graph: list[Any], flags: int) -> tuple[Error, int]:
        self._executables[len(self._executables)] = list(graph)
        return self._fault("cudaGraphInstantiate"), len(self._executables) - 1

    def cudaGraphDestroy(self, graph: list[Any]) -> tuple[Error]:
        graph.clear()
        return (Error.success,)

    def cudaGraphExecDestroy(self, executable: int) -> tuple[Error]:
        self._executables[executable] = []
        return (Error.success,)

    def cudaGraphLaunch(self, executable: int, stream: int) -> tuple[Error]:
        self._check_stream(stream)
        error = self._fault("cudaGraphLaunch")
        if not error:
            self._log.append("launch")
            self._queues[stream].extend(self._executables[executable])
            self._let_time_pass()
        return (error,)


@like("tensorrt_rtx", "IRuntimeCache")
class RuntimeCache:
    """Compiled kernels, here the batch sizes that they are for."""

    def __init__(self) -> None:
        self._kernels: set[int] = set()

    def deserialize(self, data: bytes) -> bool:
        if not data.startswith(b"kernels"):
            return False  # of another version or driver
        self._kernels |= set(data[len(b"kernels") :])
        return True

    def serialize(self) -> bytes:
        return b"kernels" + bytes(sorted(self._kernels))


@like("tensorrt_rtx", "IRuntimeConfig")
class RuntimeConfig:
    cuda_graph_strategy = "DISABLED"
    dynamic_shapes_kernel_specialization_strategy = "LAZY"

    def __init__(self) -> None:
        self._cache: RuntimeCache | None = None

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self._cache = cache
        return True


@like("tensorrt_rtx", "IExecutionContext")
class Context:
    """An execution context whose network is `embeddings`."""

    def __init__(self, engine: Engine, config: RuntimeConfig | None) -> None:
        self._engine, self._config, self._shape = engine, config, None
        self._addresses: dict[str, int] = {}
        self._scratch: int | None = None
        self._settled = self._captured = False

    def set_device_memory(self, address: int, size: int) -> None:
        assert self._engine._user_managed
        assert self._engine._gpu._memory[address][0] == "device"
        assert size >= self._engine.device_memory_size_v2
        assert len(self._engine._gpu._memory[address][1]) >= size
        self._scratch = address

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert not self._captured  # the graph would go on with the old one
        if name not in self._engine._shapes:
            return False
        assert self._engine._gpu._memory[address][0] == "device"
        self._addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert not self._captured  # undefined behaviour, says the manual
        assert name == "images"
        self._settled = self._settled and shape == self._shape
        least, _, most = self._engine._profile
        if not least <= shape[0] <= most:
            return False
        self._shape = shape
        return True

    def execute_async_v3(self, stream: int) -> bool:
        engine, gpu = self._engine, self._engine._gpu
        assert type(stream) is int
        gpu._check_stream(stream)
        missing = [name for name in engine._shapes if name not in self._addresses]
        if missing or self._shape is None or (self._scratch is None and engine._user_managed):
            engine._logger.errors.append(f"no address or shape is set: {missing}")
            return False
        error = gpu._fault("execute_async_v3")
        if error or not engine._runs:
            engine._logger.errors.append(f"Cuda Runtime ({WORDS.get(int(error), b'').decode()})")
            return False
        if gpu._capture is not None:
            if not self._settled:  # the first pass of a shape allocates
                gpu._forbidden_in_capture()
                return False
            self._captured = True
        self._settled = True
        count = self._shape[0]
        if self._config is not None and self._config._cache is not None:
            self._compile(count)
        source, target = self._addresses["images"], self._addresses["embeddings"]

        def work() -> None:
            pixels = (ctypes.c_uint8 * (count * HEIGHT * WIDTH * 3)).from_address(source)
            images = np.frombuffer(pixels, np.uint8).reshape(count, HEIGHT, WIDTH, 3)
            memory = (ctypes.c_float * (count * DIM)).from_address(target)
            np.frombuffer(memory, np.float32).reshape(count, DIM)[:] = embeddings(images)

        gpu._put(f"run {count}", work, stream)
        return True

    def _compile(self, count: int) -> None:
        kernels = self._config._cache._kernels  # type: ignore[union-attr]
        if count not in kernels:
            self._engine._compiled.append(count)
            kernels.add(count)


@like("tensorrt_rtx", "ICudaEngine")
class Engine:
    device_memory_size_v2 = 512
    num_io_tensors = 2

    def __init__(self, gpu: Gpu, profile: tuple[int, int, int], *, user_managed: bool, runs: bool = True) -> None:
        self._gpu, self._profile, self._user_managed, self._runs = gpu, profile, user_managed, runs
        self._made: list[Context] = []
        self._compiled: list[int] = []  # batch sizes whose kernels were compiled, and not read
        self._config: RuntimeConfig | None = None
        self._shapes = {"images": (-1, HEIGHT, WIDTH, 3), "embeddings": (-1, DIM)}
        self._logger = SimpleNamespace(errors=[])

    def get_tensor_name(self, index: int) -> str:
        return tuple(self._shapes)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert (name, profile_index) == ("images", 0)
        return [(size, *self._shapes[name][1:]) for size in self._profile]

    def create_runtime_config(self) -> RuntimeConfig:
        self._config = RuntimeConfig()
        return self._config

    def create_execution_context(self, how: object) -> Context | None:
        assert how == "USER_MANAGED" if self._user_managed else how is self._config
        if self._gpu._fault("create_execution_context"):
            self._logger.errors.append("Cuda Runtime (out of memory)")
            return None
        self._made.append(Context(self, None if self._user_managed else self._config))
        return self._made[-1]


TENSORRT = SimpleNamespace(
    __name__="tensorrt",
    __version__="10.13.2",
    ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="USER_MANAGED"),
)
RTX = SimpleNamespace(
    __name__="tensorrt_rtx",
    __version__="1.7.1",
    CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="WHOLE_GRAPH_CAPTURE"),
    DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="EAGER"),
)


def embeddings(images: np.ndarray) -> np.ndarray:
    """The stand-in network: mean, first and last byte of each image, as a unit vector."""
    flat = images.reshape(len(images), HEIGHT * WIDTH * 3).astype(np.float32)
    vectors = np.stack([flat.mean(1) + 1, flat[:, 0], flat[:, -1]], axis=1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def crops(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
