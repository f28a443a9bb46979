"""Builds a TensorRT engine from an ONNX model.

`tensorrt` builds for the GPU of this machine, `tensorrt-rtx` also for other GPUs.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bot_deploy import files
from bot_deploy.artifacts import engine_file, read_contract
from bot_deploy.artifacts.contract import INPUT_NAME
from bot_deploy.artifacts.engine_file import Sidecar
from bot_deploy.backends import nvidia
from bot_deploy.backends.nvidia import join_messages
from bot_deploy.choices import ENGINE_BATCH_SIZES
from bot_deploy.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

# The GPUs that TensorRT-RTX builds for by default: PC GPUs since Ampere.
DEFAULT_GPU_ARCHS = ("sm80", "sm86", "sm89", "sm120")


@dataclass(frozen=True)
class BuiltEngine:
    """An engine file and its sidecar."""

    path: Path
    sidecar: Sidecar
    cached: bool  # an earlier build was used again


def to_engine(
    source: Path, path: Path, *, batch: tuple[int, int, int] = ENGINE_BATCH_SIZES, gpu_archs: Sequence[str] = ()
) -> BuiltEngine:
    """Builds the engine `path` from the ONNX model `source`, in the number types of its graph (fp32, fp16 or int8).

    Args:
        source: an ONNX model of `bot export`.
        path: the engine; its sidecar is written beside it.
        batch: batch sizes: smallest, the one to tune for, largest.
        gpu_archs: GPUs to build for, such as "sm89"; by default that of this machine, or
            DEFAULT_GPU_ARCHS if it has none.

    Raises:
        InputError: `source` is not a model of bot_deploy; no such batch or GPU.
        RunError: no installed package can build it, TensorRT reports an error, or `path` cannot be written.
    """
    package, chosen = check_engine(batch, gpu_archs)
    contract = read_contract(source)
    data = source.read_bytes()
    trt, trt_logger = nvidia.load_tensorrt(package)
    description = Sidecar(
        contract=contract,
        sha256="",
        onnx_sha256=hashlib.sha256(data).hexdigest(),
        package=package,
        version=trt.__version__,
        gpu_archs=chosen,
        profile=batch,
        precision=contract.precision,
    )
    cache_path = cache_folder() / f"{description.key()}.engine"
    cached = _read_cached(cache_path, description)
    if cached:
        built, sidecar = cached
    else:
        logger.info(f"building with {package} {description.version} for {', '.join(chosen)}")
        built = _build(trt, trt_logger, data, description)
        sidecar = replace(description, sha256=hashlib.sha256(built).hexdigest())
        try:
            cache_path.parent.mkdir(parents=True, exist_ok=True)
            engine_file.write(cache_path, built, sidecar)
        except (OSError, RunError) as error:
            logger.warning(f"the engine is not kept for the next time: {error}")
    engine_file.write(path, built, sidecar)
    return BuiltEngine(path, sidecar, cached is not None)


def cache_folder() -> Path:
    """The folder of built engines; the name of each is its `Sidecar.key`."""
    return files.cache_folder("engines-1")


def _read_cached(path: Path, description: Sidecar) -> tuple[bytes, Sidecar] | None:
    try:
        data, sidecar = engine_file.read(path)
    except InputError:  # missing or damaged
        return None
    return (data, sidecar) if replace(sidecar, sha256="") == description else None


def check_engine(batch: tuple[int, int, int], gpu_archs: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The package and the GPUs of an engine, if it can be built on this machine.

    Raises:
        InputError: no such batch or GPU.
        RunError: no installed package can build it.
    """
    if not 1 <= batch[0] <= batch[1] <= batch[2]:
        raise InputError(
            f"batch {':'.join(map(str, batch))}: choose min:opt:max with 1 <= min <= opt <= max",
            parameter="engine_batch",
        )
    package, chosen = choose_builder(gpu_archs)
    trt, _ = nvidia.load_tensorrt(package)
    if package == "tensorrt-rtx":
        _capabilities(trt, chosen)
    return package, chosen


def choose_builder(gpu_archs: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The package that can build for `gpu_archs`, and the GPUs it builds for."""
    unknown = [arch for arch in gpu_archs if not re.fullmatch(r"sm\d{2,3}", arch)]
    if unknown:
        raise InputError(
            f"GPU architecture {unknown[0]!r}: write sm89 for compute capability 8.9", parameter="gpu_arch"
        )
    requested_archs = tuple(sorted(set(gpu_archs), key=lambda arch: int(arch[2:])))
    try:
        local_arch, reason = nvidia.gpu_arch(), ""
    except RunError as error:
        local_arch, reason = "", str(error)
    if local_arch and set(requested_archs) <= {local_arch}:
        for package in engine_file.PACKAGE_MODULES:
            if nvidia.is_installed(package):
                return package, (local_arch,)
        raise RunError(
            "engines need TensorRT; pip install 'bot-deploy[tensorrt]', or 'bot-deploy[tensorrt-rtx]' for an RTX GPU"
        )
    if not nvidia.is_installed("tensorrt-rtx"):
        target = f"for {', '.join(requested_archs)}" if local_arch else f"with no GPU ({reason})"
        raise RunError(
            f"to build an engine {target}, pip install 'bot-deploy[tensorrt-rtx]'; 'bot-deploy[tensorrt]' builds "
            "on the machine that has the GPU"
        )
    if not requested_archs:
        logger.info(f"no GPU here, so the engine is for {', '.join(DEFAULT_GPU_ARCHS)}")
    return "tensorrt-rtx", requested_archs or DEFAULT_GPU_ARCHS


def _build(trt: Any, trt_logger: Any, model: bytes, description: Sidecar) -> bytes:
    trt_logger.errors.clear()
    builder = trt.Builder(trt_logger)
    # TensorRT 10 needs the flag; from 11 on every network is strongly typed.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, trt_logger)
    if not parser.parse(model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        messages = [f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors]
        raise RunError(
            f"the ONNX parser of {description.package} {description.version} says: "
            f"{join_messages(messages or trt_logger.errors)}"
        )
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # it would round FP32; FP16 is the choice for speed
    if description.package == "tensorrt-rtx":
        config.num_compute_capabilities = len(description.gpu_archs)
        for index, capability in enumerate(_capabilities(trt, description.gpu_archs)):
            config.set_compute_capability(capability, index)
    height, width = description.contract.size
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT_NAME, *((size, height, width, 3) for size in description.profile))
    config.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise RunError(f"{description.package} {description.version} says: {join_messages(trt_logger.errors)}")
    return bytes(built)


def _capabilities(trt: Any, gpu_archs: tuple[str, ...]) -> list[Any]:
    """The compute capabilities of `gpu_archs` in tensorrt-rtx."""
    known = {name.lower(): value for name, value in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    for arch in gpu_archs:
        if arch not in known:
            raise InputError(
                f"tensorrt-rtx {trt.__version__} does not build for {arch}, but for {', '.join(known)}; "
                "for others pip install 'bot-deploy[tensorrt]' on the machine that has the GPU"
            )
    return [known[arch] for arch in gpu_archs]
