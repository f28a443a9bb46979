"""PyTorch in float32: the reference that every export is compared with."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Lock, RLock
from typing import TYPE_CHECKING

import torch

from bot_deploy.artifacts import checkpoint
from bot_deploy.embedder import Embedder
from bot_deploy.errors import GPU_HINT, RunError, on_one_line
from bot_deploy.model import InferenceGraph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels

_run_lock = RLock()  # PyTorch's number of threads is for the whole process, so one run at a time changes it


class _Tf32:
    """The state of `full_float32`, which is for the whole process, as PyTorch's setting is."""

    lock = Lock()  # held only while the setting changes, not while a user runs
    users = 0  # blocks of `full_float32` that are open
    allowed_before = False  # the setting before the first of them


def open_model(path: Path, device: str, threads: int) -> Embedder:
    """Opens a checkpoint with PyTorch; `bot_deploy.embedder.open_embedder` explains the arguments."""
    try_device(device)
    saved = checkpoint.load(path)
    run = runner(InferenceGraph(saved.build(), saved.contract), device, threads)
    return Embedder(saved.contract, f"PyTorch {torch.__version__} {device}", run)


def try_device(device: str) -> str:
    """Computes something on `device`; returns the name of the runtime.

    Raises:
        RunError: the device is not there, or cannot run this PyTorch.
    """
    try:
        torch.ones(2, device=device).sum().item()
    except (RuntimeError, AssertionError) as error:  # AssertionError: a PyTorch without CUDA
        raise RunError(
            f"PyTorch {torch.__version__} cannot use {device} ({on_one_line(error)}); use the device cpu; {GPU_HINT}",
            parameter="device",
        ) from None
    return f"PyTorch {torch.__version__} {device}"


def runner(graph: InferenceGraph, device: str, threads: int = 0) -> Callable[[Pixels], Vectors]:
    """`graph` in evaluation mode on `device`, as a function from uint8 [N, H, W, 3] to float32 [N, D].

    It runs on at most `threads` threads; 0 for as many as PyTorch is set to.
    """
    graph = graph.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(batch: Pixels) -> Vectors:
        with torch.inference_mode(), full_float32(), _limited_threads(threads):
            try:
                embeddings: Vectors = graph(torch.from_numpy(batch).to(device)).cpu().numpy()
            except torch.OutOfMemoryError:
                raise RunError(
                    f"the GPU's memory is too small for {len(batch)} images; try a smaller batch; {GPU_HINT}",
                    parameter="batch",
                ) from None
            except RuntimeError as error:  # CUDA's errors have no class of their own in all versions
                remedy = "try another device" if device == "cpu" else f"use the device cpu; {GPU_HINT}"
                raise RunError(
                    f"PyTorch failed on {len(batch)} images on {device} ({on_one_line(error)}); {remedy}",
                    parameter="device",
                ) from None
        return embeddings

    return run


@contextmanager
def full_float32() -> Iterator[None]:
    """Turns off TF32 in cuDNN, so that float32 is float32, as in ONNX Runtime and in engines.

    Blocks may overlap, in one thread or in several: the last one that ends restores the setting.
    """
    with _Tf32.lock:
        if not _Tf32.users:
            _Tf32.allowed_before = torch.backends.cudnn.allow_tf32
            torch.backends.cudnn.allow_tf32 = False
        _Tf32.users += 1
    try:
        yield
    finally:
        with _Tf32.lock:
            _Tf32.users -= 1
            if not _Tf32.users:
                torch.backends.cudnn.allow_tf32 = _Tf32.allowed_before


@contextmanager
def _limited_threads(threads: int) -> Iterator[None]:
    """At most `threads` threads for PyTorch; 0 for no limit. The number is restored afterwards."""
    with _run_lock:
        threads_before = torch.get_num_threads()
        if 0 < threads < threads_before:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            if torch.get_num_threads() != threads_before:
                torch.set_num_threads(threads_before)
