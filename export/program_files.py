"""What some programs need beside the model: DeepStream a block of its configuration, Triton a folder of models."""

from __future__ import annotations

import json
import logging
import shutil
from functools import partial
from typing import TYPE_CHECKING

from bot_deploy.artifacts import engine_file
from bot_deploy.artifacts.contract import INPUT_NAME, METADATA_KEY, OUTPUT_NAME
from bot_deploy.errors import RunError
from bot_deploy.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.artifacts.contract import Contract

    from .consumers import Consumer
    from .front import Front

logger = logging.getLogger(__name__)

DEEPSTREAM_NAME = "config_tracker_reid.yml"
DEEPSTREAM_BATCH = 100  # crops at one time; as in NVIDIA's configurations
TRITON_NAME, TRITON_ENGINE_NAME = "reid", "reid_engine"  # names of the models in Triton
TRITON_BATCH = 64
TRITON_DELAY_US = 2000  # that a request waits for others


def write_program_files(consumer: Consumer, contract: Contract, model: Path) -> tuple[Path, ...]:
    """Writes what `consumer` needs beside its file `model`; returns the paths.

    Raises:
        RunError: they cannot be written.
    """
    if consumer.name == "deepstream":
        path = model.with_name(DEEPSTREAM_NAME)
        _write_text(path, deepstream_block(contract, consumer.front, model.name))
        return (path,)
    if consumer.name == "triton":
        return write_triton_model(model, contract)
    return ()


def deepstream_block(contract: Contract, front: Front, model_name: str) -> str:
    """The block "ReID" of a configuration of nvtracker.

    Keys and numbers are those of DeepStream 9.2 (sources/libs/nvmultiobjecttracker, ReID.hpp) and of the
    config_tracker_*.yml that NVIDIA ships. DeepStream feeds netScaleFactor * (pixel - offset) with one factor for all
    channels, so the standard deviation of each channel is in the graph, and the factor is 1.
    """
    normalize = 0 if front.unit_length else 1
    return f"""%YAML:1.0
# Put this block in place of the block ReID of your config_tracker_NvDCF_*.yml or config_tracker_NvDeepSORT.yml.
# This file was not tested with DeepStream.
ReID:
  reidType: 2                     # 1: for NvDeepSORT, 2: to join tracks again (NvDCF), 3: both
  onnxFile: "{model_name}"
  modelEngineFile: "{model_name}.engine" # DeepStream builds it when it is missing
  batchSize: {front.batch or DEEPSTREAM_BATCH}
  workspaceSize: 1000             # MB to build the engine with
  reidFeatureSize: {contract.dim}
  reidHistorySize: 100            # vectors kept of a track
  inferDims: [3, {contract.height}, {contract.width}]
  networkMode: 0                  # 0: float32, which was compared with PyTorch; 1: FP16
  inputOrder: 0                   # NCHW
  colorFormat: 0                  # RGB
  offsets: [0.0, 0.0, 0.0]        # mean and standard deviation are in the graph
  netScaleFactor: 1.0
  keepAspc: 0                     # the whole crop is scaled to inferDims, as in training
  addFeatureNormalization: {normalize}      # 1: DeepStream scales vectors to length 1
"""


def write_triton_model(model: Path, contract: Contract) -> tuple[Path, ...]:
    """Writes triton/reid, a model of a repository of Triton, beside the ONNX file `model`."""
    return _write_triton(
        model, TRITON_NAME, "model.onnx", triton_config(contract, TRITON_NAME, "onnxruntime_onnx", TRITON_BATCH)
    )


def write_triton_engine(engine: Path) -> tuple[Path, ...]:
    """Writes triton/reid_engine beside `engine`, unless it is one of TensorRT-RTX, which Triton does not run.

    The TensorRT in Triton has to be of the version that built the engine.
    """
    _, sidecar = engine_file.read(engine)
    if sidecar.package != "tensorrt":
        logger.info(f"Triton does not run {engine.name}, because {sidecar.package} built it")
        return ()
    config = triton_config(sidecar.contract, TRITON_ENGINE_NAME, "tensorrt_plan", sidecar.profile[2])
    return _write_triton(engine, TRITON_ENGINE_NAME, "model.plan", config)


def _write_triton(model: Path, name: str, copy_name: str, config: str) -> tuple[Path, ...]:
    folder = model.parent / "triton" / name
    _make_folder(folder / "1")
    write_atomically(folder / "1" / copy_name, partial(shutil.copyfile, model))
    _write_text(folder / "config.pbtxt", config)
    return folder / "config.pbtxt", folder / "1" / copy_name


def triton_config(contract: Contract, name: str, platform: str, max_batch: int) -> str:
    """The text of config.pbtxt, a `ModelConfig` of Triton's model_config.proto; with the contract, for `bot serve`."""
    contract_text = json.dumps(contract.to_json())  # escapes as a string of protobuf: the text of JSON is ASCII
    return f"""name: "{name}"
platform: "{platform}"
max_batch_size: {max_batch}
input {{
  name: "{INPUT_NAME}"
  data_type: TYPE_UINT8
  dims: [ {contract.height}, {contract.width}, 3 ]
}}
output {{
  name: "{OUTPUT_NAME}"
  data_type: TYPE_FP32
  dims: [ {contract.dim} ]
}}
dynamic_batching {{
  max_queue_delay_microseconds: {TRITON_DELAY_US}
}}
parameters {{
  key: "{METADATA_KEY}"
  value {{ string_value: {contract_text} }}
}}
"""


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from None
