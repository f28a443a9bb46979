"""Exports a model: each file is written, compared with PyTorch, and only then gets its name."""

from __future__ import annotations

import contextlib
import copy
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy import runs
from bot_deploy.artifacts import checkpoint as checkpoints
from bot_deploy.artifacts.compact_onnx import NETWORK_KEY
from bot_deploy.artifacts.engine_file import sidecar_path
from bot_deploy.artifacts.onnx_file import read_metadata
from bot_deploy.backends import nvidia
from bot_deploy.backends.torch import runner
from bot_deploy.choices import (
    ENGINE_BATCH_SIZES,
    FEATURES,
    MERGE_SEPARATOR,
    OPSET,
    PRECISIONS,
    SYNTHETIC,
    feature_code,
    feature_name,
)
from bot_deploy.datasets import Dataset, open_dataset
from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.errors import InputError, ParityError, RunError
from bot_deploy.evaluation.protocol import evaluate_dataset
from bot_deploy.model import InferenceGraph
from bot_deploy.models import box
from bot_deploy.models.cache import find_model
from bot_deploy.runs import CHECKPOINT_NAME

from .exported_model import ENGINE_NAME, ONNX_NAMES, ExportedModel, publish, rejected_path, unverified_path
from .for_consumer import export_for
from .fp16 import to_fp16
from .graph import inference_graph
from .int8 import to_int8
from .parity import TOLERANCES, Parity, compare_embeddings, sample_crops, with_scores
from .program_files import write_triton_engine
from .to_litert import LITERT_NAME, check_litert, open_litert, to_litert
from .to_onnx import check_opset, to_onnx
from .to_tensorrt import DEFAULT_OPTIONS, EngineOptions, adopt_engine, check_engine, to_engine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.artifacts.engine_file import Sidecar
    from bot_deploy.evaluation.protocol import Scores
    from bot_deploy.images import Pixels

    from .consumers import Consumer

logger = logging.getLogger(__name__)

# Precisions whose ONNX graph is the same for ONNX Runtime and TensorRT.
SHARED_GRAPHS = ("fp32", "fp16")
CALIBRATION_CROPS = 512
FP16_CROPS = 64  # of the calibration crops, those that FP16 is tried on


def export(
    checkpoint: str | Path,
    out: str | Path | None = None,
    precisions: Sequence[str] = ("fp32",),
    data: Dataset | str | Path | None = None,
    *,
    engine_precision: str | None = None,
    engine_batch: tuple[int, int, int] = ENGINE_BATCH_SIZES,
    gpu_archs: Sequence[str] = (),
    engine_options: EngineOptions = DEFAULT_OPTIONS,
    adopt: str | Path | None = None,
    feature: str | None = None,
    flip: bool = False,
    opset: int | None = None,
    litert: bool = False,
    consumer: Consumer | None = None,
) -> list[ExportedModel]:
    """Exports a checkpoint to ONNX, and to others if asked, and compares every file with PyTorch.

    A file that fails the comparison is kept as *.rejected; check `ExportedModel.rejected`.

    Args:
        checkpoint: a checkpoint, the folder of a run, or "box" for the built-in model. With `consumer` also an .onnx of
            `bot export` or `bot wrap`: then only the file for the program is written, and compared with that .onnx.
        out: folder for the model files; by default that of the checkpoint, or a new one under runs/ for "box".
        precisions: of the ONNX files: "fp32", "fp16", "int8".
        data: data set with crops to compare on, opened or not; query and gallery, if any, are also scored. INT8
            calibration uses its training crops, or all its crops if there are none. By default the crops of the
            training, which are not scored, or synthetic crops if they are not there.
        engine_precision: "fp32", "fp16" or "int8" for a TensorRT engine; None for no engine.
        engine_batch: batch sizes of the engine: smallest, the one to tune for, largest.
        gpu_archs: compute capabilities of the engine's GPUs, such as "sm89"; by default that of this machine, or sm80,
            sm86, sm89 and sm120 without a GPU.
        engine_options: how TensorRT builds the engine.
        adopt: an engine that another program, such as trtexec, built on this machine from an ONNX file of this
            function; it is taken and compared instead of one that is built.
        feature: "after" or "before" BNNeck ("fi" or "ft" in the paper); by default the one that was trained.
        flip: average the embeddings of a crop and of its mirror image, inside the graph.
        opset: ONNX opset version; 11 to 23; by default 18, and 17 in the file for another program (18 for Triton).
        litert: also write a LiteRT file (.tflite) in float32.
        consumer: another program to write a file for, from `make_consumer`.

    Returns:
        The exported models in the order of `precisions`, then the engine, the LiteRT file, and the file for another
        program.

    Raises:
        InputError: no such checkpoint, data set, precision, feature, opset, batch or GPU.
        RunError: the folder cannot be written, or the engine cannot be built.
    """
    _check_request(precisions, engine_precision, opset)
    if engine_precision and adopt is None:  # what cannot be built is refused before any work
        _, gpu_archs = check_engine(engine_batch, gpu_archs, engine_options)
    source = find_model(checkpoint)
    if source.is_dir():
        source = source / CHECKPOINT_NAME
    if consumer and _is_finished(source):
        if tuple(precisions) != PRECISIONS[:1] or engine_precision or litert or feature or flip:
            raise InputError(f"{source}: is exported already; name its checkpoint for other files and features")
        return [_export_finished(source, out, data, consumer, opset)]
    dataset = data if isinstance(data, Dataset) else open_dataset(*((data,) if data else _training_sources(source)))
    if data and not dataset.train and "int8" in {*precisions, engine_precision}:
        logger.warning(
            f"{dataset.name} has no training crops, so INT8 calibration uses its query and gallery: the scores of the "
            "INT8 model on them are optimistic"
        )
    if litert:
        check_litert()
    context = prepare_export(
        source,
        Path(out) if out else runs.new_folder(box.NAME) if source == box.PATH else source.parent,
        dataset,
        feature=feature,
        flip=flip,
        opset=OPSET if opset is None else opset,
        scored=data is not None,
    )
    exported: list[ExportedModel] = []
    for precision in precisions:
        exported.append(export_onnx(context, precision, exported))
        _log(exported[-1])
    if engine_precision:
        try:
            engine = export_engine(
                context,
                engine_precision,
                engine_batch,
                gpu_archs,
                exported,
                options=engine_options,
                adopt=Path(adopt) if adopt else None,
            )
            exported.append(engine)
            _log(exported[-1])
        except ParityError as error:
            logger.warning(str(error))
    return [*exported, *_export_for_others(context, exported, dataset, opset, consumer, litert=litert)]


