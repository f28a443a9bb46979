"""`bot import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bot_deploy.choices import IMAGE_HEIGHT, IMAGE_WIDTH, POOLINGS, STEMS, SYNTHETIC, TOOLKITS

from .options import COLOR, FEATURE, FEATURE_METAVAR, IMAGE_SIDE, ImageSize

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "toolkit",
    type=click.Choice(("auto", *TOOLKITS)),
    default="auto",
    show_default=True,
    help="Toolkit that wrote FILE; auto: recognised by its keys.",
)
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Checkpoint to write, a .pt file; or a model file, .onnx, of a network that only runs here.",
)
@click.option(
    "--size",
    type=ImageSize(),
    default=f"{IMAGE_HEIGHT}x{IMAGE_WIDTH}",
    show_default=True,
    help="Height and width of crops in pixels.",
)
@COLOR
@click.option("--last-stride", type=click.IntRange(1, 2), help="Last stride of the backbone; default: the toolkit's.")
@click.option("--stem", type=click.Choice(STEMS), help="Layers of a ResNet before its stages; default: the toolkit's.")
@click.option(
    "--feature",
    type=FEATURE,
    metavar=FEATURE_METAVAR,
    help="Feature after or before the neck as the embedding; default: after, if there is a neck.",
)
@click.option(
    "--pooling",
    type=click.Choice(POOLINGS),
    help="Mean over the feature map, gem for the generalised mean; default: what weights and toolkit suggest.",
)
@click.option("--data", help="Crops to compare an .onnx with PyTorch on; default: synthetic.")
# Older names of --size and --color.
@click.option("--height", type=IMAGE_SIDE, hidden=True)
@click.option("--width", type=IMAGE_SIDE, hidden=True)
@click.option("--bgr", is_flag=True, hidden=True)
def import_command(
    file: Path,
    toolkit: str,
    out: Path,
    size: tuple[int, int],
    color: str,
    last_stride: int | None,
    stem: str | None,
    feature: str | None,
    pooling: str | None,
    data: str | None,
    height: int | None,
    width: int | None,
    bgr: bool,
) -> None:
    """Convert the state dict of another toolkit in FILE.

    A network that can be trained on becomes a checkpoint, a .pt, for `bot export` and `bot eval`. OSNet, MGN, TransReID
    and CLIP-ReID become a model file, an .onnx, which every command opens.
    """
    from bot_deploy.datasets import check_sources
    from bot_deploy.errors import InputError
    from bot_deploy.files import require_path

    require_path(file, "file")
    if out.suffix not in {".pt", ".onnx"}:
        raise InputError(f"{out}: checkpoints end in .pt, model files in .onnx")
    if out.exists() and file.exists() and out.samefile(file):
        raise InputError(f"{out}: is the file to import; name another with --out")
    size, color = (height or size[0], width or size[1]), "BGR" if bgr else color
    if out.suffix == ".pt":
        if data:
            raise InputError("--data is for model files, which end in .onnx; `bot export` compares a checkpoint")
        _import_checkpoint(
            file,
            out,
            toolkit,
            size=size,
            color=color,
            last_stride=last_stride,
            stem=stem,
            feature=feature,
            pooling=pooling,
        )
        return
    if toolkit != "auto" or last_stride or stem or pooling:
        raise InputError("--from, --last-stride, --stem and --pooling are for checkpoints, which end in .pt")
    check_sources([data or SYNTHETIC])
    _import_for_inference(file, out, size=size, color=color, feature=feature, data=data or SYNTHETIC)


def _import_checkpoint(file: Path, out: Path, toolkit: str, *, size: tuple[int, int], **settings: Any) -> None:
    from bot_deploy.artifacts import checkpoint
    from bot_deploy.console import say
    from bot_deploy.export.importers.checkpoint import import_checkpoint

    imported = import_checkpoint(file, toolkit, size=size, **settings)
    saved, contract = imported.checkpoint, imported.checkpoint.contract
    neck = f"embedding {contract.feature} BNNeck" if saved.neck == "bnneck" else "no neck"
    pooled = " with GeM" if saved.pooling == "gem" else ""
    say(f"{imported.toolkit}: {contract.arch}{pooled}, {saved.num_ids} identities, {neck}, {contract.dim} numbers")
    _say_assumptions(imported.assumptions, size, imported.unused_keys)
    say("change it with --stem, --last-stride, --pooling, --size and --color")
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(saved, out)
    say(f"wrote {out}; score it with `bot eval` before you rely on it")


def _import_for_inference(file: Path, out: Path, *, size: tuple[int, int], **settings: Any) -> None:
    from bot_deploy.console import say
    from bot_deploy.export.importers.inference_only import import_for_inference
    from bot_deploy.export.wrap import require_parity

    imported = import_for_inference(file, out, size=size, **settings)
    neck = f"embedding {imported.feature} the neck" if imported.has_neck else "no neck"
    say(f"{imported.arch}: {neck}, {imported.dim} numbers")
    _say_assumptions(imported.assumptions, size, imported.unused_keys)
    parity = imported.model.parity
    if parity:
        for line in (f"parity with PyTorch on {imported.model.data_name}:", *parity.table().splitlines()):
            say(line)
    require_parity(imported.model)
    say(f"wrote {out}; score it with `bot eval` before you rely on it")


def _say_assumptions(assumptions: Sequence[str], size: tuple[int, int], unused_keys: Sequence[str]) -> None:
    from bot_deploy.artifacts.state_dict import list_keys
    from bot_deploy.console import say

    assumed = [*assumptions, f"crops of {size[0]}x{size[1]}"]
    say(f"assumed, because the weights do not show it: {'; '.join(assumed)}")
    if unused_keys:
        say(f"left out, because only training needs it: {list_keys(unused_keys)}")
