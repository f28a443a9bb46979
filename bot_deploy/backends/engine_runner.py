"""Runs an engine: two buffers on the GPU, a few batch sizes, CUDA graphs, and kernels that TensorRT-RTX compiles."""

from __future__ import annotations

import ctypes
import logging
import threading
import weakref
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
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
    from bot_deploy.driver import Gpu
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


@dataclass
class _Slot:
    """Memory for one batch on the host and on the GPU, and what runs on it. TensorRT knows its addresses for good."""

    pixels: npt.NDArray[np.uint8]  # [largest batch, height, width, 3]
    vectors: npt.NDArray[np.float32]  # [largest batch, dim]
    device_pixels: int
    device_vectors: int
    copied: Any  # event: the pixels are on the GPU
    done: Any  # event: the vectors are on the host
    rows: range = range(0)  # of the images that it has now
    batch_size: int = 0  # that it runs now
    contexts: dict[int, Any] = field(default_factory=dict)  # batch size -> its context; 0 for all larger sizes
    graphs: dict[int, Any] = field(default_factory=dict)  # batch size -> its CUDA graph; None if it cannot be captured


class Runner:
    """An engine on a GPU; one call of `run` computes at a time.

    More images than the largest batch take turns in two slots: while the GPU computes one, the other is filled and
    copied on a second stream.

    TensorRT gets an execution context and a CUDA graph for each batch size up to the size the engine is tuned for:
    for such sizes, launching kernels takes longer than computing. TensorRT-RTX makes CUDA graphs itself, and its
    kernels are compiled at their first use and kept beside the built engines, for each model of GPU.
    """

    def __init__(
        self, trt: Any, trt_logger: Any, cuda: Any, engine: Any, sidecar: Sidecar, gpu: Gpu, number: int = 0
    ) -> None:
        self.trt, self.trt_logger, self.cuda, self.engine, self.number = trt, trt_logger, cuda, engine, number
        self.sizes, self.tuned_batch, self.max_batch = batch_sizes(sidecar.profile), *sidecar.profile[1:]
        self.image_size, self.dim = sidecar.contract.size, sidecar.contract.dim
        self.lock = threading.Lock()
        self.cleanup = ExitStack()
        weakref.finalize(self, self.cleanup.close)
        self.stream, self.copies = self._create_stream(), self._create_stream()
        self.is_rtx = hasattr(trt, "CudaGraphStrategy")
        if self.is_rtx:
            kept = engine_cache.file_name(f"{sidecar.sha256[:32]}-{sidecar.version}-{gpu.arch}-{gpu.model}")
            self.config = self._rtx_config(f"{kept}.kernels")
        else:
            self.scratch = max(engine.device_memory_size_v2, 1)
            self.device_scratch = self._register_cleanup(cuda.cudaMalloc(self.scratch), cuda.cudaFree)
        self.slots = [self._create_slot()]  # the second is made when it is needed

    def run(self, batch: Pixels) -> Vectors:
        """Vectors float32 [N, dim] of `batch` uint8 [N, height, width, 3], any N."""
        out = np.empty((len(batch), self.dim), np.float32)
        with self.lock:
            # CUDA's present GPU is a matter of each thread.
            check_cuda(self.cuda, self.cuda.cudaSetDevice(self.number))
            if len(batch) > self.max_batch and len(self.slots) == 1:
                self.slots.append(self._create_slot())
            running: deque[_Slot] = deque()
            try:
                for turn, start in enumerate(range(0, len(batch), self.max_batch)):
                    if len(running) == len(self.slots):
                        self._finish(running.popleft(), out)
                    slot = self.slots[turn % len(self.slots)]
                    slot.rows = range(start, min(start + self.max_batch, len(batch)))
                    running.append(slot)
                    self._start(slot, batch[start : slot.rows.stop])
                while running:
                    self._finish(running.popleft(), out)
            except BaseException:  # also Ctrl-C: the next call must find the memory at rest
                for stream in (self.copies, self.stream):
                    self.cuda.cudaStreamSynchronize(stream)
                raise
        return out

    def _start(self, slot: _Slot, images: Pixels) -> None:
        """Puts the work for at most `max_batch` images on the GPU."""
        cuda = self.cuda
        slot.batch_size = batch_size = next(size for size in self.sizes if size >= len(images))
        slot.pixels[: len(images)] = images
        slot.pixels[len(images) : batch_size] = 0
        graph = slot.graphs.get(batch_size)
        if graph is not None:
            check_cuda(cuda, cuda.cudaGraphLaunch(graph, self.stream))
        else:
            self._enqueue(slot, self.stream if self._is_small(batch_size) else self.copies)
        check_cuda(cuda, cuda.cudaEventRecord(slot.done, self.stream))

    def _finish(self, slot: _Slot, out: Vectors) -> None:
        """Waits for the work of `slot`, and copies its vectors to their rows of `out`."""
        check_cuda(self.cuda, self.cuda.cudaEventSynchronize(slot.done))
        out[slot.rows.start : slot.rows.stop] = slot.vectors[: len(slot.rows)]
        if self._is_small(slot.batch_size) and slot.batch_size not in slot.graphs:
            # After the first pass of a shape, which also updates the context: that must not be captured.
            slot.graphs[slot.batch_size] = self._capture_graph(slot)

    def _is_small(self, batch_size: int) -> bool:
        """Whether a batch has a context and a graph of its own."""
        return not self.is_rtx and batch_size <= self.tuned_batch

    def _enqueue(self, slot: _Slot, copies: Any) -> None:
        """Puts a batch on the stream: inference, and the copy back. The stream `copies` copies it to the GPU."""
        cuda, kinds, context = self.cuda, self.cuda.cudaMemcpyKind, self._context(slot)
        pixels, vectors = slot.pixels[: slot.batch_size], slot.vectors[: slot.batch_size]
        to_gpu, to_host = kinds.cudaMemcpyHostToDevice, kinds.cudaMemcpyDeviceToHost
        check_cuda(cuda, cuda.cudaMemcpyAsync(slot.device_pixels, pixels.ctypes.data, pixels.nbytes, to_gpu, copies))
        if copies is not self.stream:
            check_cuda(cuda, cuda.cudaEventRecord(slot.copied, copies))
            check_cuda(cuda, cuda.cudaStreamWaitEvent(self.stream, slot.copied, 0))
        self.trt_logger.errors.clear()
        if not context.execute_async_v3(int(self.stream)):
            reason = join_messages(self.trt_logger.errors)
            raise RunError(f"{self.trt.__name__} cannot run a batch of {slot.batch_size} ({reason}); {GPU_HINT}")
        address = vectors.ctypes.data
        check_cuda(cuda, cuda.cudaMemcpyAsync(address, slot.device_vectors, vectors.nbytes, to_host, self.stream))

    def _context(self, slot: _Slot) -> Any:
        """A context set to the batch; small batches keep their own: a captured context must not change."""
        small = self._is_small(slot.batch_size)
        key = slot.batch_size if small else 0
        new = key not in slot.contexts
        if new:
            slot.contexts[key] = self._new_context(slot)
        if new or not small:
            self._set_shape(slot.contexts[key], slot.batch_size)
        return slot.contexts[key]

    def _new_context(self, slot: _Slot) -> Any:
        trt, engine = self.trt, self.engine
        self.trt_logger.errors.clear()
        if self.is_rtx:
            context = engine.create_execution_context(self.config)
        else:
            # All contexts compute on one stream, so they never run at once and can share the memory for activations.
            context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            reason = join_messages(self.trt_logger.errors)
            raise RunError(f"{trt.__name__} cannot set up the engine ({reason}); {GPU_HINT}")
        if not self.is_rtx:
            context.set_device_memory(self.device_scratch, self.scratch)
        for name, address in ((INPUT_NAME, slot.device_pixels), (OUTPUT_NAME, slot.device_vectors)):
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
        kept = engine_cache.read(name)
        if kept and not kernels.deserialize(kept):
            kept = b""  # of another driver; written anew
        if config.set_runtime_cache(kernels):
            self.cleanup.callback(_keep_kernels, kernels, kept, name)
        return config

    def _set_shape(self, context: Any, batch_size: int) -> None:
        if not context.set_input_shape(INPUT_NAME, (batch_size, *self.image_size, 3)):
            raise RunError(f"{self.trt.__name__} does not take a batch of {batch_size}; {REEXPORT_HINT}")

    def _capture_graph(self, slot: _Slot) -> Any:
        """The pass of a batch as an executable CUDA graph, or None if it cannot be captured."""
        cuda = self.cuda
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check_cuda(cuda, cuda.cudaStreamBeginCapture(self.stream, mode))
        try:
            self._enqueue(slot, self.stream)
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

    def _create_stream(self) -> Any:
        cuda = self.cuda
        return self._register_cleanup(
            cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking), cuda.cudaStreamDestroy
        )

    def _create_event(self) -> Any:
        cuda = self.cuda
        return self._register_cleanup(cuda.cudaEventCreateWithFlags(cuda.cudaEventDisableTiming), cuda.cudaEventDestroy)

    def _create_slot(self) -> _Slot:
        pixels, device_pixels = self._buffers(np.dtype(np.uint8), (self.max_batch, *self.image_size, 3))
        vectors, device_vectors = self._buffers(np.dtype(np.float32), (self.max_batch, self.dim))
        return _Slot(pixels, vectors, device_pixels, device_vectors, self._create_event(), self._create_event())

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
            engine_cache.write(name, compiled)
