"""The `bot` command: it imports a command when it is called, and turns errors into messages at one place."""

from __future__ import annotations

import copy
import functools
import io
import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING

import click

from bot_deploy import console, interrupts
from bot_deploy.errors import EXTRAS, BotError, missing_package, on_one_line
from bot_deploy.escaping import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# command -> (module:function, one line for --help), in the order of the work: make a model, use it, measure it
COMMANDS = {
    "train": ("train:train", "Train a model on identities seen by several cameras."),
    "export": ("export:export_command", "Export a trained model to ONNX and check that it gives the same embeddings."),
    "match": ("match:match", "Find the person of an image in a gallery, or compare two images."),
    "index": ("index:index", "Keep the embeddings of a gallery, for `bot match` to search."),
    "people": ("people:people", "Count the people in recorded video, and show the path of each through the cameras."),
    "forget": ("forget:forget", "Remove a person from a gallery, with all that is kept of them."),
    "embed": ("embed:embed", "Write the embeddings of images to a .npy, .csv or .parquet file."),
    "calibrate": ("calibrate:calibrate", "Find the score threshold for the same person, and store it in the model."),
    "adapt": ("adapt:adapt", "Adapt a model to your cameras, without labels."),
    "demo": ("demo:demo", "Recognise people live, from a webcam, a video or a stream."),
    "serve": ("serve:serve", "Answer over HTTP: embed pictures, find people, enrol and forget them."),
    "eval": ("evaluate:evaluate", "Score a model: rank-1, mAP and mINP on query and gallery."),
    "verify": ("verify:verify", "Compare the embeddings of two models on real crops."),
    "bench": ("bench:bench", "Measure the latency and throughput of models on every backend."),
    "doctor": ("doctor:doctor", "Measure the effect of wrong preprocessing on your crops, and look for signs of it."),
    "env": ("env:env", "Show what this machine has, and on which devices models run."),
    "models": ("models:models", "List the models and detectors that have a name, or fetch them."),
    "wrap": ("wrap:wrap", "Convert a network of another toolkit (ONNX, OpenVINO IR, TorchScript) to a model file."),
    "import": ("import_:import_command", "Convert a checkpoint of another toolkit."),
    "synthetic": ("synthetic:synthetic", "Draw synthetic pedestrians: a data set of crops, or a video clip."),
    "ablate": ("ablate:ablate", "Reproduce a table of the paper: the gain from each training trick."),
}


class LazyGroup(click.Group):
    """A group of commands that imports each command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"bot_deploy.commands.{module}"), function)
        command = copy.copy(command)
        assert command.callback is not None
        command.callback = _as_work(command.callback)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


def _as_work(run: Callable[..., object]) -> Callable[..., object]:
    """Wraps the command `run`: only its results reach stdout, and Ctrl-C closes its files."""

    @functools.wraps(run)
    def work(*arguments: object, **options: object) -> object:
        if _owns_process:
            console.reserve_stdout()
            interrupts.start_work()
        try:
            return run(*arguments, **options)
        except KeyboardInterrupt:
            raise click.Abort from None  # click prints an empty line for the other
        finally:
            interrupts.end_work()

    return work


_owns_process = False  # whether this is the process of `bot`: a test or a program may call `main` in its own


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="bot-deploy", prog_name="bot")
def bot() -> None:
    """Person re-identification: train, export, match."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `bot` and exits: 0 for success, 1 for a failed run, 2 for wrong usage or bad input, 3 when parity failed.

    Without `arguments`, those of the process are used, and the process belongs to `bot`: Ctrl-C at any moment is one
    line and exit code 130, and only results reach stdout.
    """
    global _owns_process  # noqa: PLW0603 - as there is one process
    if arguments is None:
        _owns_process = True
        interrupts.handle_interrupts()
        sys.excepthook = console.say_bug
        warnings.showwarning = console.say_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be valid text
    # Damaged EXIF and the like: the pixels decide whether an image is usable.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    console.show_library_output()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if "" in arguments:
            raise click.UsageError("an argument is empty; is a shell variable not set?")
        sys.exit(bot.main(arguments, standalone_mode=False) or 0)
    except click.exceptions.Exit as exit_request:
        sys.exit(exit_request.exit_code)
    except click.ClickException as error:
        console.say(*_usage_lines(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        console.close_output()
        sys.exit(1)
    except (BotError, ImportError, OSError, click.Abort, KeyboardInterrupt) as error:
        message, exit_code = describe_error(error)
        console.say(*f"bot: {message}".split("\n"))
        sys.exit(exit_code)


def _usage_lines(error: click.ClickException) -> list[str]:
    """What click shows for `error`, as lines; the message may hold any argument of the user."""
    shown = io.StringIO()
    error.show(file=shown)
    text = shown.getvalue().replace(error.message, escape(error.message)) if error.message else shown.getvalue()
    return text.expandtabs().rstrip("\n").split("\n")


def describe_error(error: BaseException) -> tuple[str, int]:
    """Returns the text to print and the exit code for an error that the user can correct; raises any other again."""
    if isinstance(error, BotError):
        option = f" (--{error.parameter.replace('_', '-')})" if error.parameter else ""
        return "\n".join(map(escape, error.lines)) + option, error.exit_code
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, ImportError):
        package = (error.name or "").partition(".")[0]
        if package in EXTRAS and isinstance(error, ModuleNotFoundError):
            return str(missing_package(package)), 1
        if package == "bot_deploy" or isinstance(error, ModuleNotFoundError):
            raise error
        # A system library is missing: libGL for OpenCV, for example.
        build = ", or a build without it (opencv-python-headless)" if "cv2" in f"{error.name} {error.path}" else ""
        return f"{on_one_line(error)}; install that library{build}", 1
    return escape(str(error)), 1  # OSError: a full disk, a folder without permission
