"""ONNX Runtime: CPU, or CUDA with onnxruntime-gpu."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.contract import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, Contract, from_json
from bot_deploy.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def open_model(path: Path, device: str) -> tuple[Contract, Callable[[Pixels], Vectors], str]:
    """See `bot_deploy.embedder.open_embedder`."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise RunError(
            "ONNX Runtime is not installed; `pip install 'bot-deploy[cpu]'`, or [gpu] where there is an NVIDIA GPU"
        ) from None
    options = ort.SessionOptions()
    options.log_severity_level = 3  # its warnings are about its own optimiser
    providers = _providers(ort.get_available_providers(), device)
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # noqa: BLE001 - its error classes have no common base but Exception
        raise InputError(f"{path}: ONNX Runtime cannot open it ({_first_line(error)}); export it again") from None
    if device == "cuda" and session.get_providers()[0] != PROVIDERS["cuda"]:
        raise RunError("ONNX Runtime found no usable CUDA device or libraries; use --device cpu, or repair CUDA")
    metadata = session.get_modelmeta().custom_metadata_map
    if METADATA_KEY not in metadata:
        raise InputError(f"{path}: no contract inside; only models written by `bot export` say how to be fed")

    def run(batch: Pixels) -> Vectors:
        return np.asarray(session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0], dtype=np.float32)

    used = session.get_providers()[0].removesuffix("ExecutionProvider")
    return from_json(metadata[METADATA_KEY], str(path)), run, f"ONNX Runtime {ort.__version__} {used}"


def _providers(available: list[str], device: str) -> list[str]:
    wanted = ["cuda", "cpu"] if device == "auto" else [device]
    unknown = set(wanted) - set(PROVIDERS)
    if unknown:
        raise InputError(f"unknown device {device!r}; choose auto, {', '.join(PROVIDERS)}")
    found = [PROVIDERS[name] for name in wanted if PROVIDERS[name] in available]
    if not found:
        raise RunError(
            f"this ONNX Runtime has no {device}; `pip install 'bot-deploy[gpu]'` (after removing onnxruntime)"
        )
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
