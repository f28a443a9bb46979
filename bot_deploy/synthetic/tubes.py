"""The two solids a body is made of: shaded tubes and balls, painted in surface coordinates."""
# ruff: noqa: PLR2004 - measures and odds read best in place

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
# (angle around the axis, 0 at the front; position along the axis, 0..1 for a tube, -1..1 for a ball) -> RGB [N, 3]
Paint = Callable[[Array, Array], Array]
Light = tuple[float, float, float]  # unit direction to the light: right, down, to the viewer


def _folds() -> Array:
    """A tile of smooth noise, 128x128 around 0: the creases of cloth."""
    spectrum = np.fft.rfft2(np.random.default_rng(1501).normal(size=(128, 128)))
    rows, columns = np.fft.fftfreq(128)[:, None] * 128, np.fft.rfftfreq(128)[None, :] * 128
    smooth = np.fft.irfft2(spectrum * np.exp(-(rows**2 + columns**2) / 2 / 7.0**2), (128, 128))
    return np.asarray(smooth / smooth.std(), dtype=np.float32)


FOLDS = _folds()


def _window(shape: tuple[int, ...], low: npt.ArrayLike, high: npt.ArrayLike) -> tuple[int, int, int, int] | None:
    x0, y0 = np.maximum(np.floor(low), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(high) + 1, (shape[1], shape[0])).astype(int)
    return None if x0 >= x1 or y0 >= y1 else (int(x0), int(y0), int(x1), int(y1))


def _blend(
    canvas: Array, window: tuple[int, int, int, int], inside: npt.NDArray[np.intp], rgb: Array, cover: Array
) -> None:
    """Lay colours over the pixels `inside` (flat indices) of the window."""
    x0, y0, x1, _ = window
    rows, columns = np.divmod(inside, x1 - x0)
    where = (rows + y0) * canvas.shape[2] + columns + x0
    planes = canvas.reshape(4, -1)
    kept = planes.take(where, axis=1)
    kept *= 1 - cover
    kept[:3] += np.minimum(rgb.T, 1) * cover
    kept[3] += cover
    for plane, values in zip(planes, kept, strict=True):
        plane[where] = values


def _shade(lambert: Array, facing: Array) -> Array:
    return (0.56 + 0.64 * np.maximum(lambert, 0)) * (0.72 + 0.28 * facing)


def tube(
    canvas: Array,
    start: npt.NDArray[np.float64],
    end: npt.NDArray[np.float64],
    widths: Sequence[float],
    paint: Paint,
    *,
    light: Light,
    turn: float = 0.0,
    caps: tuple[float, float] = (1.0, 1.0),
    folds: float = 0.0,
    texture: int = 0,
    rim: float = 0.25,
) -> None:
    """Draw a tube from `start` to `end` (x, y in pixels) on premultiplied RGBA planes [4, H, W].

    `widths` are half-widths in pixels at even steps; `turn` is how far the front is turned to the viewer's right;
    `caps` are the lengths of the round ends over the half-width there; `rim` darkens what lies close behind.
    """
    span = np.asarray(end - start, dtype=np.float64)
    measured = float(np.hypot(span[0], span[1]))
    length = max(measured, 1.0)
    along = span / measured if measured > 0 else np.array((0.0, 1.0))
    first, last = max(caps[0] * widths[0], 0.5), max(caps[1] * widths[-1], 0.5)
    reach = 1.25 * max(widths) + 2
    window = _window(canvas.shape[1:], np.minimum(start, end) - reach, np.maximum(start, end) + reach)
    if window is None:
        return
    x0, y0, x1, y1 = window
    dx = np.arange(x0, x1, dtype=np.float32)[None, :] + np.float32(0.5 - start[0])
    dy = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - start[1])
    position = dx * np.float32(along[0]) + dy * np.float32(along[1])
    across = dx * np.float32(along[1]) - dy * np.float32(along[0])
    step = np.arange(len(widths)) * (length / (len(widths) - 1))
    half = np.interp(position, step, widths).astype(np.float32)
    beyond = np.maximum(
        np.maximum(-position / np.float32(first), (position - np.float32(length)) / np.float32(last)), 0
    )
    half *= np.sqrt(np.maximum(1 - beyond * beyond, 0))
    gap = half - np.abs(across)
    gap[beyond >= 1] = -9
    if rim:
        # A narrow shadow on what is already drawn lifts an arm off a torso of the same colour.
        shadow = 1 - np.float32(rim) * np.minimum(np.maximum(1 + gap / np.float32(0.35 * max(widths) + 1), 0), 1)
        canvas[:3, y0:y1, x0:x1] *= shadow
    inside = np.flatnonzero(gap > -0.5)
    if len(inside) == 0:
        return
    half, across, position, gap = half.take(inside), across.take(inside), position.take(inside), gap.take(inside)
    u = np.minimum(np.maximum(across / np.maximum(half, 0.5), -1), 1)
    facing = np.sqrt(1 - u * u)
    angle = np.arcsin(u) - np.float32(turn)
    part = np.minimum(np.maximum(position / np.float32(length), 0), 1)
    shade = _shade(u * np.float32(along[1] * light[0] - along[0] * light[1]) + facing * np.float32(light[2]), facing)
    if folds:
        size = np.float32(128 / max(6 * max(widths), 1))
        i = (position * size * np.float32(1.6)).astype(np.intp) + texture
        j = (angle * np.float32(9) + position * size * np.float32(0.6)).astype(np.intp) + 3 * texture
        shade = shade * (1 + np.float32(folds) * FOLDS[i & 127, j & 127])
    _blend(canvas, window, inside, paint(angle, part) * shade[:, None], np.minimum(gap + np.float32(0.5), 1))


def ball(
    canvas: Array,
    centre: npt.NDArray[np.float64],
    radii: tuple[float, float],
    paint: Paint,
    *,
    light: Light,
    turn: float = 0.0,
    rim: float = 0.2,
) -> None:
    """Draw an ellipsoid of `radii` (across, down) pixels; the paint gets the angle and the height, -1 at the top."""
    reach = np.array(radii) * 1.25 + 1
    window = _window(canvas.shape[1:], centre - reach, centre + reach)
    if window is None:
        return
    x0, y0, x1, y1 = window
    u = (np.arange(x0, x1, dtype=np.float32)[None, :] + np.float32(0.5 - centre[0])) / np.float32(radii[0])
    v = (np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - centre[1])) / np.float32(radii[1])
    radius = np.sqrt(u * u + v * v)
    gap = (1 - radius) * np.float32(min(radii))
    if rim:
        near = np.minimum(np.maximum(1 + gap / np.float32(0.3 * max(radii)), 0), 1)
        canvas[:3, y0:y1, x0:x1] *= 1 - np.float32(rim) * near
    inside = np.flatnonzero(gap > -0.5)
    if len(inside) == 0:
        return
    rows, columns = np.divmod(inside, x1 - x0)
    across, down, radius = u[0, columns], v[rows, 0], np.minimum(radius.take(inside), 1)
    facing = np.sqrt(1 - radius * radius)
    angle = np.arctan2(across, facing + np.float32(1e-3)) - np.float32(turn)
    lambert = across * np.float32(light[0]) + down * np.float32(light[1]) + facing * np.float32(light[2])
    rgb = paint(angle, np.clip(down, -1, 1)) * _shade(lambert, facing)[:, None]
    _blend(canvas, window, inside, rgb, np.minimum(gap.take(inside) + np.float32(0.5), 1))
