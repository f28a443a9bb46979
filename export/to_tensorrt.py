"""ONNX to a TensorRT engine: by `tensorrt` for the GPU that is here, by `tensorrt-rtx` also for GPUs elsewhere."""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bot_deploy import files
from bot_deploy.artifacts import engine_file
from bot_deploy.artifacts.contract import INPUT_NAME
from bot_deploy.artifacts.engine_file import Sidecar
from bot_deploy.artifacts.onnx_file import read_contract
from bot_deploy.backends import nvidia
from bot_deploy.backends.nvidia import one_line
from bot_deploy.choices import ENGINE_BATCH_SIZES
from bot_deploy.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)


# What TensorRT-RTX builds for by itself: the PC GPUs since Ampere.
ARCHS = ("sm80", "sm86", "sm89", "sm120")


@dataclass(frozen=True)
class Engine:
    """An engine file with what its sidecar says."""

    path: Path
    sidecar: Sidecar
    cached: bool  # by an earlier build


def to_engine(
    source: Path, path: Path, *, batch: tuple[int, int, int] = ENGINE_BATCH_SIZES, archs: Sequence[str] = ()
) -> Engine:
    """Writes the ONNX model `source`, in the types that are in it (fp32, fp16 or int8), as the engine `path`.

    Args:
        source: written by `bot export`.
        path: the engine; its sidecar is written beside it.
        batch: images in a batch: the least, the number to tune for, the most.
        archs: GPUs to build for, such as "sm89"; by default the one that is here, or ARCHS where none is.

    Raises:
        InputError: `source` is no model of ours; no such batch or GPU.
        RunError: no package that can build it, or one that refuses, in its own words; `path` cannot be written.
    """
    package, chosen = check(batch, archs)
    contract = read_contract(source)
    data = source.read_bytes()
    trt, logger = nvidia.load(package)
    wanted = Sidecar(
        contract=contract,
        sha256="",
        onnx_sha256=hashlib.sha256(data).hexdigest(),
        package=package,
        version=trt.__version__,
        archs=chosen,
        profile=batch,
        precision=contract.precision,
    )
    kept = cache_folder() / f"{wanted.key()}.engine"
    cached = _cached(kept, wanted)
    if cached:
        built, sidecar = cached
    else:
        logger.info(f"building with {package} {wanted.version} for {', '.join(chosen)}")
        built = _build(trt, logger, data, wanted)
        sidecar = replace(wanted, sha256=hashlib.sha256(built).hexdigest())
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            engine_file.write(kept, built, sidecar)
        except (OSError, RunError) as error:
            logger.warning(f"not kept for the next time: {error}")
    engine_file.write(path, built, sidecar)
    return Engine(path, sidecar, cached is not None)


def cache_folder() -> Path:
    """Where built engines are kept, one for each `Sidecar.key`."""
    return files.cache_folder("engines-1")


def _cached(path: Path, wanted: Sidecar) -> tuple[bytes, Sidecar] | None:
    try:
        data, sidecar = engine_file.read(path)
    except InputError:  # not there, or not as it was written
        return None
    return (data, sidecar) if replace(sidecar, sha256="") == wanted else None


def check(batch: tuple[int, int, int], archs: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """What `choose` says, where such an engine can be built here.

    Raises:
        InputError: no such batch or GPU.
        RunError: no package that can build it.
    """
    if not 1 <= batch[0] <= batch[1] <= batch[2]:
        raise InputError(f"batch {':'.join(map(str, batch))}: choose min:opt:max with 1 <= min <= opt <= max")
    package, chosen = choose(archs)
    trt, _ = nvidia.load(package)
    if package == "tensorrt-rtx":
        _capabilities(trt, chosen)
    return package, chosen


def choose(archs: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The package that builds, and for which GPUs."""
    unknown = [arch for arch in archs if not re.fullmatch(r"sm\d{2,3}", arch)]
    if unknown:
        raise InputError(f"GPU architecture {unknown[0]!r}: write sm89 for compute capability 8.9")
    wanted = tuple(sorted(set(archs), key=lambda arch: int(arch[2:])))
    try:
        here, reason = nvidia.gpu_arch(), ""
    except RunError as error:
        here, reason = "", str(error)
    if here and set(wanted) <= {here}:
        for package in engine_file.PACKAGE_MODULES:
            if nvidia.installed(package):
                return package, (here,)
        raise RunError(
            "engines take TensorRT; pip install 'bot-deploy[tensorrt]', or 'bot-deploy[tensorrt-rtx]' for an RTX GPU"
        )
    if not nvidia.installed("tensorrt-rtx"):
        why = f"for {', '.join(wanted)}" if here else f"with no GPU ({reason})"
        raise RunError(
            f"to build an engine {why}, pip install 'bot-deploy[tensorrt-rtx]'; 'bot-deploy[tensorrt]' builds "
            "on the machine that has the GPU"
        )
    if not wanted:
        logger.info(f"no GPU here, so for {', '.join(ARCHS)} (--gpu-arch names others)")
    return "tensorrt-rtx", wanted or ARCHS


def _build(trt: Any, logger: Any, model: bytes, wanted: Sidecar) -> bytes:
    logger.errors.clear()
    builder = trt.Builder(logger)
    # TensorRT 10 has to be told; from 11 on every network is strongly typed.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        words = [f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors] or logger.errors
        raise RunError(f"the ONNX parser of {wanted.package} {wanted.version} says: {one_line(words)}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # FP32 is FP32; who wants speed takes FP16
    if wanted.package == "tensorrt-rtx":
        config.num_compute_capabilities = len(wanted.archs)
        for index, capability in enumerate(_capabilities(trt, wanted.archs)):
            config.set_compute_capability(capability, index)
    height, width = wanted.contract.size
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT_NAME, *((size, height, width, 3) for size in wanted.profile))
    config.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise RunError(f"{wanted.package} {wanted.version} says: {one_line(logger.errors)}")
    return bytes(built)


def _capabilities(trt: Any, archs: tuple[str, ...]) -> list[Any]:
    """What tensorrt-rtx calls `archs`."""
    known = {name.lower(): value for name, value in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    for arch in archs:
        if arch not in known:
            raise InputError(
                f"tensorrt-rtx {trt.__version__} does not build for {arch}, but for {', '.join(known)}; "
                "for others pip install 'bot-deploy[tensorrt]' on the machine that has the GPU"
            )
    return [known[arch] for arch in archs]
