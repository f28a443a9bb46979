"""Objects that may occlude a person: a pole, a bush, a bicycle, a bench."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from .primitives import Float32Array


def _draw_pole(canvas: Float32Array, x: float, feet: float, height: float, rng: np.random.Generator) -> None:
    half_width = rng.uniform(0.03, 0.07) * height
    across = (np.arange(canvas.shape[1], dtype=np.float32) - x) / half_width
    inside = np.abs(across) < 1
    tone = 0.25 + rng.uniform(0.25, 0.4) * np.sqrt(np.maximum(1 - across * across, 0))
    canvas[: int(feet) + 8, inside] = tone[inside][None, :, None]


def _draw_bush(canvas: Float32Array, x: float, feet: float, height: float, rng: np.random.Generator) -> None:
    leaf = (int(0.035 * height), int(0.022 * height))
    for _ in range(70):
        centre = (int(x + rng.normal(0, 0.065) * height), int(feet - abs(rng.normal(0, 0.14)) * height))
        tone = (rng.uniform(0.5, 1.15) * np.array((0.24, 0.4, 0.16))).tolist()
        cv2.ellipse(canvas, centre, leaf, rng.uniform(0, 180), 0, 360, tone, -1, cv2.LINE_AA)


def _draw_bicycle(canvas: Float32Array, x: float, feet: float, height: float, rng: np.random.Generator) -> None:
    tyre, frame = (0.1, 0.1, 0.11), rng.uniform(0.1, 0.8, 3).tolist()
    radius, thickness = int(0.19 * height), max(2, int(0.014 * height))

    def point(along: float, up: float) -> tuple[int, int]:
        return int(x + along * height), int(feet - up * height)

    rear, front, pedal, saddle, bars = (
        point(-0.28, 0.17),
        point(0.28, 0.17),
        point(-0.03, 0.2),
        point(-0.12, 0.52),
        point(0.2, 0.56),
    )
    for hub in (rear, front):
        cv2.circle(canvas, hub, radius, tyre, thickness, cv2.LINE_AA)
    for start, end in ((rear, pedal), (pedal, saddle), (pedal, bars), (saddle, bars), (bars, front), (rear, saddle)):
        cv2.line(canvas, start, end, frame, thickness + 1, cv2.LINE_AA)
    cv2.line(canvas, point(-0.18, 0.52), point(-0.06, 0.52), tyre, thickness * 2, cv2.LINE_AA)


def _draw_bench(canvas: Float32Array, x: float, feet: float, height: float, rng: np.random.Generator) -> None:
    wood = (rng.uniform(0.75, 1.1) * np.array((0.55, 0.38, 0.22))).tolist()
    left, right = sorted((int(x), int(x + rng.choice((-0.5, 0.5)) * height)))
    for level in (0.42, 0.36, 0.24):
        top = int(feet - level * height)
        cv2.rectangle(canvas, (left, top), (right, top + int(0.035 * height)), wood, -1)
    for leg in (left + 3, right - 6):
        cv2.rectangle(canvas, (leg, int(feet - 0.42 * height)), (leg + 3, int(feet)), (0.18, 0.18, 0.19), -1)


def draw_occluder(canvas: Float32Array, feet: float, height: float, rng: np.random.Generator) -> None:
    """Draw a pole, a bush, a bicycle or a bench over the person in the middle of RGB `canvas`.

    `feet` is the row of the feet, and `height` the height of the person in pixels.
    """
    x = canvas.shape[1] / 2 + rng.choice((-1, 1)) * rng.uniform(0.04, 0.15) * height
    (_draw_pole, _draw_bush, _draw_bicycle, _draw_bench)[int(rng.integers(4))](canvas, x, feet, height, rng)
