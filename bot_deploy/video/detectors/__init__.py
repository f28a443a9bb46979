"""Frames to boxes of people: OpenCV's HOG, which needs no file, or a network in an .onnx file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bot_deploy.choices import MAX_BOX_OVERLAP, MIN_PERSON_HEIGHT
from bot_deploy.errors import InputError

from .boxes import Boxes, Detector, kept
from .hog import open_hog
from .yolox import open_yolox

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.images import Pixels

__all__ = ["Boxes", "Detector", "open_detector"]


def open_detector(
    path: Path | None = None,
    *,
    threads: int = 0,
    min_score: float | None = None,
    max_overlap: float = MAX_BOX_OVERLAP,
    min_height: int = MIN_PERSON_HEIGHT,
    max_height: int | None = None,
) -> Detector:
    """A detector of people: the YOLOX-style network in the .onnx file `path`, or HOG without one.

    Args:
        path: of the network; its input size and strides are read from the file.
        threads: of the CPU; 0 for as many as this process may use.
        min_score: between 0 and 1, of the boxes that are kept; None for the detector's own.
        max_overlap: IoU from which the less certain of two boxes is dropped.
        min_height: of a person, in pixels of the frame.
        max_height: of a person, in pixels; None for any.

    Raises:
        InputError: `path` is no such network, or no height is between these.
    """
    if max_height is not None and max_height < min_height:
        raise InputError(f"people of at least {min_height} and at most {max_height} pixels cannot be; swap the heights")
    found = open_yolox(path, threads, min_score) if path else open_hog(min_score)

    def detect(pixels: Pixels) -> Boxes:
        height, width = pixels.shape[:2]
        return kept(found.detect(pixels), max_overlap, (min_height, max_height or height), (height, width))

    return replace(found, detect=detect)
