"""TensorRT engine files, each with a sidecar that describes it.

An engine holds code that the GPU executes. An engine is read only when its SHA-256 is the one in its sidecar.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bot_deploy.errors import InputError
from bot_deploy.files import write_atomically

from .contract import Contract, from_json

if TYPE_CHECKING:
    from pathlib import Path

# package -> module; the extra of bot-deploy is named like the package
PACKAGE_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
FORMAT = 1
REEXPORT_HINT = "export it again with `bot export --trt`"


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What `model.engine.json` says about `model.engine`."""

    contract: Contract
    sha256: str  # of the engine
    onnx_sha256: str  # of the model that it was built from
    package: str  # that built it and must run it, a key of PACKAGE_MODULES
    version: str  # of the package
    archs: tuple[str, ...]  # GPUs that it runs on, such as "sm89"
    profile: tuple[int, int, int]  # images in a batch: least, best, most
    precision: str
    format: int = FORMAT

    def to_json(self) -> str:
        fields = {**vars(self), "contract": json.loads(self.contract.to_json())}
        return json.dumps(fields, indent=1, sort_keys=True) + "\n"

    def key(self) -> str:
        """32 hex digits that are the same for what builds the same engine."""
        fields = (self.onnx_sha256, self.package, self.version, self.archs, self.profile, self.precision, self.format)
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:32]


def sidecar_path(engine: Path) -> Path:
    return engine.with_name(f"{engine.name}.json")


def write(path: Path, data: bytes, sidecar: Sidecar) -> None:
    """Writes the engine and its sidecar; stopped in between, the two do not fit and are refused by `read`."""
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    write_sidecar(path, sidecar)


def write_sidecar(path: Path, sidecar: Sidecar) -> None:
    """Writes what is beside the engine `path`, and leaves the engine as it is."""
    write_atomically(sidecar_path(path), lambda temporary: temporary.write_text(sidecar.to_json(), encoding="utf-8"))


def read(path: Path) -> tuple[bytes, Sidecar]:
    """The bytes of the engine in `path`, which are those that its sidecar was written for.

    Raises:
        InputError: no sidecar, a damaged one, or that of another engine.
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
    sidecar = _parsed(text, companion)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if hashlib.sha256(data).hexdigest() != sidecar.sha256:
        raise InputError(
            f"{path}: not the engine that {companion.name} was written for, so it is not run; {REEXPORT_HINT}"
        )
    return data, sidecar


def _parsed(text: str, source: Path) -> Sidecar:
    try:
        fields: dict[str, Any] = json.loads(text)
        version = fields.get("format")
    except (ValueError, AttributeError):
        raise InputError(f"{source}: not the description of an engine; {REEXPORT_HINT}") from None
    if version != FORMAT:
        raise InputError(
            f"{source}: sidecar format {version}, but this bot_deploy reads format {FORMAT}; {REEXPORT_HINT}"
        )
    try:
        fields["contract"] = from_json(json.dumps(fields["contract"]), str(source))
        fields["archs"] = tuple(str(arch) for arch in fields["archs"])
        least, best, most = (int(size) for size in fields["profile"])
        fields["profile"] = least, best, most
        sidecar = Sidecar(**fields)
        texts = (sidecar.sha256, sidecar.onnx_sha256, sidecar.version, sidecar.precision)
        if (
            sidecar.package not in PACKAGE_MODULES
            or not 1 <= least <= best <= most
            or not all(type(t) is str for t in texts)
        ):
            raise ValueError("package, profile or hashes")  # noqa: TRY301
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{source}: damaged ({error}); {REEXPORT_HINT}") from None
    return sidecar
