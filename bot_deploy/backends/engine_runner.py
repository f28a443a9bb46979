"""Runs an engine: buffers on the GPU, a few batch sizes, CUDA graphs, and the kernels that TensorRT-RTX compiles."""

from __future__ import annotations

import ctypes
import logging
import threading
import weakref
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from bot_deploy.artifacts import engine_cache
from bot_deploy.artifacts.contract import INPUT_NAME, OUTPUT_NAME
from bot_deploy.artifacts.engine_file import REEXPORT_HINT
from bot_deploy.backends.nvidia import check_cuda, join_messages
from bot_deploy.errors import GPU_HINT, RunError

if TYPE_CHECKING:
    import numpy.typing as npt

    from bot_deploy.artifacts.engine_file import Sidecar
    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels

logger = logging.getLogger(__name__)


def batch_sizes(profile: tuple[int, int, int]) -> list[int]:
    """The batch sizes that an engine runs, in ascending order; a batch between two of them is padded.

    They are the powers of two, those times one and a half, and the sizes of `profile`: smallest, tuned, largest. Each
    costs a context and a CUDA graph, or kernels of its own in TensorRT-RTX, so there are few.
    """
    smallest, _, largest = profile
    powers = [2**exponent for exponent in range(largest.bit_length() + 1)]
    sizes = {*profile, *powers, *(power + power // 2 for power in powers)}
    return sorted(size for size in sizes if smallest <= size <= largest)


class Runner:
    """An engine on the GPU `number`; one batch runs at a time.

    TensorRT gets an execution context and a CUDA graph for each batch size up to the size the engine is tuned for:
    for such sizes, launching kernels takes longer than computing. TensorRT-RTX makes CUDA graphs itself, and its
    kernels are compiled at their first use and kept beside the built engines.
    """

    def __init__(self, trt: Any, trt_logger: Any, cuda: Any, engine: Any, sidecar: Sidecar, number: int = 0) -> None:
        self.trt, self.trt_logger, self.cuda, self.engine, self.number = trt, trt_logger, cuda, engine, number
        self.sizes, self.tuned_batch, self.max_batch = batch_sizes(sidecar.profile), *sidecar.profile[1:]
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
        self.is_rtx = hasattr(trt, "CudaGraphStrategy")
        if self.is_rtx:
            self.config = self._rtx_config(f"{sidecar.sha256[:32]}-{sidecar.version}")
        else:
            self.scratch = max(engine.device_memory_size_v2, 1)
            self.device_scratch = self._register_cleanup(cuda.cudaMalloc(self.scratch), cuda.cudaFree)

    def run(self, batch: Pixels) -> Vectors:
        """Vectors float32 [N, dim] of `batch` uint8 [N, height, width, 3], any N."""
        out = np.empty((len(batch), self.dim), np.float32)
        with self.lock:
            # CUDA's present GPU is a matter of each thread.
            check_cuda(self.cuda, self.cuda.cudaSetDevice(self.number))
            for start in range(0, len(batch), self.max_batch):
                part = batch[start : start + self.max_batch]
                out[start : start + len(part)] = self._run_batch(part)
        return out

    def _run_batch(self, images: Pixels) -> Vectors:
        """Vectors of at most `max_batch` images; a view that the next pass overwrites."""
        cuda = self.cuda
        batch_size = next(size for size in self.sizes if size >= len(images))
        self.pixels[: len(images)] = images
        self.pixels[len(images) : batch_size] = 0
        graph = self.graphs.get(batch_size)
        if graph is None:
            self._enqueue(batch_size)
        else:
            check_cuda(cuda, cuda.cudaGraphLaunch(graph, self.stream))
        check_cuda(cuda, cuda.cudaStreamSynchronize(self.stream))
        if not self.is_rtx and batch_size <= self.tuned_batch and batch_size not in self.graphs:
            # After the first pass of a shape, which also updates the context: that must not be captured.
            self.graphs[batch_size] = self._capture_graph(batch_size)
        return self.vectors[: len(images)]

    def _enqueue(self, batch_size: int) -> None:
        """Puts the work for `batch_size` images on the stream: copy to the GPU, inference, copy back."""
        kinds, context = self.cuda.cudaMemcpyKind, self._context(batch_size)
        pixels, vectors = self.pixels[:batch_size], self.vectors[:batch_size]
        self._copy(self.device_pixels, pixels.ctypes.data, pixels.nbytes, kinds.cudaMemcpyHostToDevice)
        self.trt_logger.errors.clear()
        if not context.execute_async_v3(int(self.stream)):
            reason = join_messages(self.trt_logger.errors)
            raise RunError(f"{self.trt.__name__} cannot run a batch of {batch_size} ({reason}); {GPU_HINT}")
        self._copy(vectors.ctypes.data, self.device_vectors, vectors.nbytes, kinds.cudaMemcpyDeviceToHost)

    def _copy(self, target: int, source: int, count: int, kind: Any) -> None:
        check_cuda(self.cuda, self.cuda.cudaMemcpyAsync(target, source, count, kind, self.stream))

    def _context(self, batch_size: int) -> Any:
        """A context set to `batch_size` images; small batches keep their own: a captured context must not change."""
        small = not self.is_rtx and batch_size <= self.tuned_batch
        key = batch_size if small else 0
        new = key not in self.contexts
        if new:
            self.contexts[key] = self._new_context()
        if new or not small:
            self._set_shape(self.contexts[key], batch_size)
        return self.contexts[key]

    def _new_context(self) -> Any:
        trt, engine = self.trt, self.engine
        self.trt_logger.errors.clear()
        if self.is_rtx:
            context = engine.create_execution_context(self.config)
        else:
            # All contexts use one stream, so they never run at once and can share the memory for activations.
            context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            reason = join_messages(self.trt_logger.errors)
            raise RunError(f"{trt.__name__} cannot set up the engine ({reason}); {GPU_HINT}")
        if not self.is_rtx:
            context.set_device_memory(self.device_scratch, self.scratch)
        for name, address in ((INPUT_NAME, self.device_pixels), (OUTPUT_NAME, self.device_vectors)):
            if not context.set_tensor_address(name, address):
                raise RunError(f"{trt.__name__} does not take the address of {name}; {REEXPORT_HINT}")
        return context

    def _rtx_config(self, name: str) -> Any:
        """TensorRT-RTX's settings, with the kernels that earlier runs compiled; new ones are kept when the runner ends.

        Kernels are compiled before the first batch of a size runs. Otherwise slower ones would run meanwhile, and the
        embeddings of one crop would differ in their last bits between two calls.
        """
        trt, config = self.trt, self.engine.create_runtime_config()
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        strategies = trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        kernels = config.create_runtime_cache()
        kept = engine_cache.read(f"{name}.kernels")
        if kept and not kernels.deserialize(kept):
            kept = b""  # of another driver or GPU; written anew
        if config.set_runtime_cache(kernels):
            self.cleanup.callback(_keep_kernels, kernels, kept, name)
        return config

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


def _keep_kernels(kernels: Any, kept: bytes, name: str) -> None:
    compiled = bytes(kernels.serialize() or b"")
    if compiled and compiled != kept:
        with suppress(OSError, RunError):  # they are compiled again next time
            engine_cache.write(f"{name}.kernels", compiled)
