"""YOLOX (Ge et al., 2021) as its tools/export_onnx.py writes it: [cells, 5 + classes], with or without decoded boxes.

A cell has centre x, centre y, width, height, objectness, and a score for each class.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.errors import InputError

from .network import FramePreprocessing
from .output_format import MIN_TRIAL_CONFIDENCE, OutputFormat, corners

if TYPE_CHECKING:
    from .detections import Floats
    from .network import DetectorNetwork

PERSON_CLASS = 0  # of COCO
BOX_VALUES = 5  # values of a cell before its class scores: x, y, width, height, objectness
COCO_CLASSES = 80
BOX_VALUES_WITHOUT_OBJECTNESS = 4  # of YOLOv8 and its like
STRIDE_SETS = ((8, 16, 32), (8, 16, 32, 64))  # pixels; a network has one of these sets of grids


def recognize_outputs(network: DetectorNetwork, outputs: list[Floats]) -> OutputFormat | None:
    """The output format of `network`, by its outputs for an empty picture; None if it is no network of this kind.

    The network may decode its boxes or not: its output for an empty picture shows which.
    """
    if len(outputs) != 1 or outputs[0].ndim != 2 or outputs[0].shape[1] <= BOX_VALUES:  # noqa: PLR2004
        return None
    grids = (grid(network.size, strides) for strides in STRIDE_SETS)
    cells, strides = next((found for found in grids if len(found[0]) == len(outputs[0])), (None, None))
    if cells is None or strides is None:
        return None
    # Offsets inside a cell are small; decoded centres reach across the picture.
    is_decoded = float(outputs[0][:, :2].max()) > strides.max()

    def read(outputs: list[Floats]) -> tuple[Floats, Floats]:
        output = outputs[0]
        boxes = output if is_decoded else decode(output, cells, strides)
        return corners(boxes), output[:, 4] * output[:, BOX_VALUES + PERSON_CLASS]

    return OutputFormat("YOLOX", FramePreprocessing("BGR", 1.0), read, lambda outputs: _check(network, outputs[0]))


def decode(output: Floats, cells: Floats, strides: Floats) -> Floats:
    """Raw output [N, 4 or more] to centre x, centre y, width and height in pixels of the network's input [N, 4].

    A raw centre is counted in cells from the cell's corner; a raw width or height is a logarithm, in cells.
    """
    centres = (output[:, :2] + cells) * strides[:, None]
    with np.errstate(over="ignore"):  # of cells without anybody
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


def _check(network: DetectorNetwork, output: Floats) -> None:
    """Checks the `output` [cells, 5 + classes] for a picture with people."""
    columns, probabilities = output.shape[1], output[:, 4:]
    if not (np.isfinite(output).all() and probabilities.min() >= 0 and probabilities.max() <= 1):
        raise InputError(
            f"{network.path}: its output has scores that are not between 0 and 1, so it is no YOLOX network; "
            "export the network with YOLOX's tools/export_onnx.py"
        )
    finds_nobody = (output[:, 4] * output[:, BOX_VALUES + PERSON_CLASS]).max() < MIN_TRIAL_CONFIDENCE
    if finds_nobody and columns == BOX_VALUES_WITHOUT_OBJECTNESS + COCO_CLASSES:
        raise InputError(
            f"{network.path}: its output has {columns} columns, without objectness, as YOLOv8's has, and YOLOX's has "
            f"{BOX_VALUES + COCO_CLASSES}; export it as Ultralytics does, with the cells last"
        )
