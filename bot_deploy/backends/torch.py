"""PyTorch, float32: the reference that every export is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bot_deploy import checkpoint
from bot_deploy.errors import InputError, RunError
from bot_deploy.model import InferenceGraph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bot_deploy.contract import Contract
    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels


def open_model(path: Path, device: str) -> tuple[Contract, Callable[[Pixels], Vectors], str]:
    """See `bot_deploy.embedder.open_embedder`."""
    saved = checkpoint.load(path)
    if device not in {"auto", "cpu", "cuda"}:
        raise InputError(f"unknown device {device!r}; choose auto, cpu or cuda")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise RunError("PyTorch finds no CUDA device; use --device cpu")
    run = runner(InferenceGraph(saved.build(), saved.contract), device)
    return saved.contract, run, f"PyTorch {torch.__version__} {device}"


def runner(graph: InferenceGraph, device: str) -> Callable[[Pixels], Vectors]:
    """`graph` in evaluation mode on `device`, as a function from uint8 [N, H, W, 3] to float32 [N, D]."""
    graph = graph.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(batch: Pixels) -> Vectors:
        with torch.inference_mode():
            embeddings: Vectors = graph(torch.from_numpy(batch).to(device)).cpu().numpy()
        return embeddings

    return run
