"""Detectors of people: frames to boxes.

To add a network in an .onnx file, write a module with `recognize_outputs` and add one line to `OUTPUT_FORMATS` in
onnx_detector.py. To add a detector without a file, or with another kind of file, add one line to `OPENERS` here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy.choices import MAX_BOX_OVERLAP, MIN_PERSON_HEIGHT
from bot_deploy.errors import InputError, require_range
from bot_deploy.files import require_path
from bot_deploy.models import table
from bot_deploy.models.fetch import fetch, find_cached_file

from .detections import Detections, Detector, filter_detections
from .hog import open_hog
from .onnx_detector import open_onnx_detector

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bot_deploy.images import Pixels

__all__ = ["OPENERS", "Detections", "Detector", "choose_detector", "open_detector"]

FALLBACK_DETECTOR = "hog"  # where the preferred one of the table of models is not in the cache
# name of a detector, or suffix of its file -> function of (path, threads, min_confidence) that opens it
OPENERS: dict[str, Callable[[Path, int, float | None], Detector]] = {
    "hog": open_hog,
    ".onnx": open_onnx_detector,
}


def choose_detector(detector: str | Path | None) -> Path:
    """The name or file of the detector to open: `detector`, or else the default.

    The default is the preferred detector of the table of models if its file is in the cache, and OpenCV's HOG if not.

    Raises:
        InputError: `detector` is neither a name nor the path of a network.
    """
    if detector is None:
        preferred = table.find_named_network(table.PREFERRED_DETECTOR)
        return (preferred and find_cached_file(preferred)) or Path(FALLBACK_DETECTOR)
    path = Path(detector)
    if str(path) in OPENERS or _named_detector(path):
        return path
    if path.suffix.lower() not in OPENERS:
        names = (*OPENERS, *(network.name for network in table.NAMED_DETECTORS))
        known = ", ".join(f"*{name}" if name.startswith(".") else name for name in names)
        raise InputError(f"{path}: not a known kind of detector; known: {known}", parameter="detector")
    require_path(path, "detector")
    return path


def _named_detector(path: Path) -> table.NamedDetector | None:
    """The detector of the table of models with this name, if there is no such file."""
    network = None if path.is_file() else table.find_named_network(str(path))
    return network if isinstance(network, table.NamedDetector) else None


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
        detector: the path of a network; a name in the table of models, such as yolox-nano, which is fetched at its
            first use; or "hog": OpenCV's HOG, which needs no file. Default: see `choose_detector`.
        threads: number of CPU threads; 0 for all available.
        min_confidence: lowest confidence of a detection, 0 to 1; default: the detector's own.
        max_overlap: IoU of two boxes, above which the one with the lower confidence is removed.
        min_height: lowest height of a person, in pixels of the frame.
        max_height: greatest height of a person, in pixels; None for no limit.

    Raises:
        InputError: no such detector or file, another kind of network, or `max_height` below `min_height`.
        RunError: a library that the detector needs is missing, or the network cannot be fetched.
    """
    require_range("max_overlap", max_overlap, 0, 1)
    if min_confidence is not None:
        require_range("min_confidence", min_confidence, 0, 1)
    if max_height is not None and max_height < min_height:
        raise InputError(f"no person has at least {min_height} and at most {max_height} pixels; swap the heights")
    path = choose_detector(detector)
    named = _named_detector(path)
    path = fetch(named) if named else path
    opened = (OPENERS.get(str(path)) or OPENERS[path.suffix.lower()])(path, threads, min_confidence)

    def keep(detections: Detections, pixels: Pixels) -> Detections:
        height, width = pixels.shape[:2]
        return filter_detections(detections, max_overlap, (min_height, max_height or height), (height, width))

    def detect(pixels: Pixels) -> Detections:
        return keep(opened.detect(pixels), pixels)

    def detect_batch(frames: Sequence[Pixels]) -> list[Detections]:
        return [keep(*found) for found in zip(opened.detect_all(frames), frames, strict=True)]

    return replace(opened, detect=detect, detect_batch=detect_batch if opened.detect_batch else None)
