"""`bot export`."""

from __future__ import annotations

import json as jsonlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot_deploy.choices import ENGINE_BATCH_SIZES, FEATURES, OPSET

if TYPE_CHECKING:
    from bot_deploy.export.pipeline import Artifact

BATCH = ":".join(map(str, ENGINE_BATCH_SIZES))


@click.command()
@click.argument("source", metavar="[RUN|CKPT]", required=False, type=click.Path(path_type=Path))
@click.option("--fp16", is_flag=True, help="Also model.fp16.onnx.")
@click.option("--int8", is_flag=True, help="Also model.int8.onnx, calibrated on the crops of --data.")
@click.option("--trt", is_flag=True, help="Also model.engine by TensorRT: FP16, or what --fp32 or --int8 says.")
@click.option("--fp32", is_flag=True, help="The engine in float32.")
@click.option("--batch", default=BATCH, show_default=True, metavar="MIN:OPT:MAX", help="Batches that the engine takes.")
@click.option("--gpu-arch", metavar="sm89,sm120", default="", help="GPUs of the engine; the one here by default.")
@click.option("--flip", is_flag=True, help="Average a crop with its mirror image, inside the graph: twice the work.")
@click.option("--feature", type=click.Choice(FEATURES), help="After or before BNNeck; as trained by default.")
@click.option("--opset", type=int, default=OPSET, show_default=True, help="Of the ONNX files.")
@click.option("--data", help="Crops to verify on, and to score where they have query and gallery.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to; the run's own by default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def export(
    source: Path | None,
    fp16: bool,
    int8: bool,
    trt: bool,
    fp32: bool,
    batch: str,
    gpu_arch: str,
    flip: bool,
    feature: str | None,
    opset: int,
    data: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Export the model of a RUN folder or CKPT file (the newest run by default) to ONNX, and verify it.

    Each artifact's embeddings are compared with PyTorch's. The exit code is 3 when one differs by more than its
    precision explains; it is then kept as *.rejected.
    """
    engine = _engine(batch, gpu_arch, trt=trt, fp32=fp32, int8=int8)  # what cannot be built is refused before work

    from bot_deploy import runs
    from bot_deploy.artifacts import checkpoint
    from bot_deploy.choices import SYNTHETIC
    from bot_deploy.console import say
    from bot_deploy.datasets import MERGE_SEPARATOR, open_merged
    from bot_deploy.errors import ParityError
    from bot_deploy.export.pipeline import export_engine, export_onnx, prepare

    if source is None:
        source = runs.newest_file("model.pt", "`bot train` makes a run")
        say(f"exporting {source}")
    if source.is_dir():
        source = source / "model.pt"
    scored = data is not None
    if data is None:
        data = checkpoint.load(source).data
        if not all(name == SYNTHETIC or Path(name).exists() for name in data.split(MERGE_SEPARATOR)):
            say(f"{data}, which it was trained on, is not here; verifying on synthetic people (--data names others)")
            data = SYNTHETIC
    dataset = open_merged(data.split(MERGE_SEPARATOR))
    context = prepare(source, out or source.parent, dataset, feature=feature, flip=flip, opset=opset, scored=scored)
    done: list[Artifact] = []
    for precision in ("fp32", *(["fp16"] if fp16 else []), *(["int8"] if int8 else [])):
        done.append(export_onnx(context, precision, done))
        _tell(done[-1], data)
    if engine:
        try:
            done.append(export_engine(context, *engine, done))
            _tell(done[-1], data)
        except ParityError as error:
            say(str(error))
    if as_json:
        parity = done[0].to_dict()["parity"]
        artifacts = [artifact.to_dict() for artifact in done]
        click.echo(jsonlib.dumps({"model": str(done[0].path), "data": data, "parity": parity, "artifacts": artifacts}))
    rejected = [str(artifact.path) for artifact in done if artifact.rejected]
    if rejected:
        raise ParityError(f"embeddings differ from PyTorch's; kept as {', '.join(rejected)}, and not to be used")


def _engine(
    batch: str, gpu_arch: str, *, trt: bool, fp32: bool, int8: bool
) -> tuple[str, tuple[int, int, int], tuple[str, ...]] | None:
    """Precision, batches and GPUs of the engine, where one is wanted."""
    from bot_deploy.export.to_tensorrt import check

    if fp32 and int8:
        raise click.UsageError("--fp32 and --int8 both name the engine's precision")
    if not trt:
        if fp32 or gpu_arch or batch != BATCH:
            raise click.UsageError("--fp32, --batch and --gpu-arch are about the engine; add --trt")
        return None
    profile = _profile(batch)
    _, archs = check(profile, [arch.strip() for arch in gpu_arch.split(",") if arch.strip()])
    return "int8" if int8 else "fp32" if fp32 else "fp16", profile, archs


def _profile(text: str) -> tuple[int, int, int]:
    if not re.fullmatch(r"\d+:\d+:\d+", text):
        raise click.BadParameter(f"{text!r} is not MIN:OPT:MAX, such as {BATCH}", param_hint="--batch")
    least, best, most = map(int, text.split(":"))
    return least, best, most


def _tell(artifact: Artifact, data: str) -> None:
    from bot_deploy.console import say

    if artifact.float32:
        say(f"left in float32: {', '.join(artifact.float32)}")
    if artifact.parity:
        say(f"parity with PyTorch on {data}:\n{artifact.parity.table()}")
    else:
        say(f"NOT verified, because it cannot run here: {artifact.not_run}")
    if not artifact.rejected:
        say(f"wrote {artifact.path}")
