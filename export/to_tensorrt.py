"""Builds a TensorRT engine from an ONNX model, or takes one that another program built.

`tensorrt` builds for the GPU of this machine, `tensorrt-rtx` also for other GPUs.
"""

from __future__ import annotations

import hashlib
import logging
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bot_deploy import files
from bot_deploy.artifacts import engine_cache, engine_file, read_contract
from bot_deploy.artifacts.contract import INPUT_NAME
from bot_deploy.artifacts.engine_file import MAX_ENGINE_BYTES, PACKAGE_MODULES, Sidecar
from bot_deploy.backends import nvidia
from bot_deploy.backends.nvidia import check_cuda, join_messages
from bot_deploy.backends.tensorrt import load_engine
from bot_deploy.choices import ENGINE_BATCH_SIZES, ENGINE_COMPATIBILITY
from bot_deploy.errors import BotError, InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot_deploy.artifacts.contract import Contract

logger = logging.getLogger(__name__)

# The GPUs that TensorRT-RTX builds for by default: PC GPUs since Ampere.
DEFAULT_GPU_ARCHS = ("sm80", "sm86", "sm89", "sm120")
MAX_LEVEL = 5  # of TensorRT's builder


@dataclass(frozen=True)
class EngineOptions:
    """How `tensorrt` builds; the defaults are TensorRT's. `tensorrt-rtx` has none of these options."""

    level: int | None = None  # optimisation level of the builder, 0 to 5: a higher one builds longer
    workspace_mib: int = 0  # GPU memory for a layer's scratch space; 0: all
    compatible: tuple[str, ...] = ()  # of choices.ENGINE_COMPATIBILITY; compatible engines can be slower

    def __post_init__(self) -> None:
        """Raises InputError if a value is out of its range."""
        if self.level is not None and not 0 <= self.level <= MAX_LEVEL:
            raise InputError(f"level {self.level}: choose from 0 to {MAX_LEVEL}", parameter="engine_level")
        if self.workspace_mib < 0:
            raise InputError(f"{self.workspace_mib} MiB: choose 0 or more", parameter="workspace")
        unknown = [name for name in self.compatible if name not in ENGINE_COMPATIBILITY]
        if unknown:
            raise InputError(f"{unknown[0]!r}: choose from {', '.join(ENGINE_COMPATIBILITY)}", parameter="compatible")

    def describe(self) -> str:
        """The options that are not TensorRT's defaults; "" for none."""
        level = [] if self.level is None else [f"level {self.level}"]
        workspace = [f"workspace {self.workspace_mib} MiB"] if self.workspace_mib else []
        compatible = [f"compatible with {' and '.join(sorted(self.compatible))}"] if self.compatible else []
        return ", ".join([*level, *workspace, *compatible])


DEFAULT_OPTIONS = EngineOptions()


@dataclass(frozen=True)
class BuiltEngine:
    """An engine file and its sidecar."""

    path: Path
    sidecar: Sidecar
    cached: bool  # an earlier build was used again


def to_engine(
    source: Path,
    path: Path,
    *,
    batch: tuple[int, int, int] = ENGINE_BATCH_SIZES,
    gpu_archs: Sequence[str] = (),
    options: EngineOptions = DEFAULT_OPTIONS,
) -> BuiltEngine:
    """Builds the engine `path` from the ONNX model `source`, in the number types of its graph (fp32, fp16 or int8).

    Args:
        source: an ONNX model of `bot export`.
        path: the engine; its sidecar is written beside it.
        batch: batch sizes: smallest, the one to tune for, largest.
        gpu_archs: GPUs to build for, such as "sm89"; by default that of this machine, or
            DEFAULT_GPU_ARCHS if it has none.
        options: of `tensorrt`.

    Raises:
        InputError: `source` is not a model of bot_deploy; no such batch or GPU.
        RunError: no installed package can build it, TensorRT reports an error, or `path` cannot be written.
    """
    package, chosen = check_engine(batch, gpu_archs, options)
    contract = read_contract(source)
    if package == "tensorrt-rtx" and contract.precision == "int8":
        logger.warning(
            "tensorrt-rtx has no INT8 convolutions and computes them in floating point: this engine is no faster than "
            "one in FP16, and can be larger"
        )
    data = source.read_bytes()
    trt, trt_logger = nvidia.load_tensorrt(package)
    description = Sidecar(
        contract=contract,
        sha256="",
        onnx_sha256=hashlib.sha256(data).hexdigest(),
        package=package,
        version=trt.__version__,
        gpu_archs=("sm80+",) if "ampere" in options.compatible else chosen,
        profile=batch,
        precision=contract.precision,
        gpu=_bound_gpu(package, options),
        version_compatible="versions" in options.compatible,
        build_options=options.describe(),
    )
    cached = engine_cache.read_engine(description)
    if cached:
        built, sidecar = cached
    else:
        logger.info(f"building with {package} {description.version} for {', '.join(chosen)}")
        built = _build(trt, trt_logger, data, description, options)
        sidecar = replace(description, sha256=hashlib.sha256(built).hexdigest())
        try:
            engine_cache.write_engine(built, sidecar)
        except (OSError, RunError) as error:
            logger.warning(f"the engine is not kept for the next time: {error}")
    engine_file.write(path, built, sidecar)
    return BuiltEngine(path, sidecar, cached is not None)


