"""The CUDA runtime, and the packages that build and run TensorRT engines: `tensorrt` and `tensorrt-rtx`."""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from bot_deploy.artifacts.engine_file import PACKAGE_MODULES
from bot_deploy.driver import Gpu
from bot_deploy.errors import GPU_HINT, RunError, missing_package, on_one_line

logger = logging.getLogger(__name__)


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
            f"{package} does not load ({on_one_line(error)}); pip install 'bot-deploy[{package}]' again; {GPU_HINT}"
        ) from None

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        """TensorRT sends all messages of a process to its first logger, so there is only one.

        Warnings are shown, each once; errors become part of the message of the error that they lead to.
        """

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.shown: set[str] = set()

        def log(self, severity: Any, message: str) -> None:
            if severity in {trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR}:
                self.errors.append(message)
            elif severity == trt.ILogger.WARNING and message not in self.shown:
                self.shown.add(message)
                logger.warning(f"{package}: {join_messages([message])}")

    return trt, Logger()


def start(trt: Any, logger: Any, kind: str) -> Any:
    """A "Runtime" or a "Builder" of TensorRT.

    Raises:
        RunError: CUDA does not start; the message has the driver's words.
    """
    logger.errors.clear()
    try:
        return getattr(trt, kind)(logger)
    except (RuntimeError, TypeError) as error:  # TypeError: pybind11 got nothing
        raise RunError(
            f"{trt.__name__} does not start ({join_messages([*logger.errors, str(error)])}); {GPU_HINT}"
        ) from None


def find_gpu(number: int = 0) -> Gpu:
    """The GPU with this number, as CUDA describes it.

    Raises:
        RunError: no such GPU, or the package cuda-bindings is not installed.
    """
    cuda = load_cuda()
    error, count = cuda.cudaGetDeviceCount()
    if int(error) or not count:
        reason = _describe(cuda, error) if int(error) else "none is visible"
        raise RunError(f"no NVIDIA GPU that CUDA can use ({reason}); {GPU_HINT}")
    if number >= count:
        raise RunError(f"no GPU cuda:{number}, because CUDA sees {count}; {GPU_HINT}")
    properties = check_cuda(cuda, cuda.cudaGetDeviceProperties(number))
    return Gpu(
        name=properties.name.rstrip(b"\0").decode(errors="replace"),
        arch=f"sm{properties.major}{properties.minor}",
        multiprocessors=properties.multiProcessorCount,
        memory=properties.totalGlobalMem,
    )


def load_cuda() -> Any:
    """The module `cuda.bindings.runtime`.

    Raises:
        RunError: the package cuda-bindings is not installed.
    """
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError:
        raise RunError(
            f"cuda-bindings is not installed; pip install 'bot-deploy[tensorrt]' or [tensorrt-rtx]; {GPU_HINT}"
        ) from None


def check_cuda(cuda: Any, result: tuple[Any, ...]) -> Any:
    """The value in `result`, which a function of the CUDA runtime returned with an error code.

    Raises:
        RunError: the code is an error.
    """
    error, *values = result
    if int(error):
        raise RunError(f"CUDA: {_describe(cuda, error)}; {GPU_HINT}")
    return values[0] if values else None


def _describe(cuda: Any, error: Any) -> str:
    text: bytes = cuda.cudaGetErrorString(error)[1]
    return text.decode(errors="replace")


def join_messages(messages: list[str]) -> str:
    """The messages of a library on one line."""
    return "; ".join(" ".join(message.split()) for message in messages) or "without a message"
