"""The two solids that make up a body: shaded, textured tubes and ellipsoids."""
# ruff: noqa: PLR2004 - lengths and probabilities read best in place

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
# A procedural texture maps surface coordinates to RGB [N, 3]. The coordinates are two arrays [N]: the angle around the
# axis (0 at the front), and the position along the axis (0..1 on a tube, -1..1 on an ellipsoid).
Texture = Callable[[Float32Array, Float32Array], Float32Array]
LightDirection = tuple[float, float, float]  # unit vector towards the light: right, down, to the viewer


@cache
def fold_noise() -> Float32Array:
    """Smooth noise [128, 128] around 0 that tiles: the folds of cloth."""
    spectrum = np.fft.rfft2(np.random.default_rng(1501).normal(size=(128, 128)))
    rows, columns = np.fft.fftfreq(128)[:, None] * 128, np.fft.rfftfreq(128)[None, :] * 128
    smooth = np.fft.irfft2(spectrum * np.exp(-(rows**2 + columns**2) / 2 / 7.0**2), (128, 128))
    return np.asarray(smooth / smooth.std(), dtype=np.float32)


def _window(shape: tuple[int, ...], low: npt.ArrayLike, high: npt.ArrayLike) -> tuple[int, int, int, int] | None:
    """The rectangle (x0, y0, x1, y1) from `low` to `high`, cut at the edges of a canvas [H, W]; None if empty."""
    x0, y0 = np.maximum(np.floor(low), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(high) + 1, (shape[1], shape[0])).astype(int)
    return None if x0 >= x1 or y0 >= y1 else (int(x0), int(y0), int(x1), int(y1))


def _blend(
    canvas: Float32Array,
    window: tuple[int, int, int, int],
    inside: npt.NDArray[np.intp],
    rgb: Float32Array,
    coverage: Float32Array,
) -> None:
    """Blend `rgb` [N, 3] with opacity `coverage` [N] into the pixels `inside` (flat indices) of the window."""
    x0, y0, x1, _ = window
    rows, columns = np.divmod(inside, x1 - x0)
    pixels = (rows + y0) * canvas.shape[2] + columns + x0
    planes = canvas.reshape(4, -1)
    blended = planes.take(pixels, axis=1)
    blended *= 1 - coverage
    blended[:3] += np.minimum(rgb.T, 1) * coverage
    blended[3] += coverage
    for plane, values in zip(planes, blended, strict=True):
        plane[pixels] = values


def _shade(lambert: Float32Array, facing: Float32Array) -> Float32Array:
    """Brightness from the cosine to the light (`lambert`) and the cosine to the viewer (`facing`)."""
    return (0.56 + 0.64 * np.maximum(lambert, 0)) * (0.72 + 0.28 * facing)


@dataclass(frozen=True, eq=False)
class _TubeSurface:
    """Pixels of the window around a tube, in coordinates of the tube. Arrays have one shape; lengths are pixels."""

    length: float  # of the tube, at least 1
    along: npt.NDArray[np.float64]  # unit vector (x, y) from start to end
    position: Float32Array  # along the tube, from its start
    across: Float32Array  # distance to the axis, positive to one side
    half_width: Float32Array  # of the tube at this position
    edge_distance: Float32Array  # to the outline; negative outside

    def take(self, pixels: npt.NDArray[np.intp]) -> _TubeSurface:
        """The given pixels (flat indices) only: arrays [N]."""
        return replace(
            self,
            position=self.position.take(pixels),
            across=self.across.take(pixels),
            half_width=self.half_width.take(pixels),
            edge_distance=self.edge_distance.take(pixels),
        )


def _tube_surface(
    window: tuple[int, int, int, int],
    start: npt.NDArray[np.float64],
    end: npt.NDArray[np.float64],
    half_widths: Sequence[float],
    caps: tuple[float, float],
) -> _TubeSurface:
    """The pixels of `window`; the arguments are those of `draw_tube`."""
    span = np.asarray(end - start, dtype=np.float64)
    span_length = float(np.hypot(span[0], span[1]))
    length = max(span_length, 1.0)
    along = span / span_length if span_length > 0 else np.array((0.0, 1.0))
    start_cap, end_cap = max(caps[0] * half_widths[0], 0.5), max(caps[1] * half_widths[-1], 0.5)
    x0, y0, x1, y1 = window
    dx = np.arange(x0, x1, dtype=np.float32)[None, :] + np.float32(0.5 - start[0])
    dy = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - start[1])
    position = dx * np.float32(along[0]) + dy * np.float32(along[1])
    across = dx * np.float32(along[1]) - dy * np.float32(along[0])
    step = np.arange(len(half_widths)) * (length / (len(half_widths) - 1))
    half_width = np.interp(position, step, half_widths).astype(np.float32)
    past_end = np.maximum(
        np.maximum(-position / np.float32(start_cap), (position - np.float32(length)) / np.float32(end_cap)), 0
    )
    half_width *= np.sqrt(np.maximum(1 - past_end * past_end, 0))
    edge_distance = half_width - np.abs(across)
    edge_distance[past_end >= 1] = -9
    return _TubeSurface(length, along, position, across, half_width, edge_distance)


