"""The steps of an export: what all of its files share, and each file written and compared with PyTorch."""

from __future__ import annotations

import contextlib
import copy
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bot_deploy.artifacts import checkpoint as checkpoints
from bot_deploy.artifacts.engine_file import sidecar_path
from bot_deploy.backends import nvidia
from bot_deploy.backends.torch import runner
from bot_deploy.choices import (
    ENGINE_BATCH_SIZES,
    FEATURES,
    OPSET,
    feature_code,
    feature_name,
)
from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.errors import InputError, ParityError, RunError
from bot_deploy.evaluation.protocol import evaluate_dataset
from bot_deploy.model import InferenceGraph

from .exported_model import ENGINE_NAME, ONNX_NAMES, ExportedModel, publish, rejected_path, unverified_path
from .fp16 import to_fp16
from .graph import inference_graph
from .int8 import to_int8
from .parity import TOLERANCES, Parity, compare_embeddings, sample_crops, with_scores
from .to_litert import LITERT_NAME, open_litert, to_litert
from .to_onnx import check_opset, to_onnx
from .to_tensorrt import DEFAULT_OPTIONS, EngineOptions, adopt_engine, to_engine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.artifacts.engine_file import Sidecar
    from bot_deploy.datasets import Dataset
    from bot_deploy.evaluation.protocol import Scores
    from bot_deploy.images import Pixels


logger = logging.getLogger(__name__)

# Precisions whose ONNX graph is the same for ONNX Runtime and TensorRT.
SHARED_GRAPHS = ("fp32", "fp16")
CALIBRATION_CROPS = 512
FP16_CROPS = 64  # of the calibration crops, those that FP16 is tried on


@dataclass(frozen=True)
class ExportContext:
    """What all files of one export share: the network, and what they are compared with and on."""

    out: Path
    opset: int
    data_name: str
    contract: Contract
    graph: InferenceGraph  # in float32, with batch-norm folded
    reference: Embedder  # the network as it was trained
    crops: Pixels  # to compare on, uint8 [N, H, W, 3]
    calibration: Pixels  # uint8 [N, H, W, 3]
    benchmark: Dataset | None  # to score on
    reference_scores: Scores | None  # of the reference on the benchmark


def prepare_export(
    source: Path,
    out: Path,
    dataset: Dataset,
    *,
    feature: str | None = None,
    flip: bool = False,
    opset: int = OPSET,
    scored: bool = False,
) -> ExportContext:
    """Loads the checkpoint `source` for export to the folder `out`, and the crops of `dataset` to compare on.

    Args:
        source: a checkpoint of `bot train` or `bot import`.
        out: folder; it is made if it is missing.
        dataset: any crops are enough to compare on.
        feature: "after" or "before" BNNeck; by default the one that was trained.
        flip: average the embeddings of a crop and of its mirror image, inside the graph.
        opset: ONNX opset version.
        scored: also score on the query and gallery of `dataset`, if it has them.

    Raises:
        InputError: `source` is not a checkpoint, `dataset` has fewer than two usable crops, unknown feature or opset.
        RunError: the folder cannot be written, or the embeddings of `source` are not usable.
    """
    check_opset(opset)
    if feature is not None and feature_name(feature) not in FEATURES:
        raise InputError(f"unknown feature {feature!r}; choose from {', '.join(FEATURES)}", parameter="feature")
    saved = checkpoints.load(source)
    contract = replace(saved.contract, feature=feature_code(feature or saved.contract.feature), flip=flip)
    if contract.feature != saved.contract.feature:  # another embedding space than the one that was trained
        contract = replace(contract, compatible_with=())
    run = runner(InferenceGraph(saved.build(), contract), "cpu")
    reference = Embedder(contract, "PyTorch", run)
    try:
        reference.check()
    except RunError as error:
        raise RunError(f"{source}: {error}") from None
    benchmark = dataset if scored and dataset.query and dataset.gallery else None
    # Calibration uses no crops that are scored, if there are others.
    train = replace(dataset, query=(), gallery=()) if dataset.train else dataset
    crops, calibration = sample_crops(dataset, contract.size), sample_crops(train, contract.size, CALIBRATION_CROPS)
    with unverified_path(out / "probe") as path:  # fails before the long part if the folder cannot be written
        path.touch()
    return ExportContext(
        out=out,
        opset=opset,
        data_name=dataset.name,
        contract=contract,
        graph=inference_graph(saved, contract),
        reference=reference,
        crops=crops,
        calibration=calibration,
        benchmark=benchmark,
        reference_scores=evaluate_dataset(reference, benchmark) if benchmark else None,
    )


def export_onnx(
    context: ExportContext, precision: str = "fp32", exported: Sequence[ExportedModel] = ()
) -> ExportedModel:
    """Writes model.onnx, model.fp16.onnx or model.int8.onnx and compares it with PyTorch.

    Args:
        context: from `prepare_export`.
        precision: "fp32", "fp16" or "int8".
        exported: earlier models of `context`; their graphs are used again.

    Raises:
        RunError: the folder cannot be written.
    """
    final = context.out / ONNX_NAMES[precision]
    with unverified_path(final) as path:
        float32_layers = _write_onnx(context, precision, path, exported)
        parity = _compare_with_pytorch(context, open_embedder(path, check=False), precision)
        return ExportedModel(
            publish(path, final, parity),
            precision,
            context.data_name,
            parity,
            float32_layers=float32_layers,
        )


