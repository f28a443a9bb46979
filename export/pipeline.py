"""Export, verify, and only then give the artifact its name."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bot_deploy.artifacts import checkpoint
from bot_deploy.artifacts.engine_file import sidecar_path
from bot_deploy.backends import nvidia
from bot_deploy.backends.torch import runner
from bot_deploy.choices import ENGINE_BATCH_SIZES, OPSET
from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.errors import ParityError, RunError
from bot_deploy.evaluation.protocol import evaluate_dataset
from bot_deploy.model import InferenceGraph

from .fp16 import to_fp16
from .graph import inference_graph
from .int8 import to_int8
from .parity import TOLERANCES, Parity, compare, sample, with_scores
from .to_onnx import check, to_onnx
from .to_tensorrt import to_engine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.artifacts.engine_file import Sidecar
    from bot_deploy.datasets import Dataset
    from bot_deploy.evaluation.protocol import Scores
    from bot_deploy.images import Pixels

logger = logging.getLogger(__name__)

NAMES = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
ENGINE = "model.engine"
SHARED = ("fp32", "fp16")  # precisions whose graph is the same in ONNX Runtime and TensorRT
CALIBRATION = 512  # crops


@dataclass(frozen=True)
class Artifact:
    """What was written; a rejected one is named *.rejected."""

    path: Path
    precision: str
    parity: Parity | None  # None: it cannot run here
    not_run: str = ""  # why not
    float32: tuple[str, ...] = ()  # layers that do not bear the precision

    @property
    def rejected(self) -> bool:
        return self.parity is not None and not self.parity.passed

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "precision": self.precision,
            "float32_layers": list(self.float32),
            "parity": self.parity.to_dict() if self.parity else None,
            "not_run": self.not_run or None,
        }


@dataclass(frozen=True)
class ExportContext:
    """A checkpoint on its way out, and what its artifacts are compared with."""

    out: Path
    opset: int
    contract: Contract
    graph: InferenceGraph  # in float32, what is exported
    reference: Embedder  # the network as it was trained
    crops: Pixels  # to compare on
    calibration: Pixels
    benchmark: Dataset | None  # to score on
    expected: Scores | None  # the reference's there


def prepare(
    source: Path,
    out: Path,
    dataset: Dataset,
    *,
    feature: str | None = None,
    flip: bool = False,
    opset: int = OPSET,
    scored: bool = False,
) -> ExportContext:
    """The checkpoint `source`, to be exported to the folder `out` and compared on crops of `dataset`.

    Args:
        source: written by `bot train` or `bot import`.
        out: made where it is missing.
        dataset: any crops will do to compare on.
        feature: "fi" or "ft"; by default the one that was trained for.
        flip: average the embeddings of a crop and of its mirror image, inside the graph.
        opset: of the ONNX files.
        scored: also score on the query and gallery of `dataset`, where it has them.

    Raises:
        InputError: `source` is no checkpoint of ours, `dataset` has fewer than two usable crops, no such opset.
        RunError: the folder cannot be written.
    """
    check(opset)
    saved = checkpoint.load(source)
    contract = replace(saved.contract, feature=feature or saved.contract.feature, flip=flip)
    run = runner(InferenceGraph(saved.build(), contract), "cpu")
    reference = Embedder(contract, "PyTorch", run)
    benchmark = dataset if scored and dataset.query and dataset.gallery else None
    # Not the crops that are scored, where there are others.
    train = replace(dataset, query=(), gallery=()) if dataset.train else dataset
    crops, calibration = sample(dataset, contract.size), sample(train, contract.size, CALIBRATION)
    with _unverified(out / "probe") as path:  # whether it can be written, before the long part
        path.touch()
    return ExportContext(
        out=out,
        opset=opset,
        contract=contract,
        graph=inference_graph(saved, contract),
        reference=reference,
        crops=crops,
        calibration=calibration,
        benchmark=benchmark,
        expected=evaluate_dataset(reference, benchmark) if benchmark else None,
    )


def export_onnx(context: ExportContext, precision: str = "fp32", done: Sequence[Artifact] = ()) -> Artifact:
    """Writes model.onnx, model.fp16.onnx or model.int8.onnx and compares it with PyTorch.

    Args:
        context: what is exported.
        precision: "fp32", "fp16" or "int8".
        done: artifacts of `context`, whose graphs are not made again.

    Raises:
        RunError: the folder cannot be written.
    """
    final = context.out / NAMES[precision]
    with _unverified(final) as path:
        kept = _write(context, precision, path, done)
        parity = _compared(context, path, precision)
        return Artifact(_named(path, final, parity), precision, parity, float32=kept)


def export_engine(
    context: ExportContext,
    precision: str,
    batch: tuple[int, int, int] = ENGINE_BATCH_SIZES,
    archs: Sequence[str] = (),
    done: Sequence[Artifact] = (),
) -> Artifact:
    """Writes model.engine and compares it where its GPU is; see `to_engine` and `export_onnx` for the arguments.

    Raises:
        ParityError: the ONNX model in `done` that it would be built of was rejected.
        RunError: the folder cannot be written, TensorRT is not installed or refuses, or its engine fails on its GPU.
    """
    final, refused = context.out / ENGINE, _rejected(context.out / NAMES[precision])
    if precision in SHARED and refused in [artifact.path for artifact in done]:
        raise ParityError(f"no {ENGINE}, which would be built of {refused}")
    with _source(context, precision, done) as (source, kept), _unverified(final) as path:
        not_run = _why_not(to_engine(source, path, batch=batch, archs=archs).sidecar)
        parity = None if not_run else _compared(context, path, precision)
        return Artifact(_named(path, final, parity), precision, parity, not_run, kept)


def _why_not(sidecar: Sidecar) -> str:
    """Why an engine cannot run here; empty where it can, so that there every failure is one."""
    try:
        arch = nvidia.gpu_arch()
    except RunError as error:
        return str(error)
    return "" if arch in sidecar.archs else f"it is for {', '.join(sidecar.archs)}, but the GPU is {arch}"


@contextlib.contextmanager
def _source(context: ExportContext, precision: str, done: Sequence[Artifact]) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """What an engine or an INT8 graph is made of, and its layers left in float32: one of `done`, or gone afterwards."""
    for artifact in done:
        if precision in SHARED and artifact.path == context.out / NAMES[precision]:
            yield artifact.path, artifact.float32
            return
    with _unverified(context.out / f"source.{NAMES[precision]}") as path:
        yield path, _write(context, precision, path, done, tensorrt=True)


def _write(
    context: ExportContext, precision: str, path: Path, done: Sequence[Artifact], *, tensorrt: bool = False
) -> tuple[str, ...]:
    """The ONNX model in `precision`; returns the layers left in float32."""
    contract = replace(context.contract, precision=precision)
    logger.info(f"writing {precision.upper()}")
    if precision == "fp32":
        to_onnx(context.graph, contract, path, context.opset)
        return ()
    if precision == "fp16":
        graph = copy.deepcopy(context.graph)
        kept = to_fp16(graph, context.calibration[:64])
        to_onnx(graph, contract, path, context.opset)
        return tuple(kept)
    with _source(context, "fp32", done) as (source, _):
        return tuple(to_int8(source, path, context.graph, contract, context.calibration, tensorrt=tensorrt))


def _compared(context: ExportContext, path: Path, precision: str) -> Parity:
    candidate = open_embedder(path)
    parity = compare(context.reference, candidate, context.crops, TOLERANCES[precision])
    if context.benchmark and context.expected:
        parity = with_scores(parity, context.expected, evaluate_dataset(candidate, context.benchmark))
    return parity


@contextlib.contextmanager
def _unverified(final: Path) -> Iterator[Path]:
    """A neighbour of `final` to write to, gone afterwards with all that belongs to it."""
    path = final.with_name(f".unverified.{os.getpid()}.{final.name}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield path
    except OSError as error:
        raise RunError(f"{final.parent}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            sidecar_path(path).unlink(missing_ok=True)


def _rejected(final: Path) -> Path:
    return final.with_name(f"{final.name}.rejected")


def _named(path: Path, final: Path, parity: Parity | None) -> Path:
    """Gives the artifact, and its sidecar, one of its two names; what had the other must not pass for it."""
    rejected = _rejected(final)
    passed = parity is None or parity.passed
    name, stale = (final, rejected) if passed else (rejected, final)
    for file in (stale, sidecar_path(stale)):
        file.unlink(missing_ok=True)
    path.replace(name)
    if sidecar_path(path).exists():
        sidecar_path(path).replace(sidecar_path(name))
    return name
