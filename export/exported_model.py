"""An exported file: it gets its name only after it was verified, and *.rejected if it failed."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bot_deploy.artifacts.engine_file import sidecar_path
from bot_deploy.artifacts.ir_file import weights_path
from bot_deploy.errors import RunError
from bot_deploy.files import delete_leftovers
from bot_deploy.runs import ONNX_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .parity import Parity

ONNX_NAMES = {"fp32": ONNX_NAME, "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
ENGINE_NAME = "model.engine"


@dataclass(frozen=True)
class ResizeSkew:
    """How far a program's embeddings of crops in their own size are from ours, because it resizes otherwise."""

    crops: int
    mean_cosine: float
    min_cosine: float


@dataclass(frozen=True)
class ExportedModel:
    """An exported file with its parity. The path of a rejected one ends in ".rejected", which no backend opens."""

    path: Path
    precision: str
    data_name: str  # data set of the crops that it was compared on
    parity: Parity | None  # None if it cannot run on this machine
    not_run: str = ""  # the reason
    float32_layers: tuple[str, ...] = ()  # layers too sensitive for the precision
    resize_skew: ResizeSkew | None = None  # of a file for another program that resizes otherwise
    files: tuple[Path, ...] = ()  # what that program needs beside it

    @property
    def rejected(self) -> bool:
        """Whether its embeddings differ from PyTorch's by more than the tolerance."""
        return self.parity is not None and not self.parity.passed

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON."""
        return {
            "path": str(self.path),
            "precision": self.precision,
            "float32_layers": list(self.float32_layers),
            "parity": self.parity.to_dict() if self.parity else None,
            "not_run": self.not_run or None,
            "resize_skew": asdict(self.resize_skew) if self.resize_skew else None,
            "files": [str(file) for file in self.files],
        }


@contextlib.contextmanager
def unverified_path(final: Path) -> Iterator[Path]:
    """Yields a path beside `final` to write to; the file and its sidecar are deleted afterwards.

    Raises:
        RunError: the folder cannot be written.
    """
    path = final.with_name(f".unverified.{os.getpid()}.{final.name}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        delete_leftovers(final.parent)
        yield path
    except OSError as error:
        raise RunError(f"{final.parent}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            sidecar_path(path).unlink(missing_ok=True)
            if path.suffix == ".xml":
                weights_path(path).unlink(missing_ok=True)


def rejected_path(final: Path) -> Path:
    """The path of a model file that failed verification."""
    return final.with_name(f"{final.name}.rejected")


def publish(path: Path, final: Path, parity: Parity | None) -> Path:
    """Renames the verified file `path` and its companions to `final`, or to the rejected path; returns the new path.

    Deletes what an earlier export left at the other of the two paths.
    """
    passed = parity is None or parity.passed
    name, stale = (final, rejected_path(final)) if passed else (rejected_path(final), final)
    for file in (stale, sidecar_path(stale)):
        file.unlink(missing_ok=True)
    if path.suffix == ".xml":
        weights = weights_path(final)
        weights_name, stale_weights = (weights, rejected_path(weights)) if passed else (rejected_path(weights), weights)
        stale_weights.unlink(missing_ok=True)
        weights_path(path).replace(weights_name)
    path.replace(name)
    if sidecar_path(path).exists():
        sidecar_path(path).replace(sidecar_path(name))
    return name
