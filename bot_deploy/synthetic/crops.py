"""One detector crop: a person in a scene, badly boxed now and then, partly hidden now and then."""
# ruff: noqa: PLR2004 - measures and odds read best in place

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from .cameras import Camera, develop
from .draw import View, draw_person
from .occlusion import hide
from .pose import Pose, walk
from .scenes import HEIGHT, WIDTH, background

if TYPE_CHECKING:
    from .people import Person
    from .tubes import Array

CROP_WIDTH, CROP_HEIGHT = 64, 128
_SHARP = 1.5  # how much larger than the crop it is drawn


@dataclass(frozen=True)
class Track:
    """How one person passes one camera: where in the scene, which way, and from which moment of the gait."""

    row: float
    column: float
    yaw: float
    phase: float

    def later(self, steps: float) -> Track:
        """The same passage, `steps` sampled frames on."""
        column = self.column + 60 * steps * np.sin(self.yaw)
        row = float(np.clip(self.row + 18 * steps * np.cos(self.yaw), 0, HEIGHT - 8))
        return Track(row, float(np.clip(column, 120, WIDTH - 120)), self.yaw, self.phase + 2.17 * steps)


def sample_track(camera: Camera, rng: np.random.Generator) -> Track:
    """A passage along one of the walking directions of `camera`."""
    yaw = float(rng.choice(camera.yaws) + rng.normal(0, 0.35))
    row = float(rng.uniform(camera.wall + 0.35 * (HEIGHT - camera.wall), HEIGHT - 25))
    return Track(row, float(rng.uniform(200, WIDTH - 200)), yaw, float(rng.uniform(0, 2 * np.pi)))


def over(canvas: Array, picture: Array, corner: tuple[int, int]) -> None:
    """Lay premultiplied RGBA `picture` over RGB `canvas`, its upper left at `corner` (x, y), cut at the edges."""
    x, y = corner
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + picture.shape[1], canvas.shape[1]), min(y + picture.shape[0], canvas.shape[0])
    if x0 < x1 and y0 < y1:
        piece = picture[y0 - y : y1 - y, x0 - x : x1 - x]
        canvas[y0:y1, x0:x1] *= 1 - piece[:, :, 3:]
        canvas[y0:y1, x0:x1] += piece[:, :, :3]


def shadow(canvas: Array, feet: tuple[float, float], height: float, view: View) -> None:
    """Darken the ground where a person of `height` pixels stands: a soft blot, longer away from the light."""
    x, y = int(feet[0]), int(feet[1])
    left, top = max(x - int(0.7 * height), 0), max(y - int(0.3 * height), 0)
    ground = canvas[top : max(y + int(0.3 * height), 0), left : max(x + int(0.7 * height), 0)]
    if ground.size == 0:
        return
    flat = 0.07 + 0.35 * np.sin(view.pitch)
    mask = np.zeros(ground.shape[:2], dtype=np.float32)
    for length, depth in ((0.13, 0.3), (0.3, 0.22)):
        centre = (int(x - left - view.light[0] * (length - 0.1) * height), int(y - top - 0.01 * height))
        axes = (int(length * height), max(2, int(length * height * flat * 1.6)))
        cv2.ellipse(mask, centre, axes, 0, 0, 360, depth, -1)
    ground *= 1 - np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.02 * height))[:, :, None]


def place(canvas: Array, person: Person, pose: Pose, view: View, *, feet: tuple[float, float], height: float) -> None:
    """Draw `person`, `height` pixels tall, into RGB `canvas` so that the feet stand at `feet` (x, y)."""
    shadow(canvas, feet, height, view)
    picture, origin = draw_person(person, pose, view, height)
    over(canvas, picture, (round(feet[0] - origin[0]), round(feet[1] - origin[1])))


def render_crop(
    person: Person,
    camera: Camera,
    track: Track,
    rng: np.random.Generator,
    *,
    passer: Person | None = None,
    junk: bool = False,
) -> npt.NDArray[np.uint8]:
    """The box a detector draws around `person`: uint8 RGB [128, 64, 3].

    `passer` walks across in front or behind; a `junk` box is mostly background or a small part of the body.
    """
    tall = camera.scale(track.row) * person.height
    stretch = 1 + camera.margin + float(abs(rng.normal(0, 0.05)))
    box = np.array((0.5 * stretch * tall, stretch * tall)) * rng.uniform(0.95, 1.06, 2)
    centre = np.array((track.column, track.row - 0.49 * tall)) + rng.normal(0, (0.035, 0.03)) * tall
    if rng.random() < 0.12:
        # A box that cuts the feet or the head off.
        box[1] *= 0.8
        centre[1] += rng.choice((-0.12, 0.1)) * tall
    if junk:
        centre += rng.choice((-1, 1), 2) * rng.uniform((0.25, 0.3), (0.45, 0.6)) * tall
        box *= rng.uniform(0.5, 1.1)
    zoom = np.array((CROP_WIDTH, CROP_HEIGHT)) * _SHARP / box
    corner = centre - box / 2
    matrix = np.array(((zoom[0], 0, -corner[0] * zoom[0]), (0, zoom[1], -corner[1] * zoom[1])))
    size = (int(CROP_WIDTH * _SHARP), int(CROP_HEIGHT * _SHARP))
    area = cv2.INTER_AREA if zoom[1] < 1 else cv2.INTER_LINEAR
    scene = cv2.warpAffine(background(camera), matrix, size, flags=area, borderMode=cv2.BORDER_REFLECT_101)
    canvas = np.asarray(scene, dtype=np.float32) / np.float32(255)

    def feet(column: float, row: float) -> tuple[float, float]:
        return float((column - corner[0]) * zoom[0]), float((row - corner[1]) * zoom[1])

    # Pose and person differ a little from frame to frame, as gait and heading do.
    view = View(track.yaw + float(rng.normal(0, 0.15)), camera.pitch + float(rng.normal(0, 0.02)), camera.light)
    pose = walk(person, track.phase, person.stride * (0.15 if rng.random() < 0.15 else float(rng.uniform(0.8, 1.1))))
    height = tall * zoom[1]
    stand = feet(track.column, track.row)
    hidden = rng.random()
    if passer is None:
        place(canvas, person, pose, view, feet=stand, height=height)
        if hidden < 0.1:
            hide(canvas, stand[1] + 0.03 * height, height, rng)
    else:
        heading = replace(view, yaw=track.yaw + float(rng.choice((0.0, np.pi)) + rng.normal(0, 0.4)))
        nearer = bool(rng.random() < 0.4)
        row = track.row + (0.05 if nearer else -0.08) * tall
        beside = feet(track.column + float(rng.choice((-1, 1)) * rng.uniform(0.22, 0.34)) * tall, row)
        step = walk(passer, float(rng.uniform(0, 2 * np.pi)))
        if nearer:
            place(canvas, person, pose, view, feet=stand, height=height)
        place(canvas, passer, step, heading, feet=beside, height=camera.scale(row) * passer.height * zoom[1])
        if not nearer:
            place(canvas, person, pose, view, feet=stand, height=height)
    return develop(camera, canvas, (CROP_WIDTH, CROP_HEIGHT), rng, heading=track.yaw)
