"""`bot wrap`."""

from __future__ import annotations

from pathlib import Path

import click

from bot_deploy.choices import PIXEL_RANGES

from .options import COLOR, JSON, ImageSize, RenamedOption


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """One number, or three with commas between them."""

    name = "numbers"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not one number, or three such as 0.485,0.456,0.406", param, ctx)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--size",
    type=ImageSize(),
    help="Height and width of crops, such as 256x128; default: those of the graph (TorchScript has none).",
)
@COLOR
@click.option(
    "--range",
    "pixel_range",
    type=click.Choice(list(PIXEL_RANGES)),
    default="0-255",
    show_default=True,
    help="Range of the pixels before mean and std.",
)
@click.option(
    "--mean", type=Numbers(), default="0", metavar="M|M,M,M", help="Mean, in that range and channel order; default: 0."
)
@click.option(
    "--std", type=Numbers(), default="1", metavar="S|S,S,S", help="Standard deviation, as --mean; default: 1."
)
@click.option(
    "--output-name",
    "--output",
    "output_name",
    cls=RenamedOption,
    metavar="NAME",
    help="Name of the output with the embeddings, if FILE has several; TorchScript's are output_0, output_1, ...",
)
@click.option("--data", default="synthetic", show_default=True, help="Crops to compare on.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="File to write; default: runs/NAME/model.onnx or model.xml."
)
@JSON
def wrap(
    file: Path,
    size: tuple[int, int] | None,
    color: str,
    pixel_range: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    output_name: str | None,
    data: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Convert a ReID network of another toolkit (ONNX, OpenVINO IR or TorchScript) to a model file of bot_deploy.

    The model takes crops as they are and holds its contract, so every command opens it. The exit code is 3 if its
    embeddings differ from those of FILE.
    """
    from bot_deploy import runs
    from bot_deploy.console import say, show_json
    from bot_deploy.datasets import check_sources
    from bot_deploy.files import require_path

    # Wrong paths are reported before PyTorch is imported.
    require_path(file, "model file")
    check_sources([data])

    from bot_deploy.export.wrap import output_suffix, require_parity, wrap_model

    wrapped = wrap_model(
        file,
        out or runs.new_folder(file.stem) / f"model{output_suffix(file)}",
        size=size,
        color=color,
        pixel_range=pixel_range,
        mean=mean,
        std=std,
        data=data,
        output_name=output_name,
    )
    if as_json:
        show_json(wrapped.to_dict())
    require_parity(wrapped)
    say(
        f"wrote {wrapped.path}; score it with `bot eval` before you rely on it: parity does not show a wrong "
        "size, colour or range"
    )
