"""TorchScript files of other toolkits: run as they are, and written as ONNX with preprocessing and L2 normalisation."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bot_deploy.choices import OPSET
from bot_deploy.errors import InputError, last_line, missing_package

from .wrap import choose_output, find_input_shape
from .wrap_onnx import ForeignOnnx

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.embedder import Vectors

    from .wrap import Preprocessing

logger = logging.getLogger(__name__)

MARK = "constants.pkl"  # in the archive of a TorchScript file, and of no other file of PyTorch
INPUT = "images"


def open_foreign(source: Path, output: str | None) -> ForeignTorchScript:
    """The TorchScript file at `source`. Its code is TorchScript's, which PyTorch interprets; it cannot call Python.

    Raises:
        InputError: not TorchScript, damaged, or no image input.
        RunError: PyTorch or ONNX is not installed.
    """
    try:
        import torch
    except ImportError:
        raise missing_package("torch") from None
    try:
        import onnx  # noqa: F401 - needed at the end, so its absence is told before the work
    except ImportError:
        raise missing_package("onnx") from None
    _check_archive(source)
    try:
        with without_deprecations():
            load: Any = torch.jit.load  # has no types
            script = load(str(source), map_location="cpu").eval()
        inputs = [argument.name for argument in script.forward.schema.arguments[1:] if not argument.has_default_value()]
    except Exception as error:  # noqa: BLE001 - TorchScript's errors have no common base
        raise InputError(f"{source}: not a usable TorchScript file ({last_line(error)})") from None
    logger.info(f"{source.name}: TorchScript of the class {script.original_name}, run by PyTorch {torch.__version__}")
    return ForeignTorchScript(script, inputs, source, output)


class ForeignTorchScript:
    """A TorchScript file, as `wrap.ForeignModel`; it is run with one image at a time."""

    def __init__(self, script: Any, inputs: list[str], source: Path, output: str | None) -> None:
        import torch

        self.script, self.source, self.output = script, source, output
        # TorchScript says neither size nor layout; networks of PyTorch take channels first. A trace may have the number
        # of images in its code, so one image is the only number that is sure.
        self.input_shape = replace(find_input_shape(inputs, [None, 3, None, None], source), batch=1)
        floats = [value.dtype for value in script.parameters() if value.is_floating_point()]
        self.dtype = floats[0] if floats else torch.float32
        self.precision = "fp16" if self.dtype == torch.float16 else "fp32"
        self.weights = [("model", source.read_bytes())]

    def run(self, values: npt.NDArray[np.float32]) -> Vectors:
        """The output for one batch."""
        import torch

        try:
            with torch.inference_mode():
                answer = self.script(torch.from_numpy(values).to(self.dtype))
        except Exception as error:  # noqa: BLE001 - TorchScript's errors have no common base
            height, width = values.shape[2:]
            raise InputError(
                f"{self.source}: cannot run on crops of {height}x{width}; name the size it was trained on "
                f"({last_line(error)})",
                parameter="size",
            ) from None
        outputs = [answer] if isinstance(answer, torch.Tensor) else answer
        if not isinstance(outputs, list | tuple) or not all(isinstance(value, torch.Tensor) for value in outputs):
            raise InputError(f"{self.source}: its output is a {type(answer).__name__}, not a tensor or several")
        names = _output_names(len(outputs))
        return np.asarray(outputs[choose_output(names, self.output, self.source)].float().numpy())

    def write(self, path: Path, preprocessing: Preprocessing, contract: Contract, *, free_batch: bool) -> None:
        """Writes the ONNX file at `path`."""
        with tempfile.TemporaryDirectory() as folder:
            converted = Path(folder) / "converted.onnx"
            self._convert(converted, contract.size, free_batch=free_batch)
            foreign = ForeignOnnx(converted, self.output or _output_names(1)[0])
            foreign.source, foreign.input_shape = self.source, self.input_shape
            foreign.write(path, preprocessing, contract, free_batch=free_batch)

    def _convert(self, path: Path, size: tuple[int, int], *, free_batch: bool) -> None:
        import torch

        example = torch.zeros(1, 3, *size, dtype=self.dtype)
        answer = self.script(example)
        names = _output_names(1 if isinstance(answer, torch.Tensor) else len(answer))
        try:
            with without_deprecations():
                torch.onnx.export(
                    self.script,
                    (example,),
                    str(path),
                    input_names=[INPUT],
                    output_names=names,
                    opset_version=OPSET,
                    dynamo=False,  # the newer exporter takes no TorchScript
                    dynamic_axes={name: {0: "N"} for name in (INPUT, *names)} if free_batch else None,
                )
        except Exception as error:  # noqa: BLE001 - its error classes have no common base but Exception
            raise InputError(f"{self.source}: PyTorch cannot convert it to ONNX ({last_line(error)})") from None


@contextlib.contextmanager
def without_deprecations() -> Iterator[None]:
    """Drops the warnings of PyTorch's own modules for TorchScript and its export, which a user can do nothing about.

    They say that TorchScript and its exporter are deprecated; there is no other way to read such a file. Warnings of
    other modules are kept. One has our module as its origin, so its text is named.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.(jit|onnx)\.")
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX export", DeprecationWarning)
        yield


def _output_names(count: int) -> list[str]:
    """Outputs of TorchScript have no names, so they are numbered."""
    return [f"output_{number}" for number in range(count)]


def _check_archive(source: Path) -> None:
    """Raises an InputError if `source` is not the archive of a TorchScript file."""
    try:
        with zipfile.ZipFile(source) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{source}: not a TorchScript file, or damaged ({last_line(error)})") from None
    if MARK not in names:
        raise InputError(
            f"{source}: holds weights without their network, not TorchScript; `bot import` reads those of some toolkits"
        )
