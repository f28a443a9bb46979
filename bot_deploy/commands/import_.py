"""`bot import`."""

from __future__ import annotations

from pathlib import Path

import click

from bot_deploy.choices import IMAGE_HEIGHT, IMAGE_WIDTH, POOLINGS, STEMS, TOOLKITS

from .options import COLOR, FEATURE, FEATURE_METAVAR, IMAGE_SIDE, ImageSize


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
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Checkpoint to write, a .pt file.")
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
    height: int | None,
    width: int | None,
    bgr: bool,
) -> None:
    """Convert the state dict of another toolkit in FILE to a checkpoint for `bot export` and `bot eval`."""
    from bot_deploy.console import say
    from bot_deploy.errors import InputError
    from bot_deploy.files import require_path

    require_path(file, "file")
    if out.suffix != ".pt":
        raise InputError(f"{out}: checkpoints end in .pt")
    if out.exists() and file.exists() and out.samefile(file):
        raise InputError(f"{out}: is the file to import; name another with --out")

    from bot_deploy.artifacts import checkpoint
    from bot_deploy.export.importers.checkpoint import import_checkpoint

    size = (height or size[0], width or size[1])
    imported = import_checkpoint(
        file,
        toolkit,
        size=size,
        color="BGR" if bgr else color,
        last_stride=last_stride,
        stem=stem,
        feature=feature,
        pooling=pooling,
    )
    saved, contract = imported.checkpoint, imported.checkpoint.contract
    neck = f"embedding {contract.feature} BNNeck" if saved.neck == "bnneck" else "no neck"
    pooled = " with GeM" if saved.pooling == "gem" else ""
    say(f"{imported.toolkit}: {contract.arch}{pooled}, {saved.num_ids} identities, {neck}, {contract.dim} numbers")
    assumptions = [*imported.assumptions, f"crops of {size[0]}x{size[1]}"]
    say(f"assumed, because the weights do not show it: {'; '.join(assumptions)}")
    say("change it with --stem, --last-stride, --pooling, --size and --color")
    if imported.unused_keys:
        say(f"left out, because only training needs it: {', '.join(imported.unused_keys)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(saved, out)
    say(f"wrote {out}; score it with `bot eval` before you rely on it")