def _shade_tube(surface: _TubeSurface, u: Float32Array, light: LightDirection) -> Float32Array:
    """Brightness [N]; `u` is the distance to the axis divided by the half-width, -1 to 1."""
    facing = np.sqrt(1 - u * u)
    along = surface.along
    lambert = u * np.float32(along[1] * light[0] - along[0] * light[1]) + facing * np.float32(light[2])
    return _shade(lambert, facing)


def _fold_shade(
    position: Float32Array, angle: Float32Array, max_half_width: float, strength: float, offset: int
) -> Float32Array:
    """Brightness [N] of the folds of cloth, around 1."""
    size = np.float32(128 / max(6 * max_half_width, 1))
    i = (position * size * np.float32(1.6)).astype(np.intp) + offset
    j = (angle * np.float32(9) + position * size * np.float32(0.6)).astype(np.intp) + 3 * offset
    return np.asarray(1 + np.float32(strength) * fold_noise()[i & 127, j & 127])


def draw_tube(
    canvas: Float32Array,
    start: npt.NDArray[np.float64],
    end: npt.NDArray[np.float64],
    half_widths: Sequence[float],
    texture: Texture,
    *,
    light: LightDirection,
    rotation: float = 0.0,
    caps: tuple[float, float] = (1.0, 1.0),
    fold_strength: float = 0.0,
    fold_offset: int = 0,
    contact_shadow: float = 0.25,
) -> None:
    """Draw a tube from `start` to `end` (x, y in pixels) on premultiplied RGBA planes [4, H, W].

    `half_widths` are pixels at even steps along the tube. `rotation` turns the front of the tube to the viewer's right
    (radians). `caps` are the lengths of the round ends, relative to the half-width there. `fold_strength` scales the
    folds of cloth, and `fold_offset` selects a part of their noise. `contact_shadow` darkens pixels close to the tube.
    """
    reach = 1.25 * max(half_widths) + 2
    window = _window(canvas.shape[1:], np.minimum(start, end) - reach, np.maximum(start, end) + reach)
    if window is None:
        return
    surface = _tube_surface(window, start, end, half_widths, caps)
    if contact_shadow:
        # A narrow shadow on the pixels drawn before separates an arm from a torso of the same colour.
        x0, y0, x1, y1 = window
        near = np.minimum(np.maximum(1 + surface.edge_distance / np.float32(0.35 * max(half_widths) + 1), 0), 1)
        canvas[:3, y0:y1, x0:x1] *= 1 - np.float32(contact_shadow) * near
    inside = np.flatnonzero(surface.edge_distance > -0.5)
    if len(inside) == 0:
        return
    surface = surface.take(inside)
    u = np.minimum(np.maximum(surface.across / np.maximum(surface.half_width, 0.5), -1), 1)
    angle = np.arcsin(u) - np.float32(rotation)
    shade = _shade_tube(surface, u, light)
    if fold_strength:
        shade = shade * _fold_shade(surface.position, angle, max(half_widths), fold_strength, fold_offset)
    fraction = np.minimum(np.maximum(surface.position / np.float32(surface.length), 0), 1)
    rgb = texture(angle, fraction) * shade[:, None]
    _blend(canvas, window, inside, rgb, np.minimum(surface.edge_distance + np.float32(0.5), 1))


def draw_ellipsoid(
    canvas: Float32Array,
    centre: npt.NDArray[np.float64],
    radii: tuple[float, float],
    texture: Texture,
    *,
    light: LightDirection,
    rotation: float = 0.0,
    contact_shadow: float = 0.2,
) -> None:
    """Draw an ellipsoid with `radii` (across, down) in pixels; its texture gets the angle and the height (top: -1)."""
    reach = np.array(radii) * 1.25 + 1
    window = _window(canvas.shape[1:], centre - reach, centre + reach)
    if window is None:
        return
    x0, y0, x1, y1 = window
    u = (np.arange(x0, x1, dtype=np.float32)[None, :] + np.float32(0.5 - centre[0])) / np.float32(radii[0])
    v = (np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - centre[1])) / np.float32(radii[1])
    radius = np.sqrt(u * u + v * v)
    edge_distance = (1 - radius) * np.float32(min(radii))
    if contact_shadow:
        near = np.minimum(np.maximum(1 + edge_distance / np.float32(0.3 * max(radii)), 0), 1)
        canvas[:3, y0:y1, x0:x1] *= 1 - np.float32(contact_shadow) * near
    inside = np.flatnonzero(edge_distance > -0.5)
    if len(inside) == 0:
        return
    rows, columns = np.divmod(inside, x1 - x0)
    across, down, radius = u[0, columns], v[rows, 0], np.minimum(radius.take(inside), 1)
    facing = np.sqrt(1 - radius * radius)
    angle = np.arctan2(across, facing + np.float32(1e-3)) - np.float32(rotation)
    lambert = across * np.float32(light[0]) + down * np.float32(light[1]) + facing * np.float32(light[2])
    rgb = texture(angle, np.clip(down, -1, 1)) * _shade(lambert, facing)[:, None]
    _blend(canvas, window, inside, rgb, np.minimum(edge_distance.take(inside) + np.float32(0.5), 1))
