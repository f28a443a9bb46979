"""OpenVINO on the CPU, for ONNX files and IR, in float32 or bfloat16; an INT8 model's quantised layers run in INT8."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from bot_deploy.artifacts import read_contract
from bot_deploy.artifacts.contract import INPUT_NAME, OUTPUT_NAME
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError, RunError, last_line, missing_package
from bot_deploy.machine import cpu_features
from bot_deploy.telemetry import without_telemetry

from .fixed_batch import in_fixed_batches
from .shapes import check_shapes

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels

DEVICE_PRECISION_HINTS = {"openvino": "f32", "openvino-bf16": "bf16"}  # device -> OpenVINO's name of the precision


def open_model(path: Path, device: str, threads: int) -> Embedder:
    """Opens an ONNX file or an IR with OpenVINO; `bot_deploy.embedder.open_embedder` explains the arguments."""
    try:
        with without_telemetry():
            import openvino as ov
    except ImportError:
        raise missing_package("openvino") from None
    core = ov.Core()
    precision = DEVICE_PRECISION_HINTS[device]
    # Without bfloat16 instructions OpenVINO emulates them on AVX-512, and silently computes in float32 on older CPUs.
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise RunError(
            "this CPU has no bfloat16 instructions (AVX512-BF16 or AMX); use the device openvino", parameter="device"
        )
    contract = read_contract(path)
    if contract.precision == "int8" and not _int8_sums_are_exact():
        raise RunError(
            "this CPU has no VNNI, and without it OpenVINO overflows in INT8; use the device cpu", parameter="device"
        )
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        # One batch at a time on all threads; THROUGHPUT would divide the threads among parallel requests.
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        compiled = core.compile_model(str(path), "CPU", settings)
        request = compiled.create_infer_request()
    except RuntimeError as error:
        raise InputError(f"{path}: OpenVINO cannot open it ({last_line(error)}); export it again") from None
    shapes = {_tensor_name(port): _shape(port) for port in (*compiled.inputs, *compiled.outputs)}
    check_shapes(shapes, contract, path, "export it again")
    lock = Lock()  # a request runs one batch at a time

    def run(batch: Pixels) -> Vectors:
        try:
            with lock:
                return np.asarray(request.infer({INPUT_NAME: batch})[OUTPUT_NAME], dtype=np.float32)
        except RuntimeError as error:
            raise RunError(f"OpenVINO failed on {len(batch)} images ({last_line(error)})", parameter="device") from None

    batch = compiled.input(0).get_partial_shape()[0]
    compute = run if batch.is_dynamic else in_fixed_batches(run, batch.get_length())
    return Embedder(contract, f"OpenVINO {ov.__version__.partition('-')[0]} CPU {precision}", compute)


def _tensor_name(port: Any) -> str:
    """The name of an input or output that the contract gives it, or any other; it may have several."""
    names: set[str] = port.get_names()
    return min(names & {INPUT_NAME, OUTPUT_NAME} or names, default="")


def _shape(port: Any) -> tuple[int, ...]:
    """The shape of an input or output; -1 for a size that is not fixed."""
    return tuple(-1 if size.is_dynamic else size.get_length() for size in port.get_partial_shape())


def _int8_sums_are_exact() -> bool:
    """Whether sums of INT8 products are exact on this CPU; True if its features are not known (not Linux)."""
    features = cpu_features()
    return features is None or "AVX2" not in features or "VNNI" in features
