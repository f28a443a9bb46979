"""People by histograms of oriented gradients (Dalal and Triggs, CVPR 2005), as OpenCV has them: nothing to download."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bot_deploy import images
from bot_deploy.errors import RunError

from .boxes import Boxes, Detector

if TYPE_CHECKING:
    from bot_deploy.images import Pixels

LONGEST = 640  # pixels; a longer side is shrunk to this before the search
MIN_SCORE = 0.65  # the classifier decides at 0.5; there it sees three times as many people in door frames
STRIDE, PADDING, STEP = (8, 8), (32, 32), 1.05  # of the window over the picture, around it, from size to size
# What a person fills of the window, which was trained with a margin: left, top, right, bottom as shares of it.
PERSON = np.array([0.15, 0.08, 0.85, 0.92], np.float32)


def open_hog(min_score: float | None = None) -> Detector:
    """OpenCV's detector of people who stand or walk; scores are the logistic of the classifier's margin."""
    import cv2

    if not hasattr(cv2, "HOGDescriptor"):
        raise RunError("this OpenCV has no people detector; pip install 'opencv-python<5', or name a --detector F.onnx")
    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(np.asarray(cv2.HOGDescriptor.getDefaultPeopleDetector(), np.float32))
    least = MIN_SCORE if min_score is None else min_score

    def detect(pixels: Pixels) -> Boxes:
        height, width = pixels.shape[:2]
        scale = min(1.0, LONGEST / max(height, width))
        small = images.resize(pixels, (max(1, round(scale * height)), max(1, round(scale * width))))
        if small.shape[0] < hog.winSize[1] or small.shape[1] < hog.winSize[0]:
            return Boxes(np.empty((0, 4), np.float32), np.empty(0, np.float32))
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        found, margins = hog.detectMultiScale(grey, winStride=STRIDE, padding=PADDING, scale=STEP, groupThreshold=0)
        windows = np.asarray(found, np.float32).reshape(-1, 4)
        scores = 1 / (1 + np.exp(-np.asarray(margins, np.float32).reshape(-1)))
        corners = (np.tile(windows[:, :2], 2) + np.tile(windows[:, 2:], 2) * PERSON) / np.float32(scale)
        good = scores >= least
        return Boxes(np.asarray(corners[good], np.float32), np.asarray(scores[good], np.float32))

    return Detector("OpenCV's HOG", detect)
