"""TensorRT and TensorRT-RTX: engines on an NVIDIA GPU."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from bot_deploy.artifacts import engine_file
from bot_deploy.artifacts.engine_file import REEXPORT_HINT
from bot_deploy.backends import nvidia
from bot_deploy.backends.nvidia import check_cuda, join_messages
from bot_deploy.choices import gpu_number
from bot_deploy.embedder import Embedder
from bot_deploy.errors import GPU_HINT, InputError, RunError

from .engine_runner import Runner
from .shapes import check_shapes

if TYPE_CHECKING:
    from pathlib import Path


def open_model(path: Path, device: str, threads: int) -> Embedder:
    """Opens an engine with TensorRT; `bot_deploy.embedder.open_embedder` explains the arguments.

    Raises:
        InputError: the sidecar is missing, or the hash, package version or GPU does not match it.
        RunError: no GPU, or the engine's package is not installed.
    """
    del threads  # the GPU's work
    number = gpu_number(device)
    data, sidecar = engine_file.read(path)
    trt, logger = nvidia.load_tensorrt(sidecar.package)
    reason = sidecar.wrong_version(trt.__version__)
    if reason:
        raise InputError(f"{path}: {reason}; {REEXPORT_HINT} here, or pip install {sidecar.package}=={sidecar.version}")
    gpu = nvidia.find_gpu(number)
    reason = sidecar.wrong_gpu(gpu)
    if reason:
        raise InputError(f"{path}: {reason}; {REEXPORT_HINT} on this machine")
    cuda = nvidia.load_cuda()
    check_cuda(cuda, cuda.cudaSetDevice(number))
    engine = load_engine(trt, logger, data, path, host_code=sidecar.version_compatible)
    check_shapes(engine_shapes(engine), sidecar.contract, path, REEXPORT_HINT)
    runner = Runner(trt, logger, cuda, engine, sidecar, gpu, number)
    name = f"{sidecar.package} {sidecar.version} {gpu.arch} {sidecar.precision}"
    # Two of the largest batches, so that one is copied while the other is computed.
    return Embedder(sidecar.contract, name, runner.run, 2 * sidecar.profile[2])


def try_runtimes() -> str:
    """Starts each installed package that runs engines; returns their names with versions, and the GPU.

    Raises:
        RunError: none is installed, or one does not start.
    """
    packages = [package for package in engine_file.PACKAGE_MODULES if nvidia.is_installed(package)]
    if not packages:
        raise RunError("neither tensorrt nor tensorrt-rtx is installed; pip install 'bot-deploy[tensorrt]'")
    gpu = nvidia.find_gpu()
    names = []
    for package in packages:
        trt, logger = nvidia.load_tensorrt(package)
        nvidia.start(trt, logger, "Runtime")
        names.append(f"{package} {trt.__version__}")
    return f"{' and '.join(names)} on {gpu.arch}"


def load_engine(trt: Any, logger: Any, data: bytes, path: Path, *, host_code: bool = False) -> Any:
    """The engine `data` from the file `path`; a version-compatible one brings code for the CPU, `host_code`.

    Raises:
        InputError: TensorRT does not take it.
        RunError: CUDA fails.
    """
    runtime = nvidia.start(trt, logger, "Runtime")
    if host_code:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None and any(re.search("cuda|memory", message, re.IGNORECASE) for message in logger.errors):
        raise RunError(f"{path}: {trt.__name__} cannot load it ({join_messages(logger.errors)}); {GPU_HINT}")
    if engine is None:
        raise InputError(f"{path}: {trt.__name__} cannot load it ({join_messages(logger.errors)}); {REEXPORT_HINT}")
    return engine


def engine_shapes(engine: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the inputs and outputs of `engine` by name; -1 for a size that is not fixed."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return {name: tuple(engine.get_tensor_shape(name)) for name in names}
