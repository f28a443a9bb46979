"""Exports a model: each file is written, compared with PyTorch, and only then gets its name."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy import runs
from bot_deploy.artifacts import checkpoint as checkpoints
from bot_deploy.artifacts.compact_onnx import NETWORK_KEY
from bot_deploy.artifacts.onnx_file import read_metadata
from bot_deploy.choices import (
    ENGINE_BATCH_SIZES,
    MERGE_SEPARATOR,
    OPSET,
    PRECISIONS,
    SYNTHETIC,
)
from bot_deploy.datasets import Dataset, open_dataset
from bot_deploy.embedder import open_embedder
from bot_deploy.errors import InputError, ParityError
from bot_deploy.models import box
from bot_deploy.models.cache import find_model
from bot_deploy.runs import CHECKPOINT_NAME

from .exported_model import ENGINE_NAME, ExportedModel
from .for_consumer import export_for
from .parity import sample_crops
from .program_files import write_triton_engine
from .steps import export_engine, export_litert, export_onnx, prepare_export, source_onnx
from .to_litert import check_litert
from .to_onnx import check_opset
from .to_tensorrt import DEFAULT_OPTIONS, EngineOptions, check_engine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .consumers import Consumer
    from .steps import ExportContext

logger = logging.getLogger(__name__)


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
    with source_onnx(context, "fp32", exported) as (source, _):
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
