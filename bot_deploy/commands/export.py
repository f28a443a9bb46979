"""`bot export`."""

from __future__ import annotations

import re
from pathlib import Path

import click

from bot_deploy.choices import (
    CONSUMERS,
    ENGINE_BATCH_SIZES,
    ENGINE_COMPATIBILITY,
    INPUT_LAYOUTS,
    INPUT_RANGES,
    OPSET,
)

from .model_choice import say_terms
from .options import FEATURE, FEATURE_METAVAR, JSON, RenamedOption

ENGINE_BATCH = ":".join(map(str, ENGINE_BATCH_SIZES))


@click.command("export")
@click.argument("source", metavar="[RUN|CKPT|MODEL|box]", required=False, type=click.Path(path_type=Path))
@click.option("--fp16", is_flag=True, help="Also write model.fp16.onnx.")
@click.option(
    "--int8",
    is_flag=True,
    help="Also write model.int8.onnx. INT8 calibration uses the training crops of --data.",
)
@click.option(
    "--trt",
    is_flag=True,
    help="Also build model.engine for TensorRT, in FP16 unless --fp32 or --int8 is given.",
)
@click.option("--fp32", is_flag=True, help="Build the engine in float32 instead of FP16; needs --trt.")
@click.option(
    "--engine-batch",
    "--batch",
    cls=RenamedOption,
    default=ENGINE_BATCH,
    show_default=True,
    metavar="MIN:OPT:MAX",
    help="Batch sizes of the engine.",
)
@click.option(
    "--gpu-arch",
    metavar="sm89,sm120",
    default="",
    help="Compute capabilities of the engine's GPUs; default: that of this machine, or sm80,sm86,sm89,sm120 without "
    "a GPU.",
)
@click.option(
    "--compatible",
    multiple=True,
    type=click.Choice(ENGINE_COMPATIBILITY),
    help="Build the engine for all GPUs of this compute capability, for all since Ampere, or for newer versions of "
    "TensorRT too; repeatable; default: for this model of GPU and this version.",
)
@click.option(
    "--engine-level",
    type=click.IntRange(0, 5),
    help="Optimisation level of TensorRT's builder: a higher one builds longer.  [default: TensorRT's]",
)
@click.option(
    "--workspace",
    type=click.IntRange(1, 1 << 20),
    metavar="MIB",
    help="GPU memory for scratch space of the engine; default: all.",
)
@click.option(
    "--adopt",
    metavar="ENGINE",
    type=click.Path(path_type=Path),
    help="Take an engine that trtexec built from an exported ONNX file on this machine, and verify it.",
)
@click.option(
    "--flip",
    is_flag=True,
    help="Average the embeddings of a crop and its mirror image, inside the graph; twice the work.",
)
@click.option(
    "--feature",
    type=FEATURE,
    metavar=FEATURE_METAVAR,
    help="Feature after or before BNNeck as the embedding; default: as trained.",
)
@click.option(
    "--opset",
    type=int,
    help=f"ONNX opset version, 11 to 23; default: {OPSET}, or 17 for --for (but {OPSET} for triton).",
)
@click.option(
    "--litert",
    is_flag=True,
    help="Also write model.tflite for LiteRT (TFLite) on phones and small boards; needs the extra litert.",
)
@click.option(
    "--for",
    "consumer",
    type=click.Choice(CONSUMERS),
    help="Program to write model.NAME.onnx for; the source may also be an exported .onnx.",
)
@click.option(
    "--input",
    "layout",
    type=click.Choice(INPUT_LAYOUTS),
    help="Input type and layout of that file (only plain); default: float-nchw.",
)
@click.option(
    "--range",
    "pixel_range",
    type=click.Choice(INPUT_RANGES),
    help="Input range of that file (only plain). imagenet: with ImageNet's mean and deviation; default: imagenet.",
)
@click.option("--batch-static", type=int, metavar="N", help="Fixed number of images of that file; default: any.")
@click.option("--no-unit", is_flag=True, help="Do not scale the vectors of that file to length 1.")
@click.option(
    "--data",
    help="Crops to compare on, also scored if they have query and gallery; default: training crops, not scored.",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Folder for the model files; default: that of the run."
)
@JSON
def export_command(
    source: Path | None,
    fp16: bool,
    int8: bool,
    trt: bool,
    fp32: bool,
    engine_batch: str,
    gpu_arch: str,
    compatible: tuple[str, ...],
    engine_level: int | None,
    workspace: int | None,
    adopt: Path | None,
    flip: bool,
    feature: str | None,
    opset: int | None,
    litert: bool,
    consumer: str | None,
    layout: str | None,
    pixel_range: str | None,
    batch_static: int | None,
    no_unit: bool,
    data: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Export the model of a RUN folder or CKPT file (default: the newest run), or `box`, to ONNX, and verify it.

    The embeddings of each file are compared with PyTorch's. If one differs by more than its precision explains, it is
    kept as *.rejected and the exit code is 3. A file for another program is compared through that program's own
    preprocessing.
    """
    if fp32 and int8:
        raise click.UsageError("--fp32 and --int8 both set the engine's precision")
    about_building = (gpu_arch, compatible, engine_level is not None, workspace, engine_batch != ENGINE_BATCH)
    _check_engine_options(trt=trt, adopt=adopt, about_building=any(about_building), fp32=fp32)
    batch_sizes = _parse_batch(engine_batch)
    engine = None if not trt else "int8" if int8 else "fp32" if fp32 else "fp16"

    from bot_deploy import runs
    from bot_deploy.choices import BACKENDS
    from bot_deploy.console import say, show_json
    from bot_deploy.datasets import check_sources
    from bot_deploy.errors import InputError, ParityError
    from bot_deploy.models.cache import find_model

    # Wrong paths are reported before PyTorch is imported.
    if source:
        source = find_model(source)
        say_terms(source)
    if source and not (source.is_file() or source.is_dir()):
        raise InputError(f"{source}: no such run or checkpoint; `bot train` makes one")
    check_sources([data] if data else [])
    if adopt and not adopt.is_file():
        raise InputError(f"{adopt}: no such engine", parameter="adopt")
    if out and out.suffix.lower() in {*BACKENDS, ".pth"}:
        raise InputError(f"{out}: name a folder for the model files, such as {out.parent}", parameter="out")

    from bot_deploy.export import make_consumer

    program = None
    if consumer or layout or pixel_range or batch_static is not None or no_unit:
        program = make_consumer(
            consumer or "plain",
            layout=layout,
            pixel_range=pixel_range,
            batch=batch_static,
            unit_length=False if no_unit else None,
        )

    from bot_deploy.export import EngineOptions, export

    if source is None:
        source = runs.newest_file("model.pt", "`bot train` makes a run")
        say(f"exporting {source}")
    exported = export(
        source,
        out,
        ("fp32", *(["fp16"] if fp16 else []), *(["int8"] if int8 else [])),
        data,
        engine_precision=engine,
        engine_batch=batch_sizes,
        gpu_archs=[arch.strip() for arch in gpu_arch.split(",") if arch.strip()],
        engine_options=EngineOptions(engine_level, workspace or 0, compatible),
        adopt=adopt,
        feature=feature,
        flip=flip,
        opset=opset,
        litert=litert,
        consumer=program,
    )
    if as_json:
        documents = [model.to_dict() for model in exported]
        document = {
            "model": documents[0]["path"],
            "data": exported[0].data_name,
            "parity": documents[0]["parity"],
            "artifacts": documents,
        }
        show_json(document)
    rejected = [str(model.path) for model in exported if model.rejected]
    if rejected:
        raise ParityError(f"embeddings differ from PyTorch's; kept as {', '.join(rejected)}, which must not be used")


def _check_engine_options(*, trt: bool, adopt: Path | None, about_building: bool, fp32: bool) -> None:
    if not trt and (fp32 or adopt or about_building):
        raise click.UsageError(
            "--fp32, --engine-batch, --gpu-arch, --compatible, --engine-level, --workspace and --adopt are about the "
            "engine; add --trt"
        )
    if adopt and about_building:
        raise click.UsageError("--adopt takes an engine that is built already, so only its precision can be given")


def _parse_batch(text: str) -> tuple[int, int, int]:
    if not re.fullmatch(r"\d+:\d+:\d+", text):
        raise click.BadParameter(f"{text!r} is not MIN:OPT:MAX, such as {ENGINE_BATCH}", param_hint="--engine-batch")
    smallest, optimal, largest = map(int, text.split(":"))
    return smallest, optimal, largest
