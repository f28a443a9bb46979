"""ONNX Runtime: CPU, or CUDA and TensorRT with onnxruntime-gpu."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.contract import INPUT_NAME, OUTPUT_NAME
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError, RunError
from bot_deploy.onnx_file import read_contract

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels

# device -> providers, the first of which must work; the others run what it cannot
PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}

# It would quantise, by one scale for all channels, the very layers that an INT8 export left in float32.
DISABLED_OPTIMIZERS = ["WeightBiasQuantization"]


def open_model(path: Path, device: str, threads: int) -> Embedder:
    """See `bot_deploy.embedder.open_embedder`."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise RunError(
            "ONNX Runtime is not installed; `pip install 'bot-deploy[cpu]'`, or [gpu] where there is an NVIDIA GPU"
        ) from None
    providers = PROVIDERS[device]
    if providers[0] not in ort.get_available_providers():
        raise RunError(
            f"this ONNX Runtime has no {device}; `pip install 'bot-deploy[gpu]'` (after removing onnxruntime)"
        )
    contract = read_contract(path)
    options = ort.SessionOptions()
    options.log_severity_level = 3  # its warnings are about its own optimiser
    options.intra_op_num_threads = threads
    # INT8 products overflow on CPUs without VNNI; slower kernels there give what every other CPU gives.
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        session = ort.InferenceSession(
            str(path), options, providers=list(providers), disabled_optimizers=DISABLED_OPTIMIZERS
        )
    except Exception as error:  # noqa: BLE001 - its error classes have no common base but Exception
        raise InputError(f"{path}: ONNX Runtime cannot open it ({_first_line(error)}); export it again") from None
    if session.get_providers()[0] != providers[0]:
        raise RunError(f"ONNX Runtime found no usable {device} device or libraries; use --device cpu, or repair CUDA")

    def run(batch: Pixels) -> Vectors:
        return np.asarray(session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0], dtype=np.float32)

    name = f"ONNX Runtime {ort.__version__} {providers[0].removesuffix('ExecutionProvider')}"
    return Embedder(contract, name, run)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
