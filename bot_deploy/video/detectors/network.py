"""A detector's network in an .onnx file: opening it, and its input from a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bot_deploy import images
from bot_deploy.artifacts import onnx_file
from bot_deploy.backends.onnxruntime import open_session
from bot_deploy.errors import InputError, RunError, on_one_line
from bot_deploy.files import require_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot_deploy.images import Pixels

    from .detections import Floats

PADDING_GREY = 114  # grey value beside the picture, as in the training of YOLO networks
DEFAULT_SIDE = 640  # pixels, of a DETR without a fixed size
INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
IMAGE_DIMS = 4


@dataclass(frozen=True)
class FramePreprocessing:
    """How a frame becomes the input: (pixel / divisor - mean) / std, in the channel order `color`."""

    color: str = "RGB"
    divisor: float = 255.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    keeps_aspect: bool = True  # scaled to fit, grey beside it; or else stretched


@dataclass(frozen=True)
class DetectorNetwork:
    """An opened network with one batch of images as its first input."""

    path: Path
    session: Any
    size: tuple[int, int]  # height and width of the input
    metadata: dict[str, str]
    output_names: tuple[str, ...]

    @property
    def has_free_batch(self) -> bool:
        """Whether it was exported for any number of images at once."""
        return not isinstance(self.session.get_inputs()[0].shape[0], int) and len(self.session.get_inputs()) == 1

    def run(self, pixels: Pixels, preprocessing: FramePreprocessing) -> tuple[list[Floats], npt.NDArray[np.float32]]:
        """The outputs for a frame uint8 RGB [H, W, 3], without their batch dimension.

        Also returns how many pixels of the network's input one pixel of the frame is, in x and y.

        Raises:
            InputError: the network cannot run on one picture, or an output has no batch of one.
        """
        return self.run_batch([pixels], preprocessing)[0]

    def run_batch(
        self, frames: Sequence[Pixels], preprocessing: FramePreprocessing
    ) -> list[tuple[list[Floats], npt.NDArray[np.float32]]]:
        """What `run` returns, for each of `frames`; more than one only if the network `has_free_batch`."""
        fitted = [_fit(pixels, self.size, preprocessing.keeps_aspect) for pixels in frames]
        std = np.array(preprocessing.std, np.float32)
        inputs = self.session.get_inputs()
        batch = np.empty((len(frames), 3, *self.size), INPUT_TYPES[inputs[0].type])
        for place, (canvas, _) in enumerate(fitted):
            ordered = canvas[..., ::-1] if preprocessing.color == "BGR" else canvas
            values = ordered * (1 / (preprocessing.divisor * std)) - np.array(preprocessing.mean, np.float32) / std
            batch[place] = values.transpose(2, 0, 1)
        feed = {inputs[0].name: batch}
        if len(inputs) > 1:  # RT-DETR as its authors export it: it gives boxes in pixels of this size
            feed[inputs[1].name] = np.array([[self.size[1], self.size[0]]], np.int64)
        try:
            outputs = self.session.run(None, feed)
            return [
                ([np.asarray(output[place], np.float32) for output in outputs], scale)
                for place, (_, scale) in enumerate(fitted)
            ]
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's own errors, or an output of another shape
            count = "one picture" if len(frames) == 1 else f"{len(frames)} pictures"
            raise InputError(f"{self.path}: cannot run on {count} ({on_one_line(error)[:200]})") from None


def open_network(path: Path, threads: int) -> DetectorNetwork:
    """The network in `path`, on a GPU where that works.

    Raises:
        InputError: no such file, or no network that takes one batch of images.
        RunError: ONNX Runtime is not installed.
    """
    require_path(path, "detector")
    metadata = onnx_file.read_metadata(path)
    try:
        session = open_session(path, "cuda", threads)
    except RunError:
        session = open_session(path, "cpu", threads)
    inputs = session.get_inputs()
    shape = inputs[0].shape
    takes_images = len(shape) == IMAGE_DIMS and (shape[1] == 3 or isinstance(shape[1], str))  # noqa: PLR2004
    takes_size = len(inputs) == 1 or (len(inputs) == 2 and inputs[1].type == "tensor(int64)")  # noqa: PLR2004
    if not takes_images or not takes_size or inputs[0].type not in INPUT_TYPES:
        raise InputError(f"{path}: no detector that can be used: its input is {shape}, not float pictures [1, 3, H, W]")
    names = tuple(output.name for output in session.get_outputs())
    return DetectorNetwork(path, session, _input_size(path, shape, metadata, len(names)), metadata, names)


def _input_size(path: Path, shape: list[Any], metadata: dict[str, str], outputs: int) -> tuple[int, int]:
    """Height and width: of the graph, of Ultralytics' metadata, or the usual size of a DETR with several outputs."""
    sides = shape[2:]
    if not all(isinstance(side, int) and side > 0 for side in sides):
        sides = [int(side) for side in metadata.get("imgsz", "").strip("[]").split(",") if side.strip().isdecimal()]
        if not sides and outputs > 1:
            sides = [DEFAULT_SIDE, DEFAULT_SIDE]
    if len(sides) != 2 or not all(32 <= side <= 4096 for side in sides):  # noqa: PLR2004
        raise InputError(f"{path}: its input has no fixed size; export it for one, such as 416x416")
    return sides[0], sides[1]


def _fit(pixels: Pixels, size: tuple[int, int], keeps_aspect: bool) -> tuple[Pixels, npt.NDArray[np.float32]]:
    """`pixels` in the input's size, and the input's pixels per pixel of the frame: x, y."""
    height, width = pixels.shape[:2]
    if not keeps_aspect:
        return images.resize(pixels, size), np.array([size[1] / width, size[0] / height], np.float32)
    scale = min(size[0] / height, size[1] / width)
    small = images.resize(pixels, (max(1, round(scale * height)), max(1, round(scale * width))))
    canvas = np.full((*size, 3), PADDING_GREY, np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    return canvas, np.array([scale, scale], np.float32)
