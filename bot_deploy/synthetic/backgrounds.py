"""The backgrounds: a ground and a wall for each camera, textured in metres and projected in perspective."""
# ruff: noqa: PLR2004 - lengths and probabilities read best in place
# ruff: noqa: ARG001 - all textures have the same arguments

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from .cameras import CAMERAS, Camera

if TYPE_CHECKING:
    from .primitives import Float32Array

SCENE_WIDTH_PX, SCENE_HEIGHT_PX = 1280, 720
FOCAL_LENGTH_PX = 714.0

Mask = npt.NDArray[np.bool_]


def _noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> Float32Array:
    """Smooth noise around 0, with blobs of about `cell` pixels."""
    rows, columns = max(2, int(shape[0] / cell)), max(2, int(shape[1] / cell))
    coarse = rng.normal(size=(rows, columns)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _grain(rng: np.random.Generator, shape: tuple[int, int], *cells: float) -> Float32Array:
    """Mean of smooth noise at several blob sizes."""
    return np.asarray(np.mean([_noise(rng, shape, cell) for cell in cells], axis=0), dtype=np.float32)


def _fill(plane: Float32Array, colour: tuple[float, float, float]) -> Float32Array:
    """RGB [H, W, 3] in one colour, of the size of `plane` [H, W]."""
    return np.full((*plane.shape, 3), colour, dtype=np.float32)


def _line_mask(metres: Float32Array, period: float, width: float) -> Mask:
    """Mask of parallel lines, `width` metres wide and `period` metres apart."""
    return np.asarray(metres % period < width)


def _cell_values(rng: np.random.Generator, x: Float32Array, y: Float32Array, size: tuple[float, float]) -> Float32Array:
    """A random value for each cell of a grid; `size` is the width and height of a cell in metres."""
    table = rng.normal(size=4096).astype(np.float32)
    column, row = np.floor(x / size[0]).astype(np.int64), np.floor(y / size[1]).astype(np.int64)
    return np.asarray(table[(column * 73 + row * 179) % 4096])


# Textures by scene. `grain` is smooth noise [H, W] around 0.


def _park_ground(x: Float32Array, z: Float32Array, grain: Float32Array, rng: np.random.Generator) -> Float32Array:
    rgb = _fill(grain, (0.36, 0.5, 0.22)) * (1 + 0.3 * grain)[:, :, None]
    path = np.abs(x - 0.35 * (z - 8) + 0.6 * np.sin(z / 3)) < 1.5
    rgb[path] = (_fill(grain, (0.72, 0.64, 0.5)) * (1 + 0.12 * grain)[:, :, None])[path]
    return rgb


def _brick_ground(x: Float32Array, z: Float32Array, grain: Float32Array, rng: np.random.Generator) -> Float32Array:
    tone = 1 + 0.05 * _cell_values(rng, x, z, (0.8, 0.8)) + 0.06 * grain
    rgb = _fill(grain, (0.62, 0.6, 0.57)) * tone[:, :, None]
    rgb[_line_mask(x, 0.8, 0.03) | _line_mask(z, 0.8, 0.05)] *= 0.75
    return rgb


def _shops_ground(x: Float32Array, z: Float32Array, grain: Float32Array, rng: np.random.Generator) -> Float32Array:
    tone = 1 + 0.1 * _cell_values(rng, x, z, (0.4, 0.25)) + 0.05 * grain
    rgb = _fill(grain, (0.66, 0.56, 0.5)) * tone[:, :, None]
    rgb[_line_mask(x + 0.2 * (np.floor(z / 0.25) % 2), 0.4, 0.02) | _line_mask(z, 0.25, 0.02)] *= 0.85
    return rgb


def _road_ground(x: Float32Array, z: Float32Array, grain: Float32Array, rng: np.random.Generator) -> Float32Array:
    rgb = _fill(grain, (0.3, 0.31, 0.33)) * (1 + 0.14 * grain)[:, :, None]
    rgb[(np.abs(z - 6.4) < 0.09) & _line_mask(x, 2.4, 1.3)] = 0.85
    near = z < 4.9
    rgb[near] = (_fill(grain, (0.58, 0.58, 0.57)) * (1 + 0.07 * grain)[:, :, None])[near]
    rgb[near & (_line_mask(x, 0.6, 0.02) | _line_mask(z, 0.6, 0.025))] *= 0.8
    rgb[np.abs(z - 4.95) < 0.12] = (0.75, 0.75, 0.74)
    return rgb


def _plaza_ground(x: Float32Array, z: Float32Array, grain: Float32Array, rng: np.random.Generator) -> Float32Array:
    dark = (np.floor(x / 1.2) + np.floor(z / 1.2)) % 2 > 0
    rgb = np.where(dark[:, :, None], _fill(grain, (0.6, 0.52, 0.46)), _fill(grain, (0.8, 0.75, 0.68)))
    rgb = (rgb * (1 + 0.06 * grain)[:, :, None]).astype(np.float32)
    rgb[_line_mask(x, 1.2, 0.03) | _line_mask(z, 1.2, 0.03)] *= 0.7
    return np.asarray(rgb)


def _station_ground(x: Float32Array, z: Float32Array, grain: Float32Array, rng: np.random.Generator) -> Float32Array:
    tone = 1 + 0.05 * grain + 0.03 * _cell_values(rng, x, z, (0.6, 0.6))
    rgb = _fill(grain, (0.5, 0.52, 0.53)) * tone[:, :, None]
    rgb[_line_mask(x, 0.6, 0.015) | _line_mask(z, 0.6, 0.02)] *= 0.8
    rgb[np.abs(z - 8.2) < 0.22] = (0.85, 0.72, 0.2)
    return rgb


# The textures of the ground by scene.
_GROUNDS = {
    "park": _park_ground,
    "brick": _brick_ground,
    "shops": _shops_ground,
    "road": _road_ground,
    "plaza": _plaza_ground,
    "station": _station_ground,
}


def _ground_texture(scene: str, x: Float32Array, z: Float32Array, rng: np.random.Generator) -> Float32Array:
    """RGB [H, W, 3] of the ground at `x` metres across and `z` metres away."""
    return _GROUNDS[scene](x, z, _grain(rng, (x.shape[0], x.shape[1]), 3, 9, 60), rng)


def _park_wall(x: Float32Array, y: Float32Array, grain: Float32Array, rng: np.random.Generator) -> Float32Array:
    rgb = _fill(grain, (0.62, 0.76, 0.88))
    crown = y < 2.4 + 1.6 * _noise(rng, (1, x.shape[1]), 90)[0][None, :]
    leaves = _fill(grain, (0.2, 0.34, 0.15)) * (1 + 0.55 * grain)[:, :, None]
    rgb[crown] = leaves[crown]
    rgb[(y < 1.6) & _line_mask(np.asarray(x + 0.3 * np.floor(x / 3), dtype=np.float32), 3.0, 0.28)] = (
        0.3,
        0.22,
        0.16,
    )
    rgb[y < 0.5 + 0.1 * grain] *= 0.7
    return rgb


def _brick_wall(x: Float32Array, y: Float32Array, grain: Float32Array, rng: np.random.Generator) -> Float32Array:
    course = np.floor(y / 0.16)
    bond = x + 0.2 * (course % 2)
    tone = 1 + 0.14 * _cell_values(rng, bond, y, (0.4, 0.16)) + 0.05 * grain
    rgb = _fill(grain, (0.56, 0.29, 0.22)) * tone[:, :, None]
    rgb[_line_mask(bond, 0.4, 0.035) | _line_mask(y, 0.16, 0.03)] = (0.62, 0.57, 0.52)
    window = (y > 1.0) & (y < 2.4) & _line_mask(x, 3.4, 1.3)
    rgb[window] = (0.88, 0.87, 0.84)
    rgb[(y > 1.12) & (y < 2.28) & (x % 3.4 > 0.12) & (x % 3.4 < 1.18)] = (0.25, 0.33, 0.4)
    return rgb


def _shops_wall(x: Float32Array, y: Float32Array, grain: Float32Array, rng: np.random.Generator) -> Float32Array:
    bay = np.floor(x / 3.6)
    hue = np.stack([_cell_values(rng, x, 0 * y, (3.6, 99)) for _ in range(3)], axis=2)
    glass = 0.5 + 0.16 * _cell_values(rng, x, y, (0.45, 0.6))[:, :, None] + 0.14 * hue + 0.05 * grain[:, :, None]
    rgb = glass * _fill(grain, (1.05, 0.95, 0.8))
    sign = (y > 2.3) & (y < 2.9)
    rgb[sign] = np.clip(0.5 + 0.3 * hue, 0.1, 0.95)[sign]
    rgb[sign & (np.abs(y - 2.6) < 0.14) & (x % 0.34 < 0.2) & (np.abs(x - 3.6 * bay - 1.8) < 1.1)] = 0.95
    rgb[y >= 2.9] = (0.78, 0.72, 0.64)
    rgb[_line_mask(x, 3.6, 0.35) | (y < 0.3)] = (0.25, 0.22, 0.2)
    rgb[(x % 3.6 > 1.5) & (x % 3.6 < 2.4) & (y < 2.1) & (y > 0.05)] = (0.2, 0.28, 0.3)
    return np.asarray(rgb)


def _road_wall(x: Float32Array, y: Float32Array, grain: Float32Array, rng: np.random.Generator) -> Float32Array:
    rgb = _fill(grain, (0.68, 0.7, 0.73)) * (1 + 0.05 * grain)[:, :, None]
    pane = (y > 1.5) & (x % 2.2 > 0.5) & (x % 2.2 < 1.7) & (y % 1.7 > 0.4)
    rgb[pane] = (0.35, 0.42, 0.5)
    _draw_cars(rgb, x, y, rng)
    return rgb


def _plaza_wall(x: Float32Array, y: Float32Array, grain: Float32Array, rng: np.random.Generator) -> Float32Array:
    rgb = _fill(grain, (0.76, 0.72, 0.66)) * (1 + 0.05 * grain)[:, :, None]
    rgb[(y % 0.35 < 0.06)] *= 0.8
    return rgb


def _station_wall(x: Float32Array, y: Float32Array, grain: Float32Array, rng: np.random.Generator) -> Float32Array:
    rgb = _fill(grain, (0.86, 0.88, 0.86)) * (1 + 0.03 * grain)[:, :, None]
    rgb[_line_mask(x, 0.3, 0.02) | _line_mask(y, 0.15, 0.015)] *= 0.85
    rgb[(y > 1.55) & (y < 1.95)] = (0.13, 0.3, 0.5)
    poster = (y > 0.6) & (y < 1.5) & (x % 2.7 > 0.4) & (x % 2.7 < 1.7)
    hue = np.stack([_cell_values(rng, x, y, (2.7, 99)) for _ in range(3)], axis=2)
    rgb[poster] = np.clip(0.55 + 0.2 * hue + 0.12 * grain[:, :, None], 0.05, 0.95)[poster]
    rgb[_line_mask(x + 1.1, 5.4, 0.5)] = (0.42, 0.44, 0.46)
    return rgb


# The textures of the wall by scene.
_WALLS = {
    "park": _park_wall,
    "brick": _brick_wall,
    "shops": _shops_wall,
    "road": _road_wall,
    "plaza": _plaza_wall,
    "station": _station_wall,
}


def _wall_texture(scene: str, x: Float32Array, y: Float32Array, rng: np.random.Generator) -> Float32Array:
    """RGB [H, W, 3] of the wall behind the ground, at `x` metres across and `y` metres up."""
    return _WALLS[scene](x, y, _grain(rng, (x.shape[0], x.shape[1]), 4, 14, 50), rng)


def _draw_cars(rgb: Float32Array, x: Float32Array, y: Float32Array, rng: np.random.Generator) -> None:
    """Draw parked cars along the wall."""
    colours = rng.uniform(0.12, 0.75, (5, 1)) + rng.uniform(-0.12, 0.12, (5, 3))
    for colour, start in zip(colours, np.arange(-12, 13, 5.3) + rng.uniform(-0.4, 0.4, 5), strict=True):
        along = x - start
        body = (along > 0) & (along < 4.2) & (y > 0.22) & (y < 0.85)
        roof = (along > 0.7 + 0.6 * (y - 0.85)) & (along < 3.6 - 0.9 * (y - 0.85)) & (y >= 0.85) & (y < 1.4)
        rgb[body | roof] = colour
        rgb[roof & (y > 0.92) & (y < 1.3) & (np.abs(along - 2.1) > 0.06)] = (0.16, 0.2, 0.24)
        for wheel in (0.8, 3.3):
            rgb[(along - wheel) ** 2 + (y - 0.27) ** 2 < 0.3**2] = (0.08, 0.08, 0.08)


@lru_cache(maxsize=len(CAMERAS))
def render_background(camera: Camera) -> npt.NDArray[np.uint8]:
    """The scene of `camera` without people: uint8 RGB [720, 1280, 3], read-only, the same at every call."""
    rng = np.random.default_rng(camera.number)
    x = np.arange(SCENE_WIDTH_PX, dtype=np.float32)[None, :] - SCENE_WIDTH_PX / 2
    y = np.arange(SCENE_HEIGHT_PX, dtype=np.float32)[:, None]
    below = np.maximum(y - np.float32(camera.horizon_row), 1)
    away = 0 * x + FOCAL_LENGTH_PX * camera.height_m / below
    ground = _ground_texture(camera.scene, x * camera.height_m / below, away, rng)
    scale = camera.scale(camera.wall_row)
    wall = _wall_texture(camera.scene, x / scale + 0 * y, (camera.wall_row - y) / scale + 0 * x, rng)
    scene = np.where((y < camera.wall_row)[:, :, None], wall, ground)
    # In daylight the ground is darker along the wall.
    scene *= (1 - 0.35 * np.exp(-np.abs(y - camera.wall_row) / 14))[:, :, None]
    picture = np.clip(cv2.GaussianBlur(scene, (0, 0), 0.8) * 255, 0, 255).astype(np.uint8)
    picture.flags.writeable = False
    return picture
