"""`bot import`."""

from __future__ import annotations

from pathlib import Path

import click

from bot_deploy.choices import FEATURES, IMAGE_HEIGHT, IMAGE_WIDTH, STEMS, TOOLKITS


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "kind",
    type=click.Choice(("auto", *TOOLKITS)),
    default="auto",
    show_default=True,
    help="The toolkit it comes from.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The checkpoint to write, a .pt file.")
@click.option(
    "--height", type=click.IntRange(min=1), default=IMAGE_HEIGHT, show_default=True, help="Of the images it takes."
)
@click.option(
    "--width", type=click.IntRange(min=1), default=IMAGE_WIDTH, show_default=True, help="Of the images it takes."
)
@click.option("--last-stride", type=click.IntRange(1, 2), help="Of the backbone; the toolkit's default if not given.")
@click.option("--stem", type=click.Choice(STEMS), help="Before a ResNet's stages; the toolkit's own if not given.")
@click.option("--feature", type=click.Choice(FEATURES), help="After or before the neck; after by default.")
@click.option("--bgr", is_flag=True, help="It was trained on BGR images, as OpenCV loads them.")
def import_(
    file: Path,
    kind: str,
    out: Path,
    height: int,
    width: int,
    last_stride: int | None,
    stem: str | None,
    feature: str | None,
    bgr: bool,
) -> None:
    """Turn the state dict in FILE, of another toolkit, into a checkpoint for `bot export` and `bot eval`."""
    from bot_deploy.artifacts import checkpoint
    from bot_deploy.console import say
    from bot_deploy.errors import InputError
    from bot_deploy.export.importers.checkpoint import import_checkpoint

    if out.suffix != ".pt":
        raise InputError(f"{out}: checkpoints end in .pt")
    if out.exists() and file.exists() and out.samefile(file):
        raise InputError(f"{out}: is the file to import; name another with --out")
    done = import_checkpoint(
        file,
        kind,
        height=height,
        width=width,
        last_stride=last_stride,
        stem=stem,
        feature=feature,
        bgr=bgr,
    )
    saved, contract = done.checkpoint, done.checkpoint.contract
    neck = "BNNeck" if saved.neck == "bnneck" else "no neck"
    say(f"{done.layout}: {contract.arch}, {saved.num_ids} identities, {neck}, feature {contract.feature}")
    assumed = [*done.assumed, f"images of {height}x{width} (--height, --width)"]
    say(f"assumed, as weights do not tell: {'; '.join(assumed)}")
    if done.unused:
        say(f"left out, as only training needs it: {', '.join(done.unused)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(out, saved)
    say(f"wrote {out}; score it with `bot eval` before you rely on it")
