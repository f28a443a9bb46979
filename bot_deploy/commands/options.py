"""Options that several commands share."""

from __future__ import annotations

import functools
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bot_deploy.addresses import read_address
from bot_deploy.choices import COLORS, DEVICES, FEATURES, MAX_BATCH, MAX_IMAGE_SIDE, MAX_THREADS, OFFLINE_VARIABLE
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable


class NumberRange(click.FloatRange):
    """A finite number in a range. click's own type lets NaN through, as NaN is neither below nor above a limit."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


class ImageSize(click.ParamType):  # type: ignore[type-arg]
    """Height and width in pixels, such as 256x128."""

    name = "HxW"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(value))
        if not match:
            self.fail(f"{value!r} is not HEIGHTxWIDTH, such as 256x128", param, ctx)
        size = int(match[1]), int(match[2])
        if not all(1 <= side <= MAX_IMAGE_SIDE for side in size):
            self.fail(f"{value}: sides are from 1 to {MAX_IMAGE_SIDE} pixels", param, ctx)
        return size


class Device(click.Choice):  # type: ignore[type-arg]
    """One of DEVICES, or cuda:1 for the second GPU."""

    def __init__(self, devices: tuple[str, ...]) -> None:
        super().__init__(devices)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if re.fullmatch(r"cuda:\d{1,2}", str(value)):
            return str(value)
        if value == "tensorrt":
            self.fail(
                "tensorrt is no device: `bot export --trt` builds an engine, and engines run on cuda.", param, ctx
            )
        return str(super().convert(value, param, ctx))


class RenamedOption(click.Option):
    """An option with older names behind its name; they are accepted, but `--help` does not show them."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        names, self.opts = self.opts, self.opts[:1]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = names


class RecipeCommand(click.Command):
    """A command with --set; an unknown option that is the key of a recipe gets a hint."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from bot_deploy.train.recipe import FIELDS, OLD_KEYS

            key = error.option_name.lstrip("-").replace("-", "_")
            if key not in FIELDS and key not in OLD_KEYS:
                raise
            raise click.UsageError(
                f"No such option {error.option_name!r}; keys of the recipe are set by --set {key}=VALUE", ctx
            ) from None


class Address(click.ParamType):  # type: ignore[type-arg]
    """A path or an address, or where it stands: `env:NAME` or `@FILE`, because `ps` shows arguments to everybody."""

    name = "address"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return read_address(str(value))
        except InputError as error:
            self.fail(str(error), param, ctx)


class Box(click.ParamType):  # type: ignore[type-arg]
    """Left, top, width and height in pixels, such as 120,40,60,180."""

    name = "X,Y,W,H"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int, int, int]:
        match = re.fullmatch(r"(-?\d{1,6}),(-?\d{1,6}),(\d{1,6}),(\d{1,6})", str(value))
        if not match or not int(match[3]) or not int(match[4]):
            self.fail(f"{value!r} is not LEFT,TOP,WIDTH,HEIGHT in pixels, such as 120,40,60,180", param, ctx)
        return int(match[1]), int(match[2]), int(match[3]), int(match[4])


class Camera(click.ParamType):  # type: ignore[type-arg]
    """A camera ID of up to five digits, as file names have it, or the name of a camera of videos."""

    name = "camera"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if re.fullmatch(r"[-+]?[0-9]+", text) and not re.fullmatch(r"[0-9]{1,5}", text):
            self.fail(f"{text} is not in the range 0<=x<=99999.", param, ctx)
        return text


def _go_offline(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Sets BOT_OFFLINE=1 for this command and the processes that it starts."""
    del param
    if value:
        before = os.environ.get(OFFLINE_VARIABLE)
        os.environ[OFFLINE_VARIABLE] = "1"

        def restore() -> None:
            if before is None:
                os.environ.pop(OFFLINE_VARIABLE, None)
            else:
                os.environ[OFFLINE_VARIABLE] = before

        ctx.call_on_close(restore)


COUNT = click.IntRange(1, 1_000_000_000)
IMAGE_SIDE = click.IntRange(1, MAX_IMAGE_SIDE)
# The paper's names, fi and ft, are accepted but not shown.
FEATURE = click.Choice([*FEATURES, *FEATURES.values()])
COLOR = click.option(
    "--color", type=click.Choice(COLORS), default="RGB", show_default=True, help="Channel order that the model takes."
)
FEATURE_METAVAR = f"[{'|'.join(FEATURES)}]"
MODEL_DEFAULT = "default: the newest model.onnx under runs/, or else the built-in model, `box`"
MODEL = click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="FILE|NAME",
    help=f"Exported model, or a name of `bot models`; {MODEL_DEFAULT}.",
)
FOOTAGE = click.option(
    "--footage",
    "videos",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="VIDEO",
    help="Video, or folder of videos, instead of an index of them; it is read once. Repeatable.",
)
DETECTOR = click.option(
    "--detector",
    type=click.Path(path_type=Path),
    metavar="F.onnx|NAME",
    help="Network that finds people: a file, or a name of `bot models` such as yolox-nano; `hog` is OpenCV's HOG. "
    "Default: yolox-nano if it is in the cache, or else HOG.",
)
THREADS = click.option(
    "--threads", type=click.IntRange(0, MAX_THREADS), default=0, help="Number of CPU threads; default: all available."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout, instead of text.")
OFFLINE = click.option(
    "--offline",
    is_flag=True,
    expose_value=False,
    callback=_go_offline,
    help="Download nothing: a model must be in the cache already (as with BOT_OFFLINE=1).",
)
DEVICE = click.option(
    "--device",
    type=Device(DEVICES),
    default="auto",
    show_default=True,
    help="Device, or runtime on it, that runs the model; cuda:1 is the second GPU; see docs/deploy.md.",
)
RUNTIME_OPTIONS = (
    OFFLINE,
    DEVICE,
    THREADS,
    click.option(
        "--batch",
        type=click.IntRange(0, MAX_BATCH),
        default=0,
        help="Number of images in a batch; default: the backend's.",
    ),
)


def runtime(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --device, --threads and --batch, which `open_embedder` takes, and --offline."""
    for option in reversed(RUNTIME_OPTIONS):
        command = option(command)
    return command


def model_argument(*, required: bool = False, several: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Adds the argument MODEL, which may be given as --model too: as `model`, or of `several` the tuple `models`."""
    name = "models" if several else "model"
    wanted = {"nargs": -1} if several else {"required": False}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(*, named_model: Any, **options: Any) -> Any:
            if options[name] and named_model:
                raise click.UsageError("give the model as MODEL or as --model, not both")
            options[name] = options[name] or named_model
            if required and not options[name]:
                raise click.UsageError("Missing argument 'MODEL'; --model gives it too.")
            return command(**options)

        option = click.option(
            "--model",
            "named_model",
            type=click.Path(path_type=Path),
            multiple=several,
            metavar="FILE|NAME",
            help=f"The same as MODEL: a file, or a name of `bot models`{'; repeatable' if several else ''}.",
        )
        metavar = ("MODEL" if required else "[MODEL]") + "..." * several
        argument = click.argument(name, metavar=metavar, type=click.Path(path_type=Path), **wanted)
        return argument(option(run))

    return decorate
