"""Detectors of people: frames to boxes. To add a detector, write one file here and add one line to `DETECTORS`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy.choices import MAX_BOX_OVERLAP, MIN_PERSON_HEIGHT
from bot_deploy.errors import InputError, require_range
from bot_deploy.files import require_path
from bot_deploy.models import table
from bot_deploy.models.fetch import fetch, find_cached

from .detections import Detections, Detector, filter_detections
from .hog import open_hog
from .onnx_detector import open_onnx_detector

if TYPE_CHECKING:
    from collections.abc import Callable

    from bot_deploy.images import Pixels

__all__ = ["DETECTORS", "Detections", "Detector", "open_detector"]

DEFAULT_DETECTOR = "hog"
# name of a detector, or suffix of its file -> function of (path, threads, min_confidence) that opens it
DETECTORS: dict[str, Callable[[Path, int, float | None], Detector]] = {
    "hog": open_hog,
    ".onnx": open_onnx_detector,
}


def check_detector(detector: str | Path | None) -> None:
    """Raises InputError when `detector` is neither a name nor the path of a network."""
    path = Path(detector or DEFAULT_DETECTOR)
    if str(path) in DETECTORS or _named(path):
        return
    if path.suffix.lower() not in DETECTORS:
        names = (*DETECTORS, *(network.name for network in table.DETECTORS))
        known = ", ".join(f"*{name}" if name.startswith(".") else name for name in names)
        raise InputError(f"{path}: not a known kind of detector; known: {known}", parameter="detector")
    require_path(path, "detector")


def default_detector() -> Path | None:
    """The default network of the table of models, if its file is in the cache; None if it is not."""
    network = table.find_network(table.DEFAULT_DETECTOR)
    return find_cached(network) if network else None


def _named(path: Path) -> table.NamedDetector | None:
    """The network of the table with this name, if there is no such file."""
    network = None if path.is_file() else table.find_network(str(path))
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
            first use; or "hog", the default: OpenCV's HOG, which needs no file.
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
    check_detector(detector)
    path = Path(detector or DEFAULT_DETECTOR)
    named = _named(path)
    path = fetch(named) if named else path
    opened = (DETECTORS.get(str(path)) or DETECTORS[path.suffix.lower()])(path, threads, min_confidence)

    def detect(pixels: Pixels) -> Detections:
        height, width = pixels.shape[:2]
        detections = opened.detect(pixels)
        return filter_detections(detections, max_overlap, (min_height, max_height or height), (height, width))

    return replace(opened, detect=detect)
