"""YOLOX detector (Ge et al., 2021): a network in an .onnx file, as YOLOX's tools/export_onnx.py writes it."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from bot_deploy import images
from bot_deploy.artifacts import onnx_file
from bot_deploy.backends.onnxruntime import first_line, open_session
from bot_deploy.errors import InputError, RunError
from bot_deploy.machine import thread_count

from .detections import Detections, Detector
from .trial_picture import draw_people

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.images import Pixels

    from .detections import Floats

MIN_CONFIDENCE = 0.2  # low: ByteTrack continues a track with an uncertain box
PERSON_CLASS = 0  # of COCO
BOX_VALUES = 5  # values of a cell before its class scores: x, y, width, height, objectness
COCO_CLASSES = 80
BOX_VALUES_WITHOUT_OBJECTNESS = 4  # of YOLOv8 and its like
MIN_TRIAL_CONFIDENCE = 0.1  # of a person on the trial picture; low, because the people on it are drawn
STRIDE_SETS = ((8, 16, 32), (8, 16, 32, 64))  # pixels; a network has one of these sets of grids
PADDING_GREY = 114  # grey value beside the picture, as in training


def open_yolox(path: Path, threads: int = 0, min_confidence: float | None = None) -> Detector:
    """The network in `path`: float32 BGR [1, 3, H, W] of values 0 to 255 -> [1, cells, 5 + classes].

    The network may decode its boxes or not: a run on an empty picture shows which. Then it has to find somebody on a
    picture with two people, because networks with another layout or other classes can have an output of the same shape.

    Raises:
        InputError: no such file, another kind of network, or one that finds no people.
        RunError: ONNX Runtime is not installed.
    """
    session, size = _open_network(path, thread_count(threads))
    input_name = session.get_inputs()[0].name
    threshold = MIN_CONFIDENCE if min_confidence is None else min_confidence

    def run(canvas: Pixels) -> Floats:
        batch = np.ascontiguousarray(canvas[None, :, :, ::-1].transpose(0, 3, 1, 2), np.float32)
        return np.asarray(session.run(None, {input_name: batch})[0][0], np.float32)

    try:
        empty_output = run(np.full((*size, 3), PADDING_GREY, np.uint8))
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's own errors, or an output of another shape
        raise InputError(f"{path}: cannot run on one picture ({first_line(error)})") from None
    cells, strides = _match_grid(path, size, empty_output)
    # Offsets inside a cell are small; decoded centres reach across the picture.
    is_decoded = float(empty_output[:, :2].max()) > strides.max()

    def run_on(pixels: Pixels) -> tuple[Floats, float]:
        """The network's output for a frame, and the factor from the frame's pixels to the network's."""
        height, width = pixels.shape[:2]
        scale = min(size[0] / height, size[1] / width)
        small = images.resize(pixels, (max(1, round(scale * height)), max(1, round(scale * width))))
        canvas = np.full((*size, 3), PADDING_GREY, np.uint8)
        canvas[: small.shape[0], : small.shape[1]] = small
        return run(canvas), scale

    def detect(pixels: Pixels) -> Detections:
        output, scale = run_on(pixels)
        confidence = output[:, 4] * output[:, BOX_VALUES + PERSON_CLASS]
        keep = confidence >= threshold
        output, confidence = output[keep], confidence[keep]
        if not is_decoded:
            output = decode(output, cells[keep], strides[keep])
        halves = output[:, 2:4] / 2
        xyxy = np.hstack([output[:, :2] - halves, output[:, :2] + halves]) / np.float32(scale)
        return Detections(np.asarray(xyxy, np.float32), confidence)

    _check_finds_people(path, run_on(draw_people())[0])
    return Detector(f"YOLOX {path.name} {size[0]}x{size[1]}", detect)


def decode(output: Floats, cells: Floats, strides: Floats) -> Floats:
    """Raw output [N, 4 or more] to centre x, centre y, width and height in pixels of the network's input [N, 4].

    A raw centre is counted in cells from the cell's corner; a raw width or height is a logarithm, in cells.
    """
    centres = (output[:, :2] + cells) * strides[:, None]
    return np.hstack([centres, np.exp(output[:, 2:4]) * strides[:, None]])


def grid(size: tuple[int, int], strides: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Column and row [N, 2] and stride [N] of every cell, in the order of the network's output."""
    cells = [
        (column, row, stride)
        for stride in strides
        for row, column in product(range(size[0] // stride), range(size[1] // stride))
    ]
    table = np.array(cells, np.float32)
    return table[:, :2], table[:, 2]


def _match_grid(path: Path, size: tuple[int, int], output: Floats) -> tuple[Floats, Floats]:
    """The grid whose number of cells is that of `output`."""
    for strides in STRIDE_SETS:
        cells, cell_strides = grid(size, strides)
        if output.ndim == 2 and output.shape[0] == len(cells) and output.shape[1] > BOX_VALUES:  # noqa: PLR2004
            return cells, cell_strides
    raise InputError(
        f"{path}: its output {' x '.join(map(str, output.shape))} for {size[0]}x{size[1]} pixels is no YOLOX output; "
        "export the network with YOLOX's tools/export_onnx.py"
    )


def _check_finds_people(path: Path, output: Floats) -> None:
    """Checks the `output` [cells, 5 + classes] for a picture with people."""
    columns, probabilities = output.shape[1], output[:, 4:]
    if not (np.isfinite(output).all() and probabilities.min() >= 0 and probabilities.max() <= 1):
        raise InputError(
            f"{path}: its output has scores that are not between 0 and 1, so it is no YOLOX network; "
            "export the network with YOLOX's tools/export_onnx.py"
        )
    if (output[:, 4] * output[:, BOX_VALUES + PERSON_CLASS]).max() >= MIN_TRIAL_CONFIDENCE:
        return
    if columns == BOX_VALUES_WITHOUT_OBJECTNESS + COCO_CLASSES:
        raise InputError(
            f"{path}: its output has {columns} columns, without objectness, as YOLOv8's has, and YOLOX's has "
            f"{BOX_VALUES + COCO_CLASSES}; use a network of YOLOX"
        )
    raise InputError(
        f"{path}: finds nobody on a picture with two people; use a YOLOX network whose class {PERSON_CLASS} is person"
    )


def _open_network(path: Path, threads: int) -> tuple[Any, tuple[int, int]]:
    """The ONNX Runtime session, and the height and width of its input."""
    if not path.is_file():
        raise InputError(f"{path}: no such detector file; without one, OpenCV's HOG is used", parameter="detector")
    onnx_file.read_metadata(path)
    try:
        session = open_session(path, "cuda", threads)
    except RunError:
        session = open_session(path, "cpu", threads)
    inputs = session.get_inputs()
    shape = inputs[0].shape
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(shape) != 4 or shape[1] != 3:  # noqa: PLR2004
        raise InputError(f"{path}: not a YOLOX network: its input is {shape}, not float32 pictures [1, 3, H, W]")
    if not all(isinstance(side, int) for side in shape[2:]):
        raise InputError(f"{path}: its input has no fixed size; export it for one, such as 416x416")
    return session, (shape[2], shape[3])