def export_engine(
    context: ExportContext,
    precision: str,
    batch: tuple[int, int, int] = ENGINE_BATCH_SIZES,
    gpu_archs: Sequence[str] = (),
    exported: Sequence[ExportedModel] = (),
    *,
    options: EngineOptions = DEFAULT_OPTIONS,
    adopt: Path | None = None,
) -> ExportedModel:
    """Writes model.engine and compares it with PyTorch, if its GPU is here.

    Args:
        context: from `prepare_export`.
        precision: "fp32", "fp16" or "int8".
        batch: batch sizes, as for `to_engine`.
        gpu_archs: GPUs, as for `to_engine`.
        exported: earlier models of `context`; their graphs are used again.
        options: as for `to_engine`.
        adopt: an engine that another program built; it is taken instead of one that is built.

    Raises:
        ParityError: the engine would be built from an ONNX model of `exported` that was rejected.
        RunError: the folder cannot be written, TensorRT is not installed or fails, or the engine fails on its GPU.
    """
    final, rejected = context.out / ENGINE_NAME, rejected_path(context.out / ONNX_NAMES[precision])
    if adopt is not None:
        with unverified_path(final) as path:
            adopt_engine(adopt, replace(context.contract, precision=precision), path)
            adopted = _compare_with_pytorch(context, open_embedder(path, check=False), precision)
            return ExportedModel(publish(path, final, adopted), precision, context.data_name, adopted)
    if precision in SHARED_GRAPHS and rejected in [model.path for model in exported]:
        raise ParityError(f"no {ENGINE_NAME}, because it would be built from {rejected}")
    with source_onnx(context, precision, exported) as (source, float32_layers), unverified_path(final) as path:
        not_run = _reason_not_to_run(to_engine(source, path, batch=batch, gpu_archs=gpu_archs, options=options).sidecar)
        parity = None if not_run else _compare_with_pytorch(context, open_embedder(path, check=False), precision)
        published = publish(path, final, parity)
        return ExportedModel(published, precision, context.data_name, parity, not_run, float32_layers)


def export_litert(context: ExportContext) -> ExportedModel:
    """Writes model.tflite and compares it with PyTorch.

    Raises:
        RunError: the folder cannot be written, litert-torch is not installed, or it cannot convert the network.
    """
    final = context.out / LITERT_NAME
    with unverified_path(final) as path:
        logger.info("writing LiteRT")
        to_litert(context.graph, context.contract, path)
        parity = _compare_with_pytorch(context, open_litert(path, context.contract), "fp32")
        published = publish(path, final, parity)
        return ExportedModel(published, "fp32", context.data_name, parity, files=(sidecar_path(published),))


def _reason_not_to_run(sidecar: Sidecar) -> str:
    """The reason why an engine cannot run on this machine; empty if it can, so that a failure is then an error."""
    try:
        gpu = nvidia.find_gpu()
    except RunError as error:
        return str(error)
    return sidecar.wrong_gpu(gpu)


@contextlib.contextmanager
def source_onnx(
    context: ExportContext, precision: str, exported: Sequence[ExportedModel]
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yields the ONNX model for an engine or for an INT8 graph, and its layers in float32.

    It is one of `exported`, or a temporary file.
    """
    for model in exported:
        if precision in SHARED_GRAPHS and model.path == context.out / ONNX_NAMES[precision]:
            yield model.path, model.float32_layers
            return
    with unverified_path(context.out / f"source.{ONNX_NAMES[precision]}") as path:
        yield path, _write_onnx(context, precision, path, exported, tensorrt=True)


def _write_onnx(
    context: ExportContext, precision: str, path: Path, exported: Sequence[ExportedModel], *, tensorrt: bool = False
) -> tuple[str, ...]:
    """Writes the ONNX model in `precision`; returns its layers that stay in float32."""
    contract = replace(context.contract, precision=precision)
    logger.info(f"writing {precision.upper()}")
    if precision == "fp32":
        to_onnx(context.graph, contract, path, context.opset)
        return ()
    if precision == "fp16":
        graph = copy.deepcopy(context.graph)
        float32_layers = to_fp16(graph, context.calibration[:FP16_CROPS])
        to_onnx(graph, contract, path, context.opset)
        return tuple(float32_layers)
    with source_onnx(context, "fp32", exported) as (source, _):
        return tuple(to_int8(source, path, context.graph, contract, context.calibration, tensorrt=tensorrt))


def _compare_with_pytorch(context: ExportContext, candidate: Embedder, precision: str) -> Parity:
    """The parity of `candidate`, which is not checked, because an unusable one is kept as *.rejected."""
    parity = compare_embeddings(context.reference, candidate, context.crops, TOLERANCES[precision])
    if context.benchmark and context.reference_scores:
        parity = with_scores(parity, context.reference_scores, evaluate_dataset(candidate, context.benchmark))
    return parity
