"""The `bot` command: verbs are loaded when used, and errors become messages here, once."""

from __future__ import annotations

import io
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import click

from bot_deploy import console
from bot_deploy.errors import BotError

if TYPE_CHECKING:
    from collections.abc import Sequence

# verb -> (module:function, one line for --help)
VERBS = {
    "train": ("train:train", "Train a model on identities seen by several cameras."),
    "ablate": ("ablate:ablate", "Run a table of the paper: what each trick brings."),
    "bench": ("bench:bench", "Time a model: latency and throughput on every backend, side by side."),
    "doctor": ("doctor:doctor", "Measure what wrong preprocessing would do to your crops, and look for signs of it."),
    "eval": ("evaluate:evaluate", "Score a model: rank-1, mAP and mINP on query and gallery."),
    "export": ("export:export", "Export a trained model to ONNX and prove that it gives the same embeddings."),
    "index": ("index:index", "Keep the embeddings of a gallery, for `bot match` to search."),
    "import": ("importer:import_", "Turn a checkpoint of another toolkit into one of ours."),
    "verify": ("verify:verify", "Compare two models on real crops: do they give the same embeddings?"),
    "calibrate": ("calibrate:calibrate", "Find the score from which a match is the same person, and store it."),
    "match": ("match:match", "Find the person on a picture in a gallery."),
    "demo": ("demo:demo", "Recognise people live: a webcam, a video, a stream."),
    "synthetic": ("synthetic:synthetic", "Write the built-in synthetic pedestrians to a folder."),
}

# module -> the extra that installs it
EXTRAS = {
    "cv2": "demo",
    "faiss": "scale",
    "matplotlib": "train",
    "onnx": "export",
    "onnxscript": "export",
    "pymilvus": "scale",
    "safetensors": "train",
    "tensorboard": "train",
    "supervision": "demo",
    "torch": "train",
    "torchvision": "train",
    "trackers": "demo",
}


class Verbs(click.Group):
    """The verbs, each imported only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in VERBS:
            return None
        module, _, function = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"bot_deploy.commands.{module}"), function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(verb, summary) for verb, (_, summary) in VERBS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="bot-deploy", prog_name="bot")
def bot() -> None:
    """Person re-identification: train, export, match."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `bot`; exits 0 when done, 1 for a failed run, 2 for wrong usage or bad input, 3 when parity failed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name need not be text
    console.show_library_output()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if "" in words:
            raise click.UsageError("an argument is empty; is a variable not set?")
        sys.exit(bot.main(words, standalone_mode=False) or 0)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone, and so is its interest in ours
        sys.exit(1)
    except (BotError, ImportError, OSError, click.Abort, KeyboardInterrupt) as error:
        message, code = explained(error)
        click.echo(f"bot: {message}", err=True)
        sys.exit(code)


def explained(error: BaseException) -> tuple[str, int]:
    """The line and the exit code for an error that is not a defect of ours."""
    if isinstance(error, BotError):
        option = f" (--{error.parameter.replace('_', '-')})" if error.parameter else ""
        return f"{error}{option}", error.exit_code
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, ImportError):
        package = (error.name or "").partition(".")[0]
        if package in EXTRAS and isinstance(error, ModuleNotFoundError):
            return f"{package} is not installed; pip install 'bot-deploy[{EXTRAS[package]}]'", 1
        if package == "bot_deploy" or isinstance(error, ModuleNotFoundError):
            raise error
        build = ", or a build without it (opencv-python-headless)" if "cv2" in f"{error.name} {error.path}" else ""
        return f"{error}; install that library{build}", 1  # OpenCV without the system's libGL, for one
    return str(error), 1  # a full disk, a folder that may not be read
