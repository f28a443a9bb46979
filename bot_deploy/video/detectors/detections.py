"""Detections of people on a frame, and the filter that every detector shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bot_deploy.images import Pixels

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Detections:
    """The people that a detector finds on one frame."""

    xyxy: Floats  # [N, 4]: left, top, right, bottom in pixels of the frame
    confidence: Floats  # [N], between 0 and 1


@dataclass(frozen=True)
class Detector:
    """A detector of people; `detect` takes a frame, uint8 RGB [H, W, 3]."""

    name: str  # for messages, with model and input size
    detect: Callable[[Pixels], Detections]
    detect_batch: Callable[[Sequence[Pixels]], list[Detections]] | None = None  # None: it takes one frame at a time

    def detect_all(self, frames: Sequence[Pixels]) -> list[Detections]:
        """The people on each of `frames`, in one batch where the detector takes several."""
        if self.detect_batch is None or len(frames) <= 1:
            return [self.detect(pixels) for pixels in frames]
        return self.detect_batch(frames)


def filter_detections(
    detections: Detections, max_overlap: float, heights: tuple[int, int], frame_size: tuple[int, int]
) -> Detections:
    """Clips boxes to the frame, removes wrong sizes and overlaps, and sorts by confidence, highest first.

    Args:
        detections: of one frame.
        max_overlap: IoU of two boxes, above which the one with the lower confidence is removed.
        heights: lowest and highest height of a box, in pixels.
        frame_size: height and width of the frame, in pixels.
    """
    import cv2

    xyxy = detections.xyxy.clip(0, np.array([frame_size[1], frame_size[0]] * 2, np.float32))
    sides = xyxy[:, 2:] - xyxy[:, :2]
    keep = (sides[:, 0] >= 1) & (sides[:, 1] >= heights[0]) & (sides[:, 1] <= heights[1])
    xyxy, sides, confidence = xyxy[keep], sides[keep], detections.confidence[keep]
    boxes_xywh = np.hstack([xyxy[:, :2], sides])
    # The detector has applied its own threshold, so this one is 0.
    kept_rows = cv2.dnn.NMSBoxes(boxes_xywh.tolist(), confidence.tolist(), 0.0, max_overlap)
    order = np.asarray(kept_rows, np.int64).reshape(-1)
    return Detections(xyxy[order], confidence[order])
