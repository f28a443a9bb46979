"""OpenVINO on the CPU, in float32 or bfloat16; an INT8 model computes in INT8 where it says so."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.artifacts.contract import INPUT_NAME, OUTPUT_NAME
from bot_deploy.artifacts.onnx_file import read_contract
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError, RunError

if TYPE_CHECKING:
    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels

PRECISION = {"openvino": "f32", "openvino-bf16": "bf16"}


def open_model(path: Path, device: str, threads: int) -> Embedder:
    """See `bot_deploy.embedder.open_embedder`."""
    try:
        import openvino as ov
    except ImportError:
        raise RunError("OpenVINO is not installed; `pip install 'bot-deploy[openvino]'`") from None
    core = ov.Core()
    precision = PRECISION[device]
    # Asked for all the same, OpenVINO would emulate it on AVX-512 and silently compute in float32 on anything less.
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise RunError("this CPU has no bfloat16 instructions (AVX512-BF16 or AMX); use --device openvino")
    contract = read_contract(path)
    if contract.precision == "int8" and not _sums_int8():
        raise RunError("this CPU has no VNNI, and without it OpenVINO overflows in INT8; use --device cpu")
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        # One batch at a time, on all threads; THROUGHPUT would split them among requests that nobody makes.
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        request = core.compile_model(str(path), "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise InputError(f"{path}: OpenVINO cannot open it ({_reason(error)}); export it again") from None
    lock = Lock()  # a request is busy until it is done

    def run(batch: Pixels) -> Vectors:
        with lock:
            return np.asarray(request.infer({INPUT_NAME: batch})[OUTPUT_NAME], dtype=np.float32)

    return Embedder(contract, f"OpenVINO {ov.__version__.partition('-')[0]} CPU {precision}", run)


def _sums_int8() -> bool:
    """Whether sums of INT8 products are exact; where the CPU does not say what it has, it is taken at its word."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return True
    return "avx2" not in words or bool(words & {"avx512_vnni", "avx_vnni"})


def _reason(error: Exception) -> str:
    """The last line that says something; those before it name places in OpenVINO's source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
