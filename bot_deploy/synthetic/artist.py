"""How solids in body coordinates come onto the canvas: seen by a camera, nearer ones over farther ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .tubes import ball, tube

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from .pose import Point
    from .tubes import Array, Light, Paint

_Part = tuple[float, Callable[[], None]]  # (distance towards the viewer, how to draw it)


@dataclass(frozen=True)
class View:
    """From where a person is seen: yaw 0 is the front, pi/2 walks to the right; pitch is the camera's tilt down."""

    yaw: float
    pitch: float = 0.1
    light: Light = (-0.55, -0.45, 0.7)


_UNDER = -0.25  # legs lie under whatever hangs over them


class Artist:
    """Collects the solids of one person, then draws them from far to near."""

    def __init__(self, view: View, scale: float, origin: tuple[float, float], canvas: Array, *, texture: int) -> None:
        self.view, self.scale, self.origin, self.canvas, self.texture = view, scale, origin, canvas, texture
        self.parts: list[_Part] = []

    def place(self, point: Point) -> tuple[npt.NDArray[np.float64], float, float]:
        """(x, y in pixels), depth towards the viewer in metres, pixels per metre there."""
        yaw, pitch = self.view.yaw, self.view.pitch
        x = point[0] * np.cos(yaw) + point[2] * np.sin(yaw)
        z = point[2] * np.cos(yaw) - point[0] * np.sin(yaw)
        y = point[1] * np.cos(pitch) - z * np.sin(pitch)
        depth = float(z * np.cos(pitch) + point[1] * np.sin(pitch))
        scale = self.scale * (1 + 0.16 * depth)
        return np.array((self.origin[0] + x * scale, self.origin[1] - y * scale)), float(z), scale

    def tube(
        self,
        start: Point,
        end: Point,
        widths: Sequence[float],
        paint: Paint,
        *,
        depths: Sequence[float] | None = None,
        nearer: float = 0.0,
        caps: tuple[float, float] = (1.0, 1.0),
        folds: float = 0.0,
        rim: float = 0.25,
        under: bool = False,
    ) -> None:
        """`widths` and `depths` are half-lengths in metres from side to side and from front to back."""
        a, za, scale_a = self.place(start)
        b, zb, scale_b = self.place(end)
        yaw = self.view.yaw
        across = np.asarray(widths, dtype=np.float64)
        through = across if depths is None else np.asarray(depths, dtype=np.float64)
        seen = np.hypot(across * np.cos(yaw), through * np.sin(yaw)) * (
            scale_a + (scale_b - scale_a) * np.arange(len(across)) / (len(across) - 1)
        )
        turn = float(np.arctan2(through.sum() * np.sin(yaw), across.sum() * np.cos(yaw)))

        def draw() -> None:
            tube(
                self.canvas,
                a,
                b,
                seen.tolist(),
                paint,
                light=self.view.light,
                turn=turn,
                caps=caps,
                folds=folds,
                texture=self.texture,
                rim=rim,
            )

        depth = (za + zb) / 2 + nearer
        self.parts.append((0.3 * depth + _UNDER if under else depth, draw))

    def ball(self, centre: Point, radii: tuple[float, float, float], paint: Paint, *, nearer: float = 0.0) -> None:
        """`radii` are in metres: from side to side, up, and from front to back."""
        middle, z, scale = self.place(centre)
        yaw = self.view.yaw
        across = float(np.hypot(radii[0] * np.cos(yaw), radii[2] * np.sin(yaw))) * scale

        def draw() -> None:
            ball(self.canvas, middle, (across, radii[1] * scale), paint, light=self.view.light, turn=yaw)

        self.parts.append((z + nearer, draw))

    def draw(self) -> None:
        for _, draw in sorted(self.parts, key=lambda part: part[0]):
            draw()
