"""The NVIDIA driver and its GPUs. The driver's library is asked directly, so that this needs no package."""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
VERSION_FILE = Path("/proc/driver/nvidia/version")
NAME_BYTES = 256
# CUdevice_attribute of the CUDA driver API
MULTIPROCESSORS, MAJOR, MINOR = 16, 75, 76


@dataclass(frozen=True)
class Gpu:
    """A GPU that CUDA can use."""

    name: str  # such as "NVIDIA H100 80GB HBM3"
    arch: str  # compute capability, such as "sm90"
    multiprocessors: int
    memory: int  # bytes

    @property
    def model(self) -> str:
        """Equal for GPUs that run each other's TensorRT engines; the same chip is sold with more or fewer parts."""
        return f"{self.name}, {self.multiprocessors} multiprocessors"


@dataclass(frozen=True)
class Driver:
    """What the driver says; `failure` is the reason in its own words if no GPU can be used."""

    version: str = ""  # such as "580.65.06"; "" if the system does not tell
    cuda: str = ""  # the newest CUDA that it runs, such as "13.0"
    gpus: tuple[Gpu, ...] = ()
    failure: str = ""


class _DriverError(Exception):
    """A function of the driver returned an error code."""


def find_driver(library: Any = None) -> Driver:
    """The driver and the GPUs that CUDA_VISIBLE_DEVICES leaves visible.

    `library` is the driver's library, as ctypes opens it; by default that of the system.
    """
    version = _kernel_version()
    try:
        cuda = library or ctypes.CDLL(LIBRARY)
    except OSError:
        return Driver(version, failure=f"no NVIDIA driver: {LIBRARY} is not on this machine")
    number = ctypes.c_int()
    try:
        _check(cuda, cuda.cuDriverGetVersion(ctypes.byref(number)))
        supported = f"{number.value // 1000}.{number.value % 1000 // 10}"
    except _DriverError as error:
        return Driver(version, failure=str(error))
    try:
        _check(cuda, cuda.cuInit(0))
        _check(cuda, cuda.cuDeviceGetCount(ctypes.byref(number)))
        gpus = tuple(_read_gpu(cuda, index) for index in range(number.value))
    except _DriverError as error:
        return Driver(version, supported, failure=str(error))
    return Driver(version, supported, gpus, "" if gpus else "no GPU is visible to CUDA")


def _read_gpu(cuda: Any, index: int) -> Gpu:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(NAME_BYTES), ctypes.c_size_t()
    _check(cuda, cuda.cuDeviceGet(ctypes.byref(device), index))
    _check(cuda, cuda.cuDeviceGetName(name, NAME_BYTES, device))
    _check(cuda, cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
    numbers = []
    for attribute in (MAJOR, MINOR, MULTIPROCESSORS):
        value = ctypes.c_int()
        _check(cuda, cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
        numbers.append(value.value)
    major, minor, multiprocessors = numbers
    return Gpu(name.value.decode(errors="replace"), f"sm{major}{minor}", multiprocessors, memory.value)


def _check(cuda: Any, error: int) -> None:
    if error:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(error, ctypes.byref(text))
        raise _DriverError((text.value or b"error %d of the driver" % error).decode(errors="replace"))


def _kernel_version() -> str:
    try:
        match = re.search(
            r"Kernel Module.*?\s(\d+\.[\d.]+)", VERSION_FILE.read_text(encoding="utf-8", errors="replace")
        )
    except OSError:
        return ""
    return match[1] if match else ""
