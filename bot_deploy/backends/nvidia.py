"""The CUDA runtime, and the packages that build and run TensorRT engines: `tensorrt` and `tensorrt-rtx`."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from bot_deploy.artifacts.engine_file import PACKAGE_MODULES
from bot_deploy.errors import GPU_HINT, RunError, missing_package, on_one_line


def is_installed(package: str) -> bool:
    return find_spec(PACKAGE_MODULES[package]) is not None


@cache
def load_tensorrt(package: str) -> tuple[Any, Any]:
    """The module of `package`, and a logger that collects the module's error messages in `errors`.

    Raises:
        RunError: the package is not installed, or does not load.
    """
    try:
        trt = import_module(PACKAGE_MODULES[package])
    except ModuleNotFoundError:
        raise missing_package(package, package) from None
    except (ImportError, OSError, RuntimeError) as error:  # a CUDA library is missing
        raise RunError(
            f"{package} does not load ({on_one_line(error)}); pip install 'bot-deploy[{package}]' again"
        ) from None

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        """TensorRT sends all messages of a process to its first logger, so there is only one."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in {trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR}:
                self.errors.append(message)

    return trt, Logger()


def gpu_arch() -> str:
    """The architecture of CUDA's first GPU, such as "sm89" for compute capability 8.9.

    Raises:
        RunError: no GPU, or the package cuda-bindings is not installed.
    """
    cuda = load_cuda()
    error, count = cuda.cudaGetDeviceCount()
    if int(error) or not count:
        reason = cuda.cudaGetErrorString(error)[1].decode() if int(error) else "none is visible"
        raise RunError(f"no NVIDIA GPU that CUDA can use ({reason}); {GPU_HINT}")
    attributes = cuda.cudaDeviceAttr
    major = check_cuda(cuda, cuda.cudaDeviceGetAttribute(attributes.cudaDevAttrComputeCapabilityMajor, 0))
    minor = check_cuda(cuda, cuda.cudaDeviceGetAttribute(attributes.cudaDevAttrComputeCapabilityMinor, 0))
    return f"sm{major}{minor}"


def load_cuda() -> Any:
    """The module `cuda.bindings.runtime`.

    Raises:
        RunError: the package cuda-bindings is not installed.
    """
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError:
        raise RunError("cuda-bindings is not installed; pip install 'bot-deploy[tensorrt]' or [tensorrt-rtx]") from None


def check_cuda(cuda: Any, result: tuple[Any, ...]) -> Any:
    """The value in `result`, which a function of the CUDA runtime returned with an error code.

    Raises:
        RunError: the code is an error.
    """
    error, *values = result
    if int(error):
        reason = cuda.cudaGetErrorString(error)[1].decode()
        raise RunError(f"CUDA: {reason}; {GPU_HINT}")
    return values[0] if values else None


def join_messages(messages: list[str]) -> str:
    """The messages of a library on one line."""
    return "; ".join(" ".join(message.split()) for message in messages) or "without a message"
