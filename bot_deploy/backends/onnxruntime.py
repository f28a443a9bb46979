"""ONNX Runtime: CPU, or CUDA and TensorRT with onnxruntime-gpu."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.artifacts.contract import INPUT_NAME, OUTPUT_NAME
from bot_deploy.artifacts.onnx_file import read_contract
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError, RunError

if TYPE_CHECKING:
    from pathlib import Path

    from onnxruntime import InferenceSession

    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels

# device -> providers, the first of which must work; the others run what it cannot
PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
# TF32 has ten bits of float32's twenty-three: float32 is to be what it was in training.
OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0"}}

REPAIR = "use --device cpu, or repair CUDA (`pip install 'onnxruntime-gpu[cuda,cudnn]'` brings its libraries)"
# It would quantise, by one scale for all channels, the very layers that an INT8 export left in float32.
DISABLED_OPTIMIZERS = ["WeightBiasQuantization"]


def open_model(path: Path, device: str, threads: int) -> Embedder:
    """See `bot_deploy.embedder.open_embedder`."""
    contract = read_contract(path)
    session = open_session(path, device, threads)
    from onnxruntime import __version__

    def run(batch: Pixels) -> Vectors:
        try:
            return np.asarray(session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0], dtype=np.float32)
        except Exception as error:  # noqa: BLE001 - its error classes have no common base but Exception
            raise RunError(
                f"ONNX Runtime failed on {len(batch)} images ({first_line(error)}); if its memory was too small, try "
                "a smaller --batch"
            ) from None

    name = f"ONNX Runtime {__version__} {PROVIDERS[device][0].removesuffix('ExecutionProvider')}"
    return Embedder(contract, name, run)


def open_session(path: Path, device: str, threads: int) -> InferenceSession:
    """The graph in `path`, whatever it is of, on `device` and nowhere else.

    Raises:
        InputError: ONNX Runtime cannot read it.
        RunError: it is not installed, or not for this device, or finds none.
    """
    try:
        import onnxruntime as ort
    except ModuleNotFoundError:
        raise RunError(
            "ONNX Runtime is not installed; `pip install 'bot-deploy[cpu]'`, or [gpu] where there is an NVIDIA GPU"
        ) from None
    providers = PROVIDERS[device]
    if providers[0] not in ort.get_available_providers():
        raise RunError(
            f"this ONNX Runtime has no {device}; `pip install 'bot-deploy[gpu]'` (after removing onnxruntime)"
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3  # its warnings are about its own optimiser
    options.intra_op_num_threads = threads
    # INT8 products overflow on CPUs without VNNI; slower kernels there give what every other CPU gives.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if device != "cpu" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls(msvc=False)  # those that pip installed, which nothing else finds
    try:
        session = ort.InferenceSession(
            str(path),
            options,
            providers=[(name, OPTIONS.get(name, {})) for name in providers],
            disabled_optimizers=DISABLED_OPTIMIZERS,
            enable_fallback=0,  # which would print on stdout, and run an INT8 graph otherwise than it was verified
        )
    except Exception as error:  # noqa: BLE001 - its error classes have no common base but Exception
        if device != "cpu":  # the same graph on the CPU tells whether it is the graph's fault
            raise RunError(f"ONNX Runtime cannot use {device} ({first_line(error)}); {REPAIR}") from None
        raise InputError(f"{path}: ONNX Runtime cannot open it ({first_line(error)}); export it again") from None
    if session.get_providers()[0] != providers[0]:
        raise RunError(f"ONNX Runtime found no usable {device} device or libraries; {REPAIR}")
    return session


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
