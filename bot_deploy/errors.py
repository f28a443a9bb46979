"""The errors that the library raises. Every message says what is wrong and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


MAX_LINE, LINE_END = 3500, 900  # characters of a line of a message, and of its end; a value from a file can be longer

GPU_HINT = "`bot env` shows what this machine has"  # ends every message about a GPU

# module -> the extra that installs it; the command line adds the hint to a ModuleNotFoundError of such a module
EXTRAS = {
    "av": "demo",
    "cv2": "demo",
    "faiss": "scale",
    "fastapi": "serve",
    "matplotlib": "train",
    "onnx": "export",
    "onnxscript": "export",
    "openvino": "openvino",
    "pooch": "models",
    "pyarrow": "parquet",
    "pymilvus": "scale",
    "safetensors": "train",
    "scipy": "demo",
    "sklearn": "train",
    "tensorboard": "train",
    "supervision": "demo",
    "timm": "timm",
    "torch": "train",
    "torchvision": "train",
    "trackers": "demo",
    "uvicorn": "serve",
}


class BotError(Exception):
    """An error that the user can correct. The command line prints it on one line and exits with `exit_code`.

    Messages name no option of the command line. `parameter` names the option of `bot` to change, with underscores; ""
    for none. The command line adds it: `InputError("give at least one match", parameter="top")` ends with "(--top)".
    The middle of a very long line is left out.
    """

    exit_code = 1

    def __init__(self, message: str, *, parameter: str = "", details: Sequence[str] = ()) -> None:
        self.lines = tuple(map(_shorten, (message, *details)))  # a name in one of them may hold a line break
        super().__init__("\n".join(self.lines))
        self.parameter = parameter


def _shorten(line: str) -> str:
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - LINE_END]} ... {line[-LINE_END:]}"


class InputError(BotError):
    """Wrong usage or bad input: a file, a folder, an argument."""

    exit_code = 2


def require_range(parameter: str, value: float, low: float, high: float) -> None:
    """Raises an InputError unless `value` of `parameter` is from `low` to `high`; NaN is not."""
    if not low <= value <= high:
        raise InputError(f"{value} is not a number from {low:g} to {high:g}", parameter=parameter)


def on_one_line(error: BaseException) -> str:
    """The message of another library's `error` as one line of at most 500 characters."""
    return " ".join(str(error).split())[:500] or type(error).__name__


def last_line(error: BaseException) -> str:
    """The last line of another library's `error`; the first lines of some name places in their source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


class ImageError(InputError):
    """A file that is not a usable image; the message names it."""


class RunError(BotError):
    """An error during the work: a loss that is not finite, a full disk, a backend that is not installed."""


class UnavailableError(RunError):
    """A server that does not answer now, and may later."""


def missing_package(module: str, extra: str = "") -> RunError:
    """The error for a `module` that is not installed; `extra` installs it, by default that of EXTRAS.

    Raise it where something else can be done than end, as another device can be tried. Elsewhere a plain `import` is
    enough: the command line prints the same sentence.
    """
    return RunError(f"{module} is not installed; pip install 'bot-deploy[{extra or EXTRAS[module]}]'")


class ParityError(BotError):
    """A model whose embeddings differ from those of its reference by more than the tolerance.

    `bot_deploy.export.export` does not raise it: see `ExportedModel.rejected`.
    """

    exit_code = 3
