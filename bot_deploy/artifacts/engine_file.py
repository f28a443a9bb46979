"""TensorRT engine files, each with a sidecar that describes it.

An engine holds code that the GPU executes, so an engine is read only if its SHA-256 is the one in its sidecar.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bot_deploy.errors import InputError
from bot_deploy.files import write_atomically

from .contract import Contract, from_json
from .json_fields import parse_fields

if TYPE_CHECKING:
    from pathlib import Path

# package -> module; the extra of bot-deploy has the name of the package
PACKAGE_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
FORMAT = 1
REEXPORT_HINT = "export it again with `bot export --trt`"


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """The description of `model.engine` in `model.engine.json`."""

    contract: Contract
    sha256: str  # hash of the engine
    onnx_sha256: str  # hash of the ONNX model that the engine was built from
    package: str  # package that built the engine and must run it, a key of PACKAGE_MODULES
    version: str  # version of the package
    archs: tuple[str, ...]  # GPUs that the engine runs on, such as "sm89"
    profile: tuple[int, int, int]  # batch sizes: smallest, the one it is tuned for, largest
    precision: str  # precision of the network, such as "fp16"
    format: int = FORMAT

    def to_json(self) -> str:
        fields = {**vars(self), "contract": json.loads(self.contract.to_json())}
        return json.dumps(fields, indent=1, sort_keys=True) + "\n"

    def key(self) -> str:
        """32 hex digits; equal for two builds that make the same engine, so that a built engine can be reused."""
        fields = (self.onnx_sha256, self.package, self.version, self.archs, self.profile, self.precision, self.format)
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:32]


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
        text = companion.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"{path}: {companion.name} is not beside it; keep the two together, or {REEXPORT_HINT}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{companion}: not readable ({error}); {REEXPORT_HINT}") from None
    sidecar = parse_fields(
        text,
        partial(_sidecar, source=companion),
        source=str(companion),
        kind="sidecar",
        version=FORMAT,
        remedy=REEXPORT_HINT,
    )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
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


def _sidecar(fields: dict[str, Any], source: Path) -> Sidecar:
    fields["contract"] = from_json(json.dumps(fields["contract"]), str(source))
    fields["archs"] = tuple(str(arch) for arch in fields["archs"])
    smallest, tuned, largest = (int(size) for size in fields["profile"])
    fields["profile"] = smallest, tuned, largest
    sidecar = Sidecar(**fields)
    texts = (sidecar.sha256, sidecar.onnx_sha256, sidecar.version, sidecar.precision)
    if (
        sidecar.package not in PACKAGE_MODULES
        or not 1 <= smallest <= tuned <= largest
        or not all(type(text) is str for text in texts)
    ):
        raise ValueError("package, profile or hashes")
    return sidecar
