"""Export, verify, and only then give the artifact its name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bot_deploy import checkpoint
from bot_deploy.embedder import open_embedder
from bot_deploy.errors import RunError
from bot_deploy.progress import say

from .parity import TOLERANCE, Parity, compare, sample
from .to_onnx import to_onnx

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.datasets import Dataset


@dataclass(frozen=True)
class Export:
    """An artifact and what was measured on it; a rejected one is named *.rejected."""

    path: Path
    parity: Parity


def export_onnx(source: Path, out: Path, dataset: Dataset) -> Export:
    """Exports the checkpoint `source` to `out`/model.onnx and compares both on crops of `dataset`.

    Raises:
        InputError: `source` is no checkpoint of ours.
        RunError: `out` cannot be written.
    """
    saved = checkpoint.load(source)
    crops = sample(dataset, saved.contract.size)
    accepted, rejected = out / "model.onnx", out / "model.onnx.rejected"
    unverified = out / f".unverified.{os.getpid()}.onnx"
    try:
        out.mkdir(parents=True, exist_ok=True)
        say("tracing the graph")
        to_onnx(saved, unverified)
        parity = compare(open_embedder(source, "cpu"), open_embedder(unverified), crops, TOLERANCE["fp32"])
        # One of the two: an older export must not pass for this one.
        final, stale = (accepted, rejected) if parity.passed else (rejected, accepted)
        stale.unlink(missing_ok=True)
        unverified.replace(final)
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        unverified.unlink(missing_ok=True)
    return Export(final, parity)