def _check_request(precisions: Sequence[str], engine_precision: str | None, opset: int | None) -> None:
    wanted = {*precisions, engine_precision or PRECISIONS[0]}
    unknown = sorted(wanted - set(PRECISIONS))
    if unknown:
        raise InputError(f"unknown precision {unknown[0]!r}; choose from {', '.join(PRECISIONS)}")
    if opset is not None:
        check_opset(opset)
    if opset is not None and opset < OPSET and wanted != {PRECISIONS[0]}:
        raise InputError(f"FP16 and INT8 need opset {OPSET} or newer", parameter="opset")


def _is_finished(source: Path) -> bool:
    """Whether `source` is an .onnx that holds no weights of training."""
    return source.suffix == ".onnx" and source.is_file() and NETWORK_KEY not in read_metadata(source)


def _export_finished(
    source: Path, out: str | Path | None, data: Dataset | str | Path | None, consumer: Consumer, opset: int | None
) -> ExportedModel:
    """The file for `consumer` made from the exported or wrapped `source`."""
    dataset = data if isinstance(data, Dataset) else open_dataset(data or SYNTHETIC)
    reference = open_embedder(source, "cpu")
    crops = sample_crops(dataset, reference.contract.size)
    opset = consumer.opset if opset is None else opset
    made = export_for(consumer, source, reference, dataset, crops, Path(out) if out else source.parent, opset)
    _log(made, str(source))
    return made


def _training_sources(source: Path) -> tuple[str, ...]:
    """The data sets that the checkpoint was trained on if all are here, otherwise the built-in one."""
    sources = checkpoints.load(source).data
    if not sources:  # a compact ONNX file does not name its training data
        return (SYNTHETIC,)
    if all(name == SYNTHETIC or Path(name).exists() for name in sources):
        return sources
    logger.info(f"the training data {MERGE_SEPARATOR.join(sources)} is not here; comparing on synthetic crops")
    return (SYNTHETIC,)


def _export_for_others(
    context: ExportContext,
    exported: Sequence[ExportedModel],
    dataset: Dataset,
    opset: int | None,
    consumer: Consumer | None,
    *,
    litert: bool,
) -> Iterator[ExportedModel]:
    """The files for other runtimes and programs."""
    if litert:
        made = export_litert(context)
        _log(made)
        yield made
    if consumer:
        made = _export_for_context(context, consumer, dataset, exported, opset)
        _log(made)
        yield made


def _export_for_context(
    context: ExportContext,
    consumer: Consumer,
    dataset: Dataset,
    exported: Sequence[ExportedModel],
    opset: int | None,
) -> ExportedModel:
    """The file for `consumer` made from the model of `context`."""
    opset = consumer.opset if opset is None else opset
    with _source_onnx(context, "fp32", exported) as (source, _):
        made = export_for(consumer, source, context.reference, dataset, context.crops, context.out, opset)
    engine = exported[-1].path if exported else None
    if consumer.name == "triton" and engine and engine.name == ENGINE_NAME:
        return replace(made, files=(*made.files, *write_triton_engine(engine)))
    return made


def _log(model: ExportedModel, reference: str = "PyTorch") -> None:
    if model.float32_layers:
        logger.info(f"layers too sensitive for {model.precision} stay in float32: {', '.join(model.float32_layers)}")
    if model.parity and model.parity.collapsed:
        logger.warning(
            "the embeddings are collapsed: the mean cosine between different crops is "
            f"{model.parity.mean_similarity:.4f}, so the network cannot tell people apart; train it first"
        )
    if model.parity:
        for line in (f"parity with {reference} on {model.data_name}:", *model.parity.table().splitlines()):
            logger.info(line)
    else:
        logger.info(f"NOT verified, because it cannot run here: {model.not_run}")
    skew = model.resize_skew
    if skew:
        logger.info(
            f"on {skew.crops} crops in their own size, which it resizes without antialiasing: mean cosine "
            f"{skew.mean_cosine:.4f} with ours, least {skew.min_cosine:.4f}"
        )
    if not model.rejected:
        for path in (model.path, *model.files):
            logger.info(f"wrote {path}")


# ---- the steps ----


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
    with _source_onnx(context, precision, exported) as (source, float32_layers), unverified_path(final) as path:
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
def _source_onnx(
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
    with _source_onnx(context, "fp32", exported) as (source, _):
        return tuple(to_int8(source, path, context.graph, contract, context.calibration, tensorrt=tensorrt))


def _compare_with_pytorch(context: ExportContext, candidate: Embedder, precision: str) -> Parity:
    """The parity of `candidate`, which is not checked, because an unusable one is kept as *.rejected."""
    parity = compare_embeddings(context.reference, candidate, context.crops, TOLERANCES[precision])
    if context.benchmark and context.reference_scores:
        parity = with_scores(parity, context.reference_scores, evaluate_dataset(candidate, context.benchmark))
    return parity
