"""CUDA, and the two packages that build and run TensorRT engines: `tensorrt` and `tensorrt-rtx`."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from bot_deploy.artifacts.engine_file import PACKAGE_MODULES
from bot_deploy.errors import RunError


def installed(package: str) -> bool:
    return find_spec(PACKAGE_MODULES[package]) is not None


@cache
def load(package: str) -> tuple[Any, Any]:
    """The module of `package`, and a logger for it whose `errors` collect what went wrong.

    Raises:
        RunError: it is not installed, or does not load.
    """
    try:
        trt = import_module(PACKAGE_MODULES[package])
    except ModuleNotFoundError:
        raise RunError(f"{package} is not installed; pip install 'bot-deploy[{package}]'") from None
    except (ImportError, OSError, RuntimeError) as error:  # a library of CUDA's that is not there
        raise RunError(
            f"{package} does not load ({one_line([str(error)])}); pip install 'bot-deploy[{package}]' again"
        ) from None

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        """The first logger of a process gets the messages of all, so there is only one."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in {trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR}:
                self.errors.append(message)

    return trt, Logger()


def gpu_arch() -> str:
    """What the GPU that CUDA takes first is, such as "sm89" for compute capability 8.9.

    Raises:
        RunError: there is none, or the package that asks for it is not installed.
    """
    cuda = load_cuda()
    error, count = cuda.cudaGetDeviceCount()
    if int(error) or not count:
        words = cuda.cudaGetErrorString(error)[1].decode() if int(error) else "none is visible"
        raise RunError(f"no NVIDIA GPU that CUDA can use ({words}); a missing or old driver looks like this, too")
    names = cuda.cudaDeviceAttr
    major = called(cuda, cuda.cudaDeviceGetAttribute(names.cudaDevAttrComputeCapabilityMajor, 0))
    minor = called(cuda, cuda.cudaDeviceGetAttribute(names.cudaDevAttrComputeCapabilityMinor, 0))
    return f"sm{major}{minor}"


def load_cuda() -> Any:
    """The module `cuda.bindings.runtime`."""
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError:
        raise RunError("cuda-bindings is not installed; pip install 'bot-deploy[tensorrt]' or [tensorrt-rtx]") from None


def called(cuda: Any, result: tuple[Any, ...]) -> Any:
    """What a function of the CUDA runtime returned besides its error code.

    Raises:
        RunError: it failed.
    """
    error, *values = result
    if int(error):
        words = cuda.cudaGetErrorString(error)[1].decode()
        raise RunError(f"CUDA: {words}; `nvidia-smi` shows the GPU's state and memory")
    return values[0] if values else None


def one_line(words: list[str]) -> str:
    """Messages of a library as a part of one of ours."""
    return "; ".join(" ".join(message.split()) for message in words) or "it does not say why"
