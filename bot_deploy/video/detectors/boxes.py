"""Boxes of people on a frame, and which of them to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels


@dataclass(frozen=True, eq=False)
class Boxes:
    """People on one frame."""

    corners: Vectors  # [N, 4]: left, top, right, bottom in pixels of the frame
    scores: Vectors  # [N], between 0 and 1


@dataclass(frozen=True)
class Detector:
    """`detect` finds the people on a frame, uint8 RGB [H, W, 3]."""

    name: str  # what it is, in words
    detect: Callable[[Pixels], Boxes]


def kept(boxes: Boxes, max_overlap: float, heights: tuple[int, int], frame: tuple[int, int]) -> Boxes:
    """`boxes` cut at the edges of a frame of (height, width), the most certain first.

    Those whose height in pixels is not within `heights` are left out, and of those that overlap by more than
    `max_overlap` (IoU) all but the most certain.
    """
    import cv2

    corners = boxes.corners.clip(0, np.array([frame[1], frame[0]] * 2, np.float32))
    sides = corners[:, 2:] - corners[:, :2]
    good = (sides[:, 0] >= 1) & (sides[:, 1] >= heights[0]) & (sides[:, 1] <= heights[1])
    corners, sides, scores = corners[good], sides[good], boxes.scores[good]
    # [M, 4] as left, top, width, height; the scores were compared before.
    best = cv2.dnn.NMSBoxes(np.hstack([corners[:, :2], sides]).tolist(), scores.tolist(), 0.0, max_overlap)
    order = np.asarray(best, np.int64).reshape(-1)
    return Boxes(corners[order], scores[order])
