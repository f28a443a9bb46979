"""What this machine has and what runs on it: the table of `bot env`."""

from __future__ import annotations

import ctypes
import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot_deploy.choices import BACKENDS, DEVICES
from bot_deploy.driver import Driver, find_driver
from bot_deploy.embedder import open_embedder
from bot_deploy.errors import GPU_HINT, BotError, missing_package, on_one_line
from bot_deploy.machine import available_cores, cpu_features, cpu_name
from bot_deploy.models import box

if TYPE_CHECKING:
    from collections.abc import Iterator

# Packages whose versions decide what runs; those of a prefix are named with the CUDA version that they are for.
PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-bindings",
    "torch",
    "torchvision",
    "numpy",
    "pillow",
)
CUDA_PACKAGES = ("nvidia-cuda-runtime", "nvidia-cudnn", "nvidia-cublas")  # with -cu12 behind them, or nothing
# library of the system -> function that gives its version
LIBRARIES = {
    "cuDNN": (("libcudnn.so.9", "cudnn64_9.dll"), "cudnnGetVersion"),
    "CUDA runtime": (("libcudart.so.13", "libcudart.so.12", "cudart64_13.dll", "cudart64_12.dll"), ""),
}
JETSON_FILE = Path("/etc/nv_tegra_release")


@dataclass(frozen=True)
class Runtime:
    """Whether models of some kinds run on a device."""

    device: str
    models: tuple[str, ...]  # suffixes of their files
    runtime: str  # with its version, if it works
    missing: str  # why it does not work, and what to do; "" if it works


@dataclass(frozen=True)
class Environment:
    """The table of `bot env`."""

    bot_deploy: str
    python: str
    system: str
    cpu: str
    cores: int
    cpu_features: tuple[str, ...] | None  # None if the system does not tell
    driver: Driver
    cuda_visible_devices: str | None
    libraries: dict[str, str]  # of the system, outside Python's packages -> version
    packages: dict[str, str]  # installed package -> version
    runtimes: tuple[Runtime, ...]

    def to_dict(self) -> dict[str, Any]:
        """The table as a JSON document."""
        return {**asdict(self), "runtimes": [{**asdict(row), "runs": not row.missing} for row in self.runtimes]}

    def runs_on(self, device: str) -> bool:
        """Whether models of some kind run on `device`; "auto" is any."""
        return any(not row.missing for row in self.runtimes if device in {"auto", row.device})

    def text_lines(self) -> list[str]:
        """The table as text."""
        rows = [*self._machine_rows(), *self._package_rows()]
        for row in self.runtimes:
            answer = f"no: {row.missing}" if row.missing else f"yes: {row.runtime}"
            rows.append((f"{' '.join(row.models)} on {row.device}", answer))
        width = max(len(name) for name, _ in rows)
        return [f"{name:{width}}  {value}" for name, value in rows]

    def _machine_rows(self) -> Iterator[tuple[str, str]]:
        driver, features = self.driver, "".join(f", {name}" for name in self.cpu_features or ())
        yield "bot-deploy", f"{self.bot_deploy} with Python {self.python} on {self.system}"
        yield "CPU", f"{self.cpu}, {self.cores} cores{features}"
        version = driver.version or ("of an unknown version" if driver.cuda else "none")
        yield "NVIDIA driver", f"{version}, for CUDA up to {driver.cuda}" if driver.cuda else version
        for number, gpu in enumerate(driver.gpus):
            size = f"{gpu.memory / 2**30:.0f} GiB"
            yield f"GPU cuda:{number}", f"{gpu.name}, {gpu.arch}, {gpu.multiprocessors} multiprocessors, {size}"
        if driver.failure:
            yield "GPU", f"none: {driver.failure}"
        if self.cuda_visible_devices is not None:
            yield "CUDA_VISIBLE_DEVICES", self.cuda_visible_devices or "empty, so that no GPU is visible"

    def _package_rows(self) -> Iterator[tuple[str, str]]:
        for name, version in self.libraries.items():
            yield name, f"{version}, of the system"
        others = [name for name in self.packages if name not in PACKAGES]
        for name in (*PACKAGES, *others):
            yield name, self.packages.get(name, "not installed")


def examine() -> Environment:
    """Looks at this machine and tries every runtime."""
    from bot_deploy import __version__

    return Environment(
        bot_deploy=__version__,
        python=platform.python_version(),
        system=_system(),
        cpu=cpu_name(),
        cores=available_cores(),
        cpu_features=cpu_features(),
        driver=find_driver(),
        cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        libraries=_system_libraries(),
        packages=_installed_packages(),
        runtimes=tuple(_try_runtimes()),
    )


def _system() -> str:
    jetson = "Jetson, " if JETSON_FILE.exists() else ""
    return f"{jetson}{platform.system()} {platform.machine()}"


def _installed_packages() -> dict[str, str]:
    """The installed packages of PACKAGES and CUDA_PACKAGES with their versions."""
    found = {}
    for distribution in metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if name in PACKAGES or name.startswith(CUDA_PACKAGES):
            found[name] = distribution.version
    return dict(sorted(found.items()))


def _system_libraries() -> dict[str, str]:
    """The CUDA libraries that the system's loader finds; those that pip installed are packages."""
    found = {}
    for name, (files, function) in LIBRARIES.items():
        for file in files:
            try:
                library = ctypes.CDLL(file)
            except OSError:
                continue
            found[name] = _library_version(library, function)
            break
    return found


def _library_version(library: ctypes.CDLL, function: str) -> str:
    if function:
        number = getattr(library, function)()
        return f"{number // 10000}.{number % 10000 // 100}.{number % 100}"
    number = ctypes.c_int()
    library.cudaRuntimeGetVersion(ctypes.byref(number))
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _try_runtimes() -> Iterator[Runtime]:
    """Runs something with each module of BACKENDS on each of its devices."""
    for device in DEVICES[1:]:
        suffixes: dict[str, list[str]] = {}
        for suffix, modules in BACKENDS.items():
            if device in modules:
                suffixes.setdefault(modules[device], []).append(suffix)
        for module, files in suffixes.items():
            runtime = missing = ""
            try:
                runtime = _try(module, device)
            except BotError as error:
                missing = error.lines[0].removesuffix(f"; {GPU_HINT}")
            except Exception as error:  # noqa: BLE001 - a broken package raises anything, and the table must appear
                missing = f"{type(error).__name__}: {on_one_line(error)}"
            yield Runtime(device, tuple(files), runtime, missing)


def _try(module: str, device: str) -> str:
    """The runtime with its version, if it works."""
    if module == "torch":
        try:
            from bot_deploy.backends.torch import try_device
        except ModuleNotFoundError:
            raise missing_package("torch") from None
        return try_device(device)
    if module == "tensorrt":
        from bot_deploy.backends.tensorrt import try_runtimes

        return try_runtimes()
    return open_embedder(box.PATH, device).backend
