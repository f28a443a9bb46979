"""TensorRT and TensorRT-RTX: engines that `bot export --trt` built, on an NVIDIA GPU."""

from __future__ import annotations

import ctypes
import re
import threading
import weakref
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from bot_deploy.artifacts import engine_file
from bot_deploy.artifacts.contract import INPUT_NAME, OUTPUT_NAME
from bot_deploy.artifacts.engine_file import REEXPORT_HINT
from bot_deploy.backends import nvidia
from bot_deploy.backends.nvidia import check_cuda, join_messages
from bot_deploy.embedder import Embedder
from bot_deploy.errors import GPU_HINT, InputError, RunError

from .shapes import check_shapes

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from bot_deploy.artifacts.engine_file import Sidecar
    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels


def try_runtimes() -> str:
    """Starts each installed package that runs engines; returns their names with versions, and the GPU.

    Raises:
        RunError: none is installed, or one does not start.
    """
    packages = [package for package in engine_file.PACKAGE_MODULES if nvidia.is_installed(package)]
    if not packages:
        raise RunError("neither tensorrt nor tensorrt-rtx is installed; pip install 'bot-deploy[tensorrt]'")
    arch = nvidia.gpu_arch()
    names = []
    for package in packages:
        trt, logger = nvidia.load_tensorrt(package)
        _start(trt, logger)
        names.append(f"{package} {trt.__version__}")
    return f"{' and '.join(names)} on {arch}"


def open_model(path: Path, device: str, threads: int) -> Embedder:
    """Opens an engine with TensorRT; `bot_deploy.embedder.open_embedder` explains the arguments.

    Raises:
        InputError: the sidecar is missing, or the hash, package version or GPU does not match it.
        RunError: no GPU, or the engine's package is not installed.
    """
    del device, threads  # always the GPU
    data, sidecar = engine_file.read(path)
    trt, logger = nvidia.load_tensorrt(sidecar.package)
    if trt.__version__ != sidecar.version:
        raise InputError(
            f"{path}: built with {sidecar.package} {sidecar.version}, but {trt.__version__} is installed; "
            f"{REEXPORT_HINT} here, or pip install {sidecar.package}=={sidecar.version}"
        )
    arch = nvidia.gpu_arch()
    if arch not in sidecar.gpu_archs:
        raise InputError(
            f"{path}: built for {', '.join(sidecar.gpu_archs)}, but the GPU is {arch}; {REEXPORT_HINT} "
            f"on this machine, or with `bot export --trt --gpu-arch {arch}`"
        )
    engine = _deserialize(trt, logger, data, path)
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    shapes = {name: tuple(engine.get_tensor_shape(name)) for name in names}
    check_shapes(shapes, sidecar.contract, path, REEXPORT_HINT)
    runner = Runner(trt, nvidia.load_cuda(), engine, sidecar)
    name = f"{sidecar.package} {sidecar.version} {arch} {sidecar.precision}"
    return Embedder(sidecar.contract, name, runner.run, sidecar.profile[2])


def _start(trt: Any, logger: Any) -> Any:
    """A runtime of TensorRT; raises a RunError with the words of the driver if CUDA does not start."""
    logger.errors.clear()
    try:
        return trt.Runtime(logger)
    except (RuntimeError, TypeError) as error:  # TypeError: pybind11 got no runtime
        raise RunError(
            f"{trt.__name__} does not start ({join_messages([*logger.errors, str(error)])}); {GPU_HINT}"
        ) from None


def _deserialize(trt: Any, logger: Any, data: bytes, path: Path) -> Any:
    runtime = _start(trt, logger)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None and any(re.search("cuda|memory", message, re.IGNORECASE) for message in logger.errors):
        raise RunError(f"{path}: {trt.__name__} cannot load it ({join_messages(logger.errors)}); {GPU_HINT}")
    if engine is None:
        raise InputError(f"{path}: {trt.__name__} cannot load it ({join_messages(logger.errors)}); {REEXPORT_HINT}")
    return engine


