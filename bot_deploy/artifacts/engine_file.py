"""TensorRT engine files, each with a sidecar that describes it.

An engine holds code that the GPU executes, so an engine is read only if its SHA-256 is the one in its sidecar.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from bot_deploy.choices import MAX_BATCH
from bot_deploy.errors import InputError
from bot_deploy.files import read_bounded, write_atomically

from .contract import Contract, Name, decode_contract
from .decoding import decode_fields, decode_json

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.driver import Gpu

# package -> module; the extra of bot-deploy has the name of the package
PACKAGE_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
SIDECAR_FORMAT = 1
OLD_SIDECAR_NAMES = {"archs": "gpu_archs"}
OPTIONAL = ("gpu", "version_compatible", "build_options")  # fields that older sidecars lack
MAX_SIDECAR_BYTES, MAX_ENGINE_BYTES = 16 << 20, 8 << 30
Sha256 = Annotated[str, Meta(max_length=64)]  # "" before the engine is built
BatchSize = Annotated[int, Meta(ge=1, le=MAX_BATCH)]
REEXPORT_HINT = "export it again with `bot export --trt`"


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """The description of `model.engine` in `model.engine.json`."""

    contract: Contract
    sha256: Sha256  # hash of the engine
    onnx_sha256: Sha256  # hash of the ONNX model that the engine was built from
    package: Name  # package that built the engine and must run it, a key of PACKAGE_MODULES
    version: Name  # version of the package
    gpu_archs: tuple[Name, ...]  # GPUs that the engine runs on, such as "sm89"; "sm80+": and newer ones
    profile: tuple[BatchSize, BatchSize, BatchSize]  # batch sizes: smallest, the one it is tuned for, largest
    precision: Name  # precision of the network, such as "fp16"
    gpu: Name = ""  # the only model of GPU that it runs on; "": all of `gpu_archs`
    version_compatible: bool = False  # newer versions of the package run it, too
    build_options: Name = ""  # of the builder, where they are not the defaults
    format: int = SIDECAR_FORMAT

    def to_json(self) -> str:
        fields = {**vars(self), "contract": json.loads(self.contract.to_json())}
        return json.dumps(fields, indent=1, sort_keys=True) + "\n"

    def key(self) -> str:
        """32 hex digits; equal for two builds that make the same engine, so that a built engine can be reused."""
        fields = (
            self.onnx_sha256,
            self.package,
            self.version,
            self.gpu_archs,
            self.profile,
            self.precision,
            self.format,
            self.gpu,
            self.version_compatible,
            self.build_options,
        )
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:32]

    def wrong_version(self, version: str) -> str:
        """Why `version` of the package does not run the engine; "" if it does."""
        newer = self.version_compatible and _numbers(version) >= _numbers(self.version)
        if version == self.version or newer:
            return ""
        return f"built with {self.package} {self.version}, but {version} is installed"

    def wrong_gpu(self, gpu: Gpu) -> str:
        """Why the engine does not run on `gpu`; "" if it does."""
        if not any(_covers(arch, gpu.arch) for arch in self.gpu_archs):
            return f"built for {', '.join(self.gpu_archs)}, but the GPU is {gpu.arch}"
        if self.gpu and self.gpu != gpu.model:
            return (
                f"built for {self.gpu}, but the GPU is {gpu.model}; `--compatible capability` builds for all {gpu.arch}"
            )
        return ""


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _covers(arch: str, other: str) -> bool:
    """Whether an engine for `arch`, such as "sm80+", is for the GPU `other` too."""
    return arch == other or (arch.endswith("+") and _numbers(other) >= _numbers(arch))


def sidecar_path(engine: Path) -> Path:
    return engine.with_name(f"{engine.name}.json")


def write(path: Path, data: bytes, sidecar: Sidecar) -> None:
    """Writes the engine `data` to `path`, and its sidecar.

    If the process is killed between the two, `read` refuses the pair.
    """
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    write_sidecar(path, sidecar)


def write_sidecar(path: Path, sidecar: Sidecar) -> None:
    """Writes the sidecar of the engine `path`; the engine stays as it is."""
    write_atomically(sidecar_path(path), lambda temporary: temporary.write_text(sidecar.to_json(), encoding="utf-8"))


def read(path: Path) -> tuple[bytes, Sidecar]:
    """The engine at `path` and its sidecar.

    Raises:
        InputError: the sidecar is missing, damaged or belongs to another engine.
    """
    companion = sidecar_path(path)
    try:
        text = read_bounded(companion, MAX_SIDECAR_BYTES)
    except FileNotFoundError:
        raise InputError(
            f"{path}: {companion.name} is not beside it; keep the two together, or {REEXPORT_HINT}"
        ) from None
    except OSError as error:
        raise InputError(f"{companion}: not readable ({error.strerror or error}); {REEXPORT_HINT}") from None
    fields = decode_json(text, str(companion), "sidecar", REEXPORT_HINT)
    if isinstance(fields, dict) and fields.get("format") == SIDECAR_FORMAT:
        fields = {OLD_SIDECAR_NAMES.get(name, name): value for name, value in fields.items()}
        if "contract" in fields:
            fields["contract"] = decode_contract(fields["contract"], str(companion))
    sidecar = decode_fields(
        fields,
        Sidecar,
        source=str(companion),
        kind="sidecar",
        version=SIDECAR_FORMAT,
        remedy=REEXPORT_HINT,
        optional=OPTIONAL,
        check=_check_sidecar,
    )
    try:
        data = read_bounded(path, MAX_ENGINE_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    if hashlib.sha256(data).hexdigest() != sidecar.sha256:
        raise InputError(
            f"{path}: not the engine that {companion.name} was written for, so it is not run; {REEXPORT_HINT}"
        )
    return data, sidecar


def read_contract(path: Path) -> Contract:
    """The contract in the sidecar of the engine `path`, which is checked as by `read`."""
    return read(path)[1].contract


def write_contract(path: Path, contract: Contract) -> None:
    """Replaces the contract in the sidecar of the engine `path`; the engine stays as it is."""
    write_sidecar(path, replace(read(path)[1], contract=contract))


def _check_sidecar(sidecar: Sidecar) -> None:
    smallest, tuned, largest = sidecar.profile
    if sidecar.package not in PACKAGE_MODULES:
        raise ValueError(f"package {sidecar.package!r}")
    if not smallest <= tuned <= largest:
        raise ValueError("profile: not in ascending order")
