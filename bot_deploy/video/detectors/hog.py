"""OpenCV's HOG detector: histograms of oriented gradients (Dalal and Triggs, CVPR 2005). It needs no file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bot_deploy import images
from bot_deploy.errors import RunError

from .detections import Detections, Detector

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.images import Pixels

MAX_SIDE_PX = 640  # a frame with a longer side is shrunk to this before the search
MIN_CONFIDENCE = 0.65  # the classifier itself decides at 0.5, but that gives three times as many false detections
WINDOW_STRIDE_PX, PADDING_PX = (8, 8), (32, 32)  # x and y
SCALE_STEP = 1.05  # from one window size to the next
# The box of the person inside a window: left, top, right, bottom as shares of it. The training windows had a margin.
PERSON_IN_WINDOW = np.array([0.15, 0.08, 0.85, 0.92], np.float32)


def open_hog(path: Path, threads: int = 0, min_confidence: float | None = None) -> Detector:
    """OpenCV's detector of people who stand or walk.

    The confidence of a detection is the logistic function of the classifier's margin.

    `path` and `threads` have no effect: the detector needs no file, and OpenCV sets its threads.

    Raises:
        RunError: this OpenCV has no HOG.
    """
    del path, threads
    import cv2

    if not hasattr(cv2, "HOGDescriptor"):
        raise RunError(
            "this OpenCV has no people detector; pip install 'opencv-python<5', or use a network, such as yolox-nano",
            parameter="detector",
        )
    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(np.asarray(cv2.HOGDescriptor.getDefaultPeopleDetector(), np.float32))
    threshold = MIN_CONFIDENCE if min_confidence is None else min_confidence

    def detect(pixels: Pixels) -> Detections:
        height, width = pixels.shape[:2]
        scale = min(1.0, MAX_SIDE_PX / max(height, width))
        small = images.resize(pixels, (max(1, round(scale * height)), max(1, round(scale * width))))
        if small.shape[0] < hog.winSize[1] or small.shape[1] < hog.winSize[0]:
            return Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32))
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        windows_xywh, margins = hog.detectMultiScale(
            grey, winStride=WINDOW_STRIDE_PX, padding=PADDING_PX, scale=SCALE_STEP, groupThreshold=0
        )
        windows = np.asarray(windows_xywh, np.float32).reshape(-1, 4)
        confidence = 1 / (1 + np.exp(-np.asarray(margins, np.float32).reshape(-1)))
        xyxy = (np.tile(windows[:, :2], 2) + np.tile(windows[:, 2:], 2) * PERSON_IN_WINDOW) / np.float32(scale)
        keep = confidence >= threshold
        return Detections(np.asarray(xyxy[keep], np.float32), np.asarray(confidence[keep], np.float32))

    return Detector("OpenCV's HOG", detect)
