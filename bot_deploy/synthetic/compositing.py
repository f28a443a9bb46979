"""Puts a drawn person on a background: a shadow on the ground, then alpha compositing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from .body import Viewpoint
    from .primitives import Float32Array


def alpha_composite(canvas: Float32Array, picture: Float32Array, corner: tuple[int, int]) -> None:
    """Composite premultiplied RGBA `picture` over RGB `canvas`, in place and cut at the edges.

    `corner` is the position (x, y) of the upper left corner of `picture` on `canvas`.
    """
    x, y = corner
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + picture.shape[1], canvas.shape[1]), min(y + picture.shape[0], canvas.shape[0])
    if x0 < x1 and y0 < y1:
        inside = picture[y0 - y : y1 - y, x0 - x : x1 - x]
        canvas[y0:y1, x0:x1] *= 1 - inside[:, :, 3:]
        canvas[y0:y1, x0:x1] += inside[:, :, :3]


def draw_shadow(canvas: Float32Array, feet: tuple[float, float], height: float, viewpoint: Viewpoint) -> None:
    """Darken the ground around `feet` (x, y) of a person of `height` pixels; the shadow points away from the light."""
    x, y = int(feet[0]), int(feet[1])
    left, top = max(x - int(0.7 * height), 0), max(y - int(0.3 * height), 0)
    ground = canvas[top : max(y + int(0.3 * height), 0), left : max(x + int(0.7 * height), 0)]
    if ground.size == 0:
        return
    flatness = 0.07 + 0.35 * np.sin(viewpoint.pitch)
    mask = np.zeros(ground.shape[:2], dtype=np.float32)
    for length, darkness in ((0.13, 0.3), (0.3, 0.22)):
        centre = (int(x - left - viewpoint.light[0] * (length - 0.1) * height), int(y - top - 0.01 * height))
        axes = (int(length * height), max(2, int(length * height * flatness * 1.6)))
        cv2.ellipse(mask, centre, axes, 0, 0, 360, darkness, -1)
    ground *= 1 - np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.02 * height))[:, :, None]