class Runner:
    """An engine with its buffers on the GPU; one batch runs at a time.

    TensorRT gets an execution context and a CUDA graph for each batch size up to the size the engine is tuned for:
    for such sizes, launching kernels takes longer than computing. TensorRT-RTX makes CUDA graphs itself.
    """

    def __init__(self, trt: Any, cuda: Any, engine: Any, sidecar: Sidecar) -> None:
        self.trt, self.cuda, self.engine = trt, cuda, engine
        self.min_batch, self.tuned_batch, self.max_batch = sidecar.profile
        self.image_size, self.dim = sidecar.contract.size, sidecar.contract.dim
        self.graphs: dict[int, Any] = {}  # batch size -> its CUDA graph; None if it cannot be captured
        self.contexts: dict[int, Any] = {}  # batch size -> its context; 0 for all larger sizes
        self.lock = threading.Lock()
        self.cleanup = ExitStack()
        weakref.finalize(self, self.cleanup.close)
        self.stream = self._register_cleanup(
            cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking), cuda.cudaStreamDestroy
        )
        self.pixels, self.device_pixels = self._buffers(np.dtype(np.uint8), (self.max_batch, *self.image_size, 3))
        self.vectors, self.device_vectors = self._buffers(np.dtype(np.float32), (self.max_batch, self.dim))
        self.captures_graphs = not hasattr(trt, "CudaGraphStrategy")
        if self.captures_graphs:
            self.scratch = max(engine.device_memory_size_v2, 1)
            self.device_scratch = self._register_cleanup(cuda.cudaMalloc(self.scratch), cuda.cudaFree)

    def run(self, batch: Pixels) -> Vectors:
        """Vectors float32 [N, dim] of `batch` uint8 [N, height, width, 3], any N."""
        out = np.empty((len(batch), self.dim), np.float32)
        with self.lock:
            for start in range(0, len(batch), self.max_batch):
                part = batch[start : start + self.max_batch]
                out[start : start + len(part)] = self._run_batch(part)
        return out

    def _run_batch(self, images: Pixels) -> Vectors:
        """Vectors of at most `max_batch` images; a view that the next pass overwrites."""
        cuda, batch_size = self.cuda, max(len(images), self.min_batch)
        self.pixels[: len(images)] = images
        self.pixels[len(images) : batch_size] = 0
        graph = self.graphs.get(batch_size)
        if graph is None:
            self._enqueue(batch_size)
        else:
            check_cuda(cuda, cuda.cudaGraphLaunch(graph, self.stream))
        check_cuda(cuda, cuda.cudaStreamSynchronize(self.stream))
        if self.captures_graphs and batch_size <= self.tuned_batch and batch_size not in self.graphs:
            # After the first pass of a shape, which also updates the context: that must not be captured.
            self.graphs[batch_size] = self._capture_graph(batch_size)
        return self.vectors[: len(images)]

    def _enqueue(self, batch_size: int) -> None:
        """Puts the work for `batch_size` images on the stream: copy to the GPU, inference, copy back."""
        kinds, context = self.cuda.cudaMemcpyKind, self._context(batch_size)
        pixels, vectors = self.pixels[:batch_size], self.vectors[:batch_size]
        self._copy(self.device_pixels, pixels.ctypes.data, pixels.nbytes, kinds.cudaMemcpyHostToDevice)
        if not context.execute_async_v3(int(self.stream)):
            raise RunError(f"{self.trt.__name__} cannot run a batch of {batch_size}; {GPU_HINT}")
        self._copy(vectors.ctypes.data, self.device_vectors, vectors.nbytes, kinds.cudaMemcpyDeviceToHost)

    def _copy(self, target: int, source: int, count: int, kind: Any) -> None:
        check_cuda(self.cuda, self.cuda.cudaMemcpyAsync(target, source, count, kind, self.stream))

    def _context(self, batch_size: int) -> Any:
        """A context set to `batch_size` images; small batches keep their own: a captured context must not change."""
        small = self.captures_graphs and batch_size <= self.tuned_batch
        key = batch_size if small else 0
        new = key not in self.contexts
        if new:
            self.contexts[key] = self._new_context()
        if new or not small:
            self._set_shape(self.contexts[key], batch_size)
        return self.contexts[key]

    def _new_context(self) -> Any:
        trt, engine = self.trt, self.engine
        if self.captures_graphs:
            # All contexts use one stream, so they never run at once and can share the memory for activations.
            context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        else:
            config = engine.create_runtime_config()
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = engine.create_execution_context(config)
        if context is None:
            raise RunError(f"{trt.__name__} cannot set up the engine; {GPU_HINT}")
        if self.captures_graphs:
            context.set_device_memory(self.device_scratch, self.scratch)
        for name, address in ((INPUT_NAME, self.device_pixels), (OUTPUT_NAME, self.device_vectors)):
            if not context.set_tensor_address(name, address):
                raise RunError(f"{trt.__name__} does not take the address of {name}; {REEXPORT_HINT}")
        return context

    def _set_shape(self, context: Any, batch_size: int) -> None:
        if not context.set_input_shape(INPUT_NAME, (batch_size, *self.image_size, 3)):
            raise RunError(f"{self.trt.__name__} does not take a batch of {batch_size}; {REEXPORT_HINT}")

    def _capture_graph(self, batch_size: int) -> Any:
        """The pass of `batch_size` images as an executable CUDA graph, or None if it cannot be captured."""
        cuda = self.cuda
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check_cuda(cuda, cuda.cudaStreamBeginCapture(self.stream, mode))
        try:
            self._enqueue(batch_size)
        except RunError:
            cuda.cudaStreamEndCapture(self.stream)
            return None
        error, graph = cuda.cudaStreamEndCapture(self.stream)
        if int(error):
            return None
        error, executable = cuda.cudaGraphInstantiate(graph, 0)
        cuda.cudaGraphDestroy(graph)
        if int(error):
            return None
        self.cleanup.callback(cuda.cudaGraphExecDestroy, executable)
        return executable

    def _buffers(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[npt.NDArray[Any], int]:
        """A pinned array on the host, and the address of a buffer of the same size on the GPU."""
        cuda, count = self.cuda, int(np.prod(shape)) * dtype.itemsize
        address = self._register_cleanup(cuda.cudaMallocHost(count), cuda.cudaFreeHost)
        memory = (ctypes.c_uint8 * count).from_address(int(address))
        array = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
        return array, int(self._register_cleanup(cuda.cudaMalloc(count), cuda.cudaFree))

    def _register_cleanup(self, result: tuple[Any, ...], release: Any) -> Any:
        """The resource that a CUDA call created; `release` frees it together with this runner."""
        resource = check_cuda(self.cuda, result)
        self.cleanup.callback(release, resource)
        return resource
