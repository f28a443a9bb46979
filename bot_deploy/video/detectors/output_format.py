"""The input and output format of one kind of detector network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from .detections import Floats
    from .network import FramePreprocessing


MIN_TRIAL_CONFIDENCE = 0.1  # of a person on the trial picture; low, because the people on it are drawn


def _accept(outputs: list[Floats]) -> None:
    """The check of a format that needs none."""


@dataclass(frozen=True)
class OutputFormat:
    """How to make the input of a network, and how to read its outputs.

    `read` takes the outputs for one picture and returns boxes [N, 4], as left, top, right, bottom in pixels of the
    network's input, and the confidence [N] that each is a person.
    """

    name: str
    preprocessing: FramePreprocessing
    read: Callable[[list[Floats]], tuple[Floats, Floats]]
    check: Callable[[list[Floats]], None] = _accept  # raises InputError for outputs that cannot be of this format


def corners(boxes: Floats) -> Floats:
    """Boxes [N, 4] as centre x, centre y, width, height to left, top, right, bottom."""
    halves = boxes[:, 2:4] / 2
    return np.hstack([boxes[:, :2] - halves, boxes[:, :2] + halves])


def sigmoid(values: Floats) -> Floats:
    """The logistic function, without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(values / 2)), np.float32)
