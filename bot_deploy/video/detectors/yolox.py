"""People by a YOLOX network (Ge et al., 2021) in an .onnx file, as its authors export it."""

from __future__ import annotations

from itertools import product
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from bot_deploy import images
from bot_deploy.artifacts import onnx_file
from bot_deploy.backends.onnxruntime import open_session
from bot_deploy.errors import InputError, RunError
from bot_deploy.machine import available_cores

from .boxes import Boxes, Detector

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels

MIN_SCORE = 0.2  # a faint box still tells the tracker where somebody went
PERSON = 0  # the class of people in COCO
BOX = 5  # numbers before the classes': x, y, width, height, objectness
STRIDES = ((8, 16, 32), (8, 16, 32, 64))
GREY = 114  # around the picture, as in training


def open_yolox(path: Path, threads: int = 0, min_score: float | None = None) -> Detector:
    """The network in `path`: BGR 0-255 float32 [1, 3, H, W] to [1, cells, 5 + classes], decoded or not.

    Raises:
        InputError: no such file, or another kind of network.
        RunError: ONNX Runtime is not installed.
    """
    session, size = _session(path, threads or available_cores())
    source = session.get_inputs()[0].name
    least = MIN_SCORE if min_score is None else min_score

    def run(canvas: Pixels) -> Vectors:
        batch = np.ascontiguousarray(canvas[None, :, :, ::-1].transpose(0, 3, 1, 2), np.float32)
        return np.asarray(session.run(None, {source: batch})[0][0], np.float32)

    try:
        empty = run(np.full((*size, 3), GREY, np.uint8))
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's, or an output of another shape
        raise InputError(f"{path}: cannot run on one picture ({str(error).splitlines()[0][:200]})") from None
    cells, strides = _cells(path, size, empty)
    decoded = (
        float(empty[:, :2].max()) > strides.max()
    )  # offsets inside a cell stay small, places in the picture do not

    def detect(pixels: Pixels) -> Boxes:
        height, width = pixels.shape[:2]
        scale = min(size[0] / height, size[1] / width)
        small = images.resize(pixels, (max(1, round(scale * height)), max(1, round(scale * width))))
        canvas = np.full((*size, 3), GREY, np.uint8)
        canvas[: small.shape[0], : small.shape[1]] = small
        output = run(canvas)
        scores = output[:, 4] * output[:, BOX + PERSON]
        good = scores >= least
        output, scores = output[good], scores[good]
        if not decoded:
            output = decode(output, cells[good], strides[good])
        halves = output[:, 2:4] / 2
        corners = np.hstack([output[:, :2] - halves, output[:, :2] + halves]) / np.float32(scale)
        return Boxes(np.asarray(corners, np.float32), scores)

    return Detector(f"YOLOX {PurePath(path).name} {size[0]}x{size[1]}", detect)


def decode(output: Vectors, cells: Vectors, strides: Vectors) -> Vectors:
    """Raw output [N, 4 or more] to centre, width and height in pixels of the input [N, 4].

    A cell's numbers are its box's centre, counted in cells from its corner, and the logarithms of its sides in cells.
    """
    centres = (output[:, :2] + cells) * strides[:, None]
    return np.hstack([centres, np.exp(output[:, 2:4]) * strides[:, None]])


def grid(size: tuple[int, int], strides: tuple[int, ...]) -> tuple[Vectors, Vectors]:
    """Column and row of every cell [N, 2], and its stride [N], in the order in which the network has them."""
    cells = [
        (column, row, stride)
        for stride in strides
        for row, column in product(range(size[0] // stride), range(size[1] // stride))
    ]
    table = np.array(cells, np.float32)
    return table[:, :2], table[:, 2]


def _cells(path: Path, size: tuple[int, int], output: Vectors) -> tuple[Vectors, Vectors]:
    for strides in STRIDES:
        cells, widths = grid(size, strides)
        if output.ndim == 2 and output.shape[0] == len(cells) and output.shape[1] > BOX:  # noqa: PLR2004
            return cells, widths
    raise InputError(
        f"{path}: gives {' x '.join(map(str, output.shape))} numbers for {size[0]}x{size[1]} pixels, which is no "
        "YOLOX output; export one with YOLOX's tools/export_onnx.py"
    )


def _session(path: Path, threads: int) -> tuple[Any, tuple[int, int]]:
    """The network, and its input's height and width."""
    if not path.is_file():
        raise InputError(f"{path}: no such detector file; leave out --detector for OpenCV's own")
    onnx_file.metadata(path)
    try:
        session = open_session(path, "cuda", threads)
    except RunError:
        session = open_session(path, "cpu", threads)
    inputs = session.get_inputs()
    shape = inputs[0].shape
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(shape) != 4 or shape[1] != 3:  # noqa: PLR2004
        raise InputError(f"{path}: no detector of ours: it takes {shape}, not float32 pictures [1, 3, H, W]")
    if not all(isinstance(side, int) for side in shape[2:]):
        raise InputError(f"{path}: its input has no fixed size; export it for one, such as 416x416")
    return session, (shape[2], shape[3])
