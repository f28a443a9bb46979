"""Detectors of people: frames to boxes. To add a detector, write one file here and add one line to `DETECTORS`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy.choices import MAX_BOX_OVERLAP, MIN_PERSON_HEIGHT
from bot_deploy.errors import InputError, require_range
from bot_deploy.files import require_path

from .detections import Detections, Detector, filter_detections
from .hog import open_hog
from .yolox import open_yolox

if TYPE_CHECKING:
    from collections.abc import Callable

    from bot_deploy.images import Pixels

__all__ = ["DETECTORS", "Detections", "Detector", "open_detector"]

DEFAULT_DETECTOR = "hog"
# name of a detector, or suffix of its file -> function of (path, threads, min_confidence) that opens it
DETECTORS: dict[str, Callable[[Path, int, float | None], Detector]] = {
    "hog": open_hog,
    ".onnx": open_yolox,
}


def check_detector(detector: str | Path | None) -> None:
    """Raises InputError when `detector` is neither a name in `DETECTORS` nor the path of a network."""
    path = Path(detector or DEFAULT_DETECTOR)
    if str(path) in DETECTORS:
        return
    if path.suffix.lower() not in DETECTORS:
        known = ", ".join(f"*{name}" if name.startswith(".") else name for name in DETECTORS)
        raise InputError(f"{path}: not a known kind of detector; known: {known}", parameter="detector")
    require_path(path, "detector")


def open_detector(
    detector: str | Path | None = None,
    *,
    threads: int = 0,
    min_confidence: float | None = None,
    max_overlap: float = MAX_BOX_OVERLAP,
    min_height: int = MIN_PERSON_HEIGHT,
    max_height: int | None = None,
) -> Detector:
    """Opens a detector of people.

    Args:
        detector: a name in `DETECTORS`, or the path of a network; default: OpenCV's HOG, which needs no file.
        threads: number of CPU threads; 0 for all available.
        min_confidence: lowest confidence of a detection, 0 to 1; default: the detector's own.
        max_overlap: IoU of two boxes, above which the one with the lower confidence is removed.
        min_height: lowest height of a person, in pixels of the frame.
        max_height: greatest height of a person, in pixels; None for no limit.

    Raises:
        InputError: no such detector or file, another kind of network, or `max_height` below `min_height`.
        RunError: a library that the detector needs is missing.
    """
    require_range("max_overlap", max_overlap, 0, 1)
    if min_confidence is not None:
        require_range("min_confidence", min_confidence, 0, 1)
    if max_height is not None and max_height < min_height:
        raise InputError(f"no person has at least {min_height} and at most {max_height} pixels; swap the heights")
    check_detector(detector)
    path = Path(detector or DEFAULT_DETECTOR)
    opened = (DETECTORS.get(str(path)) or DETECTORS[path.suffix.lower()])(path, threads, min_confidence)

    def detect(pixels: Pixels) -> Detections:
        height, width = pixels.shape[:2]
        detections = opened.detect(pixels)
        return filter_detections(detections, max_overlap, (min_height, max_height or height), (height, width))

    return replace(opened, detect=detect)
