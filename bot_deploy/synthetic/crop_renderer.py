"""Renders one detector crop: a person in a scene, with occasional box errors and occlusions."""
# ruff: noqa: PLR2004 - lengths and probabilities read best in place

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from .backgrounds import SCENE_HEIGHT_PX, SCENE_WIDTH_PX, render_background
from .body import SUPERSAMPLING, Viewpoint, draw_person
from .cameras import Camera, apply_camera
from .compositing import alpha_composite, draw_shadow
from .occlusion import draw_occluder
from .pose import Pose, walking_pose

if TYPE_CHECKING:
    from .appearance import Person
    from .primitives import Float32Array

CROP_WIDTH, CROP_HEIGHT = 64, 128


@dataclass(frozen=True)
class ScenePlacement:
    """Where a person is in the scene of a camera: feet in scene pixels, heading and gait phase in radians."""

    row: float
    column: float
    heading: float
    phase: float

    def after_steps(self, steps: float) -> ScenePlacement:
        """The placement `steps` sampled frames later."""
        column = self.column + 60 * steps * np.sin(self.heading)
        row = float(np.clip(self.row + 18 * steps * np.cos(self.heading), 0, SCENE_HEIGHT_PX - 8))
        column = float(np.clip(column, 120, SCENE_WIDTH_PX - 120))
        return ScenePlacement(row, column, self.heading, self.phase + 2.17 * steps)


def sample_placement(camera: Camera, rng: np.random.Generator) -> ScenePlacement:
    """Sample a placement with one of the headings of `camera`."""
    heading = float(rng.choice(camera.headings) + rng.normal(0, 0.35))
    row = float(rng.uniform(camera.wall_row + 0.35 * (SCENE_HEIGHT_PX - camera.wall_row), SCENE_HEIGHT_PX - 25))
    column = float(rng.uniform(200, SCENE_WIDTH_PX - 200))
    return ScenePlacement(row, column, heading, float(rng.uniform(0, 2 * np.pi)))


def _place_person(
    canvas: Float32Array,
    person: Person,
    pose: Pose,
    viewpoint: Viewpoint,
    *,
    feet: tuple[float, float],
    height: float,
) -> None:
    """Draw `person`, `height` pixels tall, into RGB `canvas` with the feet at `feet` (x, y)."""
    draw_shadow(canvas, feet, height, viewpoint)
    picture, origin = draw_person(person, pose, viewpoint, height)
    alpha_composite(canvas, picture, (round(feet[0] - origin[0]), round(feet[1] - origin[1])))


def render_crop(
    person: Person,
    camera: Camera,
    placement: ScenePlacement,
    rng: np.random.Generator,
    *,
    passerby: Person | None = None,
    junk: bool = False,
) -> npt.NDArray[np.uint8]:
    """The crop that a detector cuts out around `person`: uint8 RGB [128, 64, 3].

    `passerby` walks across in front of the person or behind. A `junk` crop shows mostly background or a small part of
    the body.
    """
    person_height = camera.scale(placement.row) * person.height
    stretch = 1 + camera.box_margin + float(abs(rng.normal(0, 0.05)))
    box = np.array((0.5 * stretch * person_height, stretch * person_height)) * rng.uniform(0.95, 1.06, 2)
    centre = np.array((placement.column, placement.row - 0.49 * person_height))
    centre = centre + rng.normal(0, (0.035, 0.03)) * person_height
    if rng.random() < 0.12:
        # A box that cuts the feet or the head off.
        box[1] *= 0.8
        centre[1] += rng.choice((-0.12, 0.1)) * person_height
    if junk:
        centre += rng.choice((-1, 1), 2) * rng.uniform((0.25, 0.3), (0.45, 0.6)) * person_height
        box *= rng.uniform(0.5, 1.1)
    zoom = np.array((CROP_WIDTH, CROP_HEIGHT)) * SUPERSAMPLING / box
    corner = centre - box / 2
    matrix = np.array(((zoom[0], 0, -corner[0] * zoom[0]), (0, zoom[1], -corner[1] * zoom[1])))
    size = (int(CROP_WIDTH * SUPERSAMPLING), int(CROP_HEIGHT * SUPERSAMPLING))
    interpolation = cv2.INTER_AREA if zoom[1] < 1 else cv2.INTER_LINEAR
    background = cv2.warpAffine(
        render_background(camera), matrix, size, flags=interpolation, borderMode=cv2.BORDER_REFLECT_101
    )
    canvas = np.asarray(background, dtype=np.float32) / np.float32(255)

    def crop_point(column: float, row: float) -> tuple[float, float]:
        """The position of a scene point on the canvas (x, y)."""
        return float((column - corner[0]) * zoom[0]), float((row - corner[1]) * zoom[1])

    # Heading and gait differ a little from frame to frame.
    yaw = placement.heading + float(rng.normal(0, 0.15))
    viewpoint = Viewpoint(yaw, camera.pitch + float(rng.normal(0, 0.02)), camera.light)
    stride = person.stride * (0.15 if rng.random() < 0.15 else float(rng.uniform(0.8, 1.1)))
    pose = walking_pose(person, placement.phase, stride)
    height = person_height * zoom[1]
    feet = crop_point(placement.column, placement.row)
    occlusion_draw = rng.random()
    if passerby is None:
        _place_person(canvas, person, pose, viewpoint, feet=feet, height=height)
        if occlusion_draw < 0.1:
            draw_occluder(canvas, feet[1] + 0.03 * height, height, rng)
    else:
        passerby_yaw = placement.heading + float(rng.choice((0.0, np.pi)) + rng.normal(0, 0.4))
        in_front = bool(rng.random() < 0.4)
        row = placement.row + (0.05 if in_front else -0.08) * person_height
        column = placement.column + float(rng.choice((-1, 1)) * rng.uniform(0.22, 0.34)) * person_height
        passerby_pose = walking_pose(passerby, float(rng.uniform(0, 2 * np.pi)))
        if in_front:
            _place_person(canvas, person, pose, viewpoint, feet=feet, height=height)
        _place_person(
            canvas,
            passerby,
            passerby_pose,
            replace(viewpoint, yaw=passerby_yaw),
            feet=crop_point(column, row),
            height=camera.scale(row) * passerby.height * zoom[1],
        )
        if not in_front:
            _place_person(canvas, person, pose, viewpoint, feet=feet, height=height)
    return apply_camera(camera, canvas, (CROP_WIDTH, CROP_HEIGHT), rng, heading=placement.heading)
