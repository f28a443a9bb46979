"""ONNX Runtime: on the CPU, or on a GPU with CUDA (package onnxruntime-gpu)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.artifacts import read_contract
from bot_deploy.artifacts.contract import INPUT_NAME, OUTPUT_NAME
from bot_deploy.choices import gpu_number
from bot_deploy.embedder import Embedder
from bot_deploy.errors import GPU_HINT, InputError, RunError, on_one_line
from bot_deploy.telemetry import without_telemetry

from .fixed_batch import in_fixed_batches
from .shapes import check_shapes

if TYPE_CHECKING:
    from pathlib import Path

    from onnxruntime import InferenceSession

    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels

# TF32 keeps ten of float32's twenty-three mantissa bits; without it, embeddings are those of PyTorch. Each number of
# images is a new shape, for which cuDNN looks for an algorithm: it guesses one, which is fast, and does not try many.
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
CUDA_HINT = f"use the device cpu; `pip install 'onnxruntime-gpu[cuda,cudnn]'` brings CUDA's libraries; {GPU_HINT}"
# WeightBiasQuantization would quantise the layers that an INT8 export leaves in float32, with one scale for
# all channels.
DISABLED_OPTIMIZERS = ["WeightBiasQuantization"]


def open_model(path: Path, device: str, threads: int) -> Embedder:
    """Opens an ONNX file with ONNX Runtime; `bot_deploy.embedder.open_embedder` explains the arguments."""
    contract = read_contract(path)
    if contract.precision == "int8" and device != "cpu":
        raise RunError(
            "ONNX Runtime has no INT8 convolutions for CUDA and would compute in float32 between conversions; use the "
            "device cpu, or an engine of `bot export --trt`",
            parameter="device",
        )
    session = open_session(path, device, threads)
    shapes = {value.name: tuple(value.shape) for value in (*session.get_inputs(), *session.get_outputs())}
    check_shapes(shapes, contract, path, "export it again")
    from onnxruntime import __version__

    def run(batch: Pixels) -> Vectors:
        try:
            return np.asarray(session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0], dtype=np.float32)
        except Exception as error:  # noqa: BLE001 - its error classes have no common base but Exception
            reason = on_one_line(error)[:200]
            if device == "cpu" or re.search("memory|alloc", reason, re.IGNORECASE):
                remedy, parameter = "if its memory was too small, try a smaller batch", "batch"
            else:
                remedy, parameter = f"use the device cpu; {GPU_HINT}", "device"
            raise RunError(
                f"ONNX Runtime failed on {len(batch)} images ({reason}); {remedy}", parameter=parameter
            ) from None

    name = f"ONNX Runtime {__version__} {device.upper()}"
    batch = session.get_inputs()[0].shape[0]  # a number only in a wrapped model of another toolkit
    return Embedder(contract, name, in_fixed_batches(run, batch) if isinstance(batch, int) else run)


def open_session(path: Path, device: str, threads: int) -> InferenceSession:
    """A session that runs the ONNX graph at `path` on `device`, "cpu" or a GPU such as "cuda" or "cuda:1".

    Raises:
        InputError: ONNX Runtime cannot read the file.
        RunError: ONNX Runtime is not installed, does not support the device, or does not find it.
    """
    try:
        with without_telemetry():
            import onnxruntime as ort
    except ModuleNotFoundError:
        raise RunError(
            "ONNX Runtime is not installed; `pip install 'bot-deploy[cpu]'`, or [gpu] on a machine with an NVIDIA GPU"
        ) from None
    # The first must work; the CPU runs the operators that it lacks.
    providers: list[tuple[str, dict[str, str]]] = [("CPUExecutionProvider", {})]
    if device != "cpu":
        providers.insert(0, ("CUDAExecutionProvider", {**CUDA_OPTIONS, "device_id": str(gpu_number(device))}))
    if providers[0][0] not in ort.get_available_providers():
        raise RunError(
            f"this ONNX Runtime does not support {device}; `pip install 'bot-deploy[gpu]'` (after removing "
            f"onnxruntime); {GPU_HINT}",
            parameter="device",
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only; its warnings are about its own optimiser
    options.intra_op_num_threads = threads
    # On CPUs without VNNI the fast INT8 kernels overflow; the slower ones give the results of all other CPUs.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if device != "cpu" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls(msvc=False)  # the libraries that pip installed; the loader does not find them
    try:
        session = ort.InferenceSession(
            str(path),
            options,
            providers=providers,
            disabled_optimizers=DISABLED_OPTIMIZERS,
            enable_fallback=0,  # a fallback prints on stdout, and its INT8 kernels are not the verified ones
        )
    except Exception as error:  # noqa: BLE001 - its error classes have no common base but Exception
        if device != "cpu":  # a broken graph fails on the CPU too, and is reported there
            raise RunError(
                f"ONNX Runtime cannot use {device} ({on_one_line(error)[:200]}); {CUDA_HINT}", parameter="device"
            ) from None
        raise InputError(f"{path}: ONNX Runtime cannot open it ({on_one_line(error)[:200]}); export it again") from None
    if session.get_providers()[0] != providers[0][0]:
        raise RunError(f"ONNX Runtime found no usable {device} device or libraries; {CUDA_HINT}", parameter="device")
    return session
