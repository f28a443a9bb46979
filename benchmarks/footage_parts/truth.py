"""Who is where on synthetic footage."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

MIN_IOU = 0.4  # of a box with one of the truth, for the same person
MIN_VISIBLE = 0.5  # share of a person that is in view and not hidden, to count as in view
MIN_HEIGHT = 40  # pixels; smaller people are not looked for
MIN_VISIT_S, MAX_GAP_S = 1.0, 2.0  # shortest visit, and the longest gap inside one


@dataclass(frozen=True)
class Visit:
    """One person in view of one camera, by the truth."""

    identity: str
    camera: str
    start: float
    end: float


@dataclass(frozen=True)
class Truth:
    """Boxes and visits of a clip."""

    boxes: dict[tuple[str, int], list[tuple[str, tuple[float, ...]]]]  # (camera, frame) -> identity and box
    visits: list[Visit]


def read_truth(path: Path) -> Truth:
    """The truth of `bot synthetic --clip`."""
    boxes: dict[tuple[str, int], list[tuple[str, tuple[float, ...]]]] = {}
    times: dict[tuple[str, str], list[float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            camera = f"cam{row['camera']}"
            box = tuple(float(row[side]) for side in ("left", "top", "right", "bottom"))
            boxes.setdefault((camera, int(row["frame"])), []).append((row["identity"], box))
            if float(row["visible"]) >= MIN_VISIBLE and box[3] - box[1] >= MIN_HEIGHT:
                times.setdefault((row["identity"], camera), []).append(float(row["time"]))
    visits = []
    for (identity, camera), seen in times.items():
        parts = np.split(np.array(seen), np.flatnonzero(np.diff(seen) > MAX_GAP_S) + 1)
        visits += [Visit(identity, camera, part[0], part[-1]) for part in parts if part[-1] - part[0] >= MIN_VISIT_S]
    return Truth(boxes, visits)


def iou(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Intersection over union of two boxes."""
    width, height = (min(first[side + 2], second[side + 2]) - max(first[side], second[side]) for side in (0, 1))
    intersection = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return intersection / (areas - intersection)


def whose(truth: Truth, camera: str, frame: int, box: tuple[float, ...]) -> str | None:
    """Whom `box` shows, by the truth; None for nobody."""
    others = truth.boxes.get((camera, frame), [])
    best = max(((iou(box, other), identity) for identity, other in others), default=(0.0, None))
    return best[1] if best[0] >= MIN_IOU else None
