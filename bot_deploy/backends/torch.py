"""PyTorch, float32: the reference that every export is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bot_deploy.artifacts import checkpoint
from bot_deploy.embedder import Embedder
from bot_deploy.errors import RunError
from bot_deploy.model import InferenceGraph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels


def open_model(path: Path, device: str, threads: int) -> Embedder:
    """See `bot_deploy.embedder.open_embedder`."""
    if device == "cuda" and not torch.cuda.is_available():
        raise RunError("PyTorch finds no CUDA device; use --device cpu")
    saved = checkpoint.load(path)
    # Of the whole process, so never more than it was told to use.
    torch.set_num_threads(min(threads, torch.get_num_threads()))
    run = runner(InferenceGraph(saved.build(), saved.contract), device)
    return Embedder(saved.contract, f"PyTorch {torch.__version__} {device}", run)


def runner(graph: InferenceGraph, device: str) -> Callable[[Pixels], Vectors]:
    """`graph` in evaluation mode on `device`, as a function from uint8 [N, H, W, 3] to float32 [N, D]."""
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32, as in ONNX Runtime and in engines
    graph = graph.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(batch: Pixels) -> Vectors:
        with torch.inference_mode():
            try:
                embeddings: Vectors = graph(torch.from_numpy(batch).to(device)).cpu().numpy()
            except torch.OutOfMemoryError:
                raise RunError(
                    f"the GPU's memory is too small for {len(batch)} images; try a smaller --batch"
                ) from None
        return embeddings

    return run
