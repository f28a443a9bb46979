"""Networks that Ultralytics exports: YOLOv8 to YOLO26 and RT-DETR. Metadata and the output's shape show which.

They take RGB from 0 to 1. Their scores are probabilities, without objectness:

- [4 + classes, cells]: centre x, centre y, width, height in pixels, then a score for each class (YOLOv8 to YOLO12)
- [boxes, 6 or more]: left, top, right, bottom in pixels, score, class: NMS inside the graph, or none needed (YOLO26)
- [boxes, 4 + classes] of RT-DETR: centre, width and height as shares of the picture, then a score for each class
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.errors import InputError

from .network import FramePreprocessing
from .output_format import OutputFormat, corners
from .yolox import STRIDE_SETS, grid

if TYPE_CHECKING:
    from .detections import Floats
    from .network import DetectorNetwork

COCO_CLASSES, PERSON = 80, 0
BOX_VALUES, END_TO_END_VALUES = 4, 6
TASKS = {"detect", "segment", "pose"}  # all have boxes
MAX_BOXES = 1000  # of a graph with NMS inside


def recognize_outputs(network: DetectorNetwork, outputs: list[Floats]) -> OutputFormat | None:
    """The output format of `network`, by its outputs for one picture; None if it is no network of this kind.

    Raises:
        InputError: a network of Ultralytics that finds no boxes or has no class person.
    """
    output, metadata = outputs[0], network.metadata
    is_theirs = metadata.get("author") == "Ultralytics"
    task = metadata.get("task", "detect") if is_theirs else "detect"
    if task not in TASKS:
        raise InputError(f"{network.path}: a network for the task {task[:40]!r}, which gives no boxes of people")
    if output.ndim != 2 or (not is_theirs and len(outputs) > 1):  # noqa: PLR2004
        return None
    names = _class_names(metadata)
    person = _person(network, names)
    classes = len(names) or COCO_CLASSES
    rows, columns = output.shape
    if columns in _cell_counts(network.size) and rows >= BOX_VALUES + (classes if is_theirs else 1) and rows < columns:
        if not is_theirs:
            classes = rows - BOX_VALUES
        return OutputFormat("YOLO", FramePreprocessing(), lambda outputs: _read_cells(outputs[0], classes, person))
    if rows > MAX_BOXES or rows in _cell_counts(network.size):
        return None
    is_rtdetr = columns != END_TO_END_VALUES or "rtdetr" in metadata.get("description", "").lower()
    if is_theirs and task == "detect" and columns == BOX_VALUES + classes and is_rtdetr:
        size = np.array([network.size[1], network.size[0]] * 2, np.float32)
        stretched = FramePreprocessing(keeps_aspect=False)
        return OutputFormat(
            "RT-DETR",
            stretched,
            lambda outputs: (corners(outputs[0][:, :BOX_VALUES] * size), outputs[0][:, BOX_VALUES + person]),
        )
    if columns == END_TO_END_VALUES or (task != "detect" and columns > END_TO_END_VALUES):
        return OutputFormat("YOLO", FramePreprocessing(), lambda outputs: _read_end_to_end(outputs[0], person))
    return None


def _read_cells(output: Floats, classes: int, person: int) -> tuple[Floats, Floats]:
    cells = output[: BOX_VALUES + classes].T
    return corners(cells[:, :BOX_VALUES]), cells[:, BOX_VALUES + person]


def _read_end_to_end(output: Floats, person: int) -> tuple[Floats, Floats]:
    return output[:, :BOX_VALUES], np.where(output[:, 5].round() == person, output[:, 4], np.float32(0))


def _cell_counts(size: tuple[int, int]) -> set[int]:
    return {len(grid(size, strides)[0]) for strides in STRIDE_SETS}


def _class_names(metadata: dict[str, str]) -> dict[int, str]:
    """The classes by their number; {} where the file names none."""
    try:
        names = ast.literal_eval(metadata.get("names", "{}")[:100_000])
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return {}
    if isinstance(names, list):
        names = dict(enumerate(names))
    return {key: str(name) for key, name in names.items() if isinstance(key, int)} if isinstance(names, dict) else {}


def _person(network: DetectorNetwork, names: dict[int, str]) -> int:
    """The number of the class person; of a single class, whatever it is called."""
    if not names:
        return PERSON
    people = [number for number, name in names.items() if name.lower() in {"person", "people", "pedestrian"}]
    if not people and len(names) > 1:
        shown = ", ".join(list(names.values())[:5])[:100]
        raise InputError(f"{network.path}: has no class person, but {shown} and so on")
    return people[0] if people else PERSON
