"""Renders the solids of one body from a viewpoint, from far to near (painter's algorithm)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .primitives import draw_ellipsoid, draw_tube

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from .pose import Point
    from .primitives import Float32Array, LightDirection, Texture

_DrawCall = tuple[float, Callable[[], None]]  # (depth towards the viewer, function that draws the solid)

_UNDER_CLOTHES_BIAS = -0.25  # depth bias in metres that puts legs under the clothes that hang over them


@dataclass(frozen=True)
class Viewpoint:
    """Direction from which a person is viewed, in radians, and the light there.

    Yaw 0 shows the front, and at pi/2 the person walks to the right. Pitch is the downward tilt of the camera.
    """

    yaw: float
    pitch: float = 0.1
    light: LightDirection = (-0.55, -0.45, 0.7)


class BodyRenderer:
    """Collects the solids of one person in body coordinates, then draws them on premultiplied RGBA planes [4, H, W]."""

    def __init__(
        self,
        viewpoint: Viewpoint,
        scale: float,
        origin: tuple[float, float],
        canvas: Float32Array,
        *,
        fold_offset: int,
    ) -> None:
        """`scale` is pixels per metre; `origin` is where the origin of the body lies on `canvas` (x, y in pixels)."""
        self.viewpoint, self.scale, self.origin, self.canvas = viewpoint, scale, origin, canvas
        self.fold_offset = fold_offset
        self.draw_calls: list[_DrawCall] = []

    def project(self, point: Point) -> tuple[npt.NDArray[np.float64], float, float]:
        """Returns (x, y) in pixels, the depth towards the viewer in metres, and pixels per metre at that depth."""
        yaw, pitch = self.viewpoint.yaw, self.viewpoint.pitch
        x = point[0] * np.cos(yaw) + point[2] * np.sin(yaw)
        z = point[2] * np.cos(yaw) - point[0] * np.sin(yaw)
        y = point[1] * np.cos(pitch) - z * np.sin(pitch)
        depth = float(z * np.cos(pitch) + point[1] * np.sin(pitch))
        scale = self.scale * (1 + 0.16 * depth)
        return np.array((self.origin[0] + x * scale, self.origin[1] - y * scale)), float(z), scale

    def add_tube(
        self,
        start: Point,
        end: Point,
        half_widths: Sequence[float],
        texture: Texture,
        *,
        half_depths: Sequence[float] | None = None,
        depth_bias: float = 0.0,
        caps: tuple[float, float] = (1.0, 1.0),
        fold_strength: float = 0.0,
        contact_shadow: float = 0.25,
        under_clothes: bool = False,
    ) -> None:
        """Add a tube with an elliptical cross-section.

        `half_widths` (side to side) and `half_depths` (front to back, by default the same) are metres at even steps.
        `depth_bias` moves the tube towards the viewer in the drawing order, in metres.
        """
        start_px, start_depth, start_scale = self.project(start)
        end_px, end_depth, end_scale = self.project(end)
        yaw = self.viewpoint.yaw
        widths = np.asarray(half_widths, dtype=np.float64)
        depths = widths if half_depths is None else np.asarray(half_depths, dtype=np.float64)
        projected_widths = np.hypot(widths * np.cos(yaw), depths * np.sin(yaw)) * (
            start_scale + (end_scale - start_scale) * np.arange(len(widths)) / (len(widths) - 1)
        )
        rotation = float(np.arctan2(depths.sum() * np.sin(yaw), widths.sum() * np.cos(yaw)))

        def draw() -> None:
            draw_tube(
                self.canvas,
                start_px,
                end_px,
                projected_widths.tolist(),
                texture,
                light=self.viewpoint.light,
                rotation=rotation,
                caps=caps,
                fold_strength=fold_strength,
                fold_offset=self.fold_offset,
                contact_shadow=contact_shadow,
            )

        depth = (start_depth + end_depth) / 2 + depth_bias
        self.draw_calls.append((0.3 * depth + _UNDER_CLOTHES_BIAS if under_clothes else depth, draw))

    def add_ellipsoid(
        self, centre: Point, radii: tuple[float, float, float], texture: Texture, *, depth_bias: float = 0.0
    ) -> None:
        """Add an ellipsoid; `radii` are metres from side to side, upwards, and from front to back."""
        centre_px, depth, scale = self.project(centre)
        yaw = self.viewpoint.yaw
        across = float(np.hypot(radii[0] * np.cos(yaw), radii[2] * np.sin(yaw))) * scale

        def draw() -> None:
            draw_ellipsoid(
                self.canvas,
                centre_px,
                (across, radii[1] * scale),
                texture,
                light=self.viewpoint.light,
                rotation=yaw,
            )

        self.draw_calls.append((depth + depth_bias, draw))

    def render(self) -> None:
        """Draw the solids, the farthest first."""
        for _, draw in sorted(self.draw_calls, key=lambda call: call[0]):
            draw()