def adopt_engine(engine: Path, contract: Contract, path: Path) -> BuiltEngine:
    """Copies an engine that another program built on this machine, such as trtexec, to `path`, with a sidecar.

    Its inputs and outputs are those of the ONNX files of `bot export`; whether it keeps `contract` is for the parity
    check to say.

    Raises:
        InputError: no file, or no installed package can load it.
        RunError: no GPU, no package is installed, or CUDA fails.
    """
    try:
        data = files.read_bounded(engine, MAX_ENGINE_BYTES)
    except OSError as error:
        raise InputError(f"{engine}: cannot be read ({error.strerror or error})", parameter="adopt") from None
    gpu, cuda = nvidia.find_gpu(), nvidia.load_cuda()
    check_cuda(cuda, cuda.cudaSetDevice(0))
    packages = [package for package in PACKAGE_MODULES if nvidia.is_installed(package)]
    failures: list[BotError] = [RunError("engines need TensorRT; pip install 'bot-deploy[tensorrt]'")]
    for package in packages:
        trt, trt_logger = nvidia.load_tensorrt(package)
        try:
            loaded = load_engine(trt, trt_logger, data, engine)
        except InputError as error:  # it is another package's
            failures = [InputError(f"{error}", parameter="adopt")]
            continue
        smallest, tuned, largest = (int(shape[0]) for shape in loaded.get_tensor_profile_shape(INPUT_NAME, 0))
        sidecar = Sidecar(
            contract=contract,
            sha256=hashlib.sha256(data).hexdigest(),
            onnx_sha256="",
            package=package,
            version=trt.__version__,
            gpu_archs=(gpu.arch,),
            profile=(smallest, tuned, largest),
            precision=contract.precision,
            gpu=_bound_gpu(package, DEFAULT_OPTIONS),
            build_options="built by another program",
        )
        engine_file.write(path, data, sidecar)
        return BuiltEngine(path, sidecar, cached=False)
    raise failures[0]


def _bound_gpu(package: str, options: EngineOptions) -> str:
    """The only model of GPU that the engine is for; "" for all of its compute capabilities."""
    return nvidia.find_gpu().model if package == "tensorrt" and not {*options.compatible} - {"versions"} else ""


def check_engine(
    batch: tuple[int, int, int], gpu_archs: Sequence[str], options: EngineOptions = DEFAULT_OPTIONS
) -> tuple[str, tuple[str, ...]]:
    """The package and the GPUs of an engine, if it can be built on this machine.

    Raises:
        InputError: no such batch or GPU, or options that the package does not have.
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
        if options != DEFAULT_OPTIONS:
            raise InputError(
                f"tensorrt-rtx compiles on the GPU, so it does not know {options.describe()}; leave that out, or pip "
                "install 'bot-deploy[tensorrt]' on the machine that has the GPU"
            )
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
        local_arch, reason = nvidia.find_gpu().arch, ""
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


def _build(trt: Any, trt_logger: Any, model: bytes, description: Sidecar, options: EngineOptions) -> bytes:
    builder = nvidia.start(trt, trt_logger, "Builder")
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
    timings = ""
    if description.package == "tensorrt-rtx":
        config.num_compute_capabilities = len(description.gpu_archs)
        for index, capability in enumerate(_capabilities(trt, description.gpu_archs)):
            config.set_compute_capability(capability, index)
    else:
        _apply(trt, config, options)
        # TensorRT times kernels to choose among them; it looks timings of the same layers up in a second build.
        timings = engine_cache.file_name(
            f"{description.package}-{description.version}-{nvidia.find_gpu().model}.timings"
        )
        config.set_timing_cache(config.create_timing_cache(engine_cache.read(timings)), ignore_mismatch=False)
    height, width = description.contract.size
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT_NAME, *((size, height, width, 3) for size in description.profile))
    config.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise RunError(f"{description.package} {description.version} says: {join_messages(trt_logger.errors)}")
    if timings:
        with suppress(OSError, RunError):  # the next build measures again
            engine_cache.write(timings, bytes(config.get_timing_cache().serialize()))
    return bytes(built)


def _apply(trt: Any, config: Any, options: EngineOptions) -> None:
    if options.level is not None:
        config.builder_optimization_level = options.level
    if options.workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if "versions" in options.compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    levels = trt.HardwareCompatibilityLevel
    if "ampere" in options.compatible:
        config.hardware_compatibility_level = levels.AMPERE_PLUS
    elif "capability" in options.compatible:
        config.hardware_compatibility_level = levels.SAME_COMPUTE_CAPABILITY


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
