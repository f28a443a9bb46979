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


@dataclass(frozen=True, eq=False)
class _CropBox:
    """The box of a crop in the scene, and the scale of the canvas on which the crop is drawn."""

    corner: npt.NDArray[np.float64]  # upper left (x, y) in scene pixels
    zoom: npt.NDArray[np.float64]  # canvas pixels per scene pixel (x, y)

    def canvas_point(self, column: float, row: float) -> tuple[float, float]:
        """The position of a scene point on the canvas (x, y)."""
        return float((column - self.corner[0]) * self.zoom[0]), float((row - self.corner[1]) * self.zoom[1])


def _sample_box(
    camera: Camera, placement: ScenePlacement, person_height: float, rng: np.random.Generator, *, junk: bool
) -> _CropBox:
    """A detector's box around a person of `person_height` scene pixels, with the errors of a detector."""
    stretch = 1 + camera.box_margin + float(abs(rng.normal(0, 0.05)))
    size = np.array((0.5 * stretch * person_height, stretch * person_height)) * rng.uniform(0.95, 1.06, 2)
    centre = np.array((placement.column, placement.row - 0.49 * person_height))
    centre = centre + rng.normal(0, (0.035, 0.03)) * person_height
    if rng.random() < 0.12:
        # A box that cuts the feet or the head off.
        size[1] *= 0.8
        centre[1] += rng.choice((-0.12, 0.1)) * person_height
    if junk:
        centre += rng.choice((-1, 1), 2) * rng.uniform((0.25, 0.3), (0.45, 0.6)) * person_height
        size *= rng.uniform(0.5, 1.1)
    return _CropBox(corner=centre - size / 2, zoom=np.array((CROP_WIDTH, CROP_HEIGHT)) * SUPERSAMPLING / size)


def _warp_background(camera: Camera, box: _CropBox) -> Float32Array:
    """The part of the scene in `box`, as a canvas: RGB [H, W, 3] in 0..1."""
    (x, y), (zoom_x, zoom_y) = box.corner, box.zoom
    matrix = np.array(((zoom_x, 0, -x * zoom_x), (0, zoom_y, -y * zoom_y)))
    size = (int(CROP_WIDTH * SUPERSAMPLING), int(CROP_HEIGHT * SUPERSAMPLING))
    interpolation = cv2.INTER_AREA if zoom_y < 1 else cv2.INTER_LINEAR
    background = cv2.warpAffine(
        render_background(camera), matrix, size, flags=interpolation, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(background, dtype=np.float32) / np.float32(255)


@dataclass(frozen=True, eq=False)
class _PosedPerson:
    """A person to draw on a canvas."""

    person: Person
    pose: Pose
    viewpoint: Viewpoint
    feet: tuple[float, float]  # (x, y) on the canvas
    height: float  # canvas pixels

    def draw(self, canvas: Float32Array) -> None:
        """Draws the shadow and the person into RGB `canvas`."""
        draw_shadow(canvas, self.feet, self.height, self.viewpoint)
        picture, origin = draw_person(self.person, self.pose, self.viewpoint, self.height)
        alpha_composite(canvas, picture, (round(self.feet[0] - origin[0]), round(self.feet[1] - origin[1])))


def _sample_passerby(
    passerby: Person,
    camera: Camera,
    placement: ScenePlacement,
    viewpoint: Viewpoint,
    box: _CropBox,
    person_height: float,
    rng: np.random.Generator,
) -> tuple[_PosedPerson, bool]:
    """The passer-by beside a person of `person_height` scene pixels, and whether the passer-by is in front."""
    yaw = placement.heading + float(rng.choice((0.0, np.pi)) + rng.normal(0, 0.4))
    in_front = bool(rng.random() < 0.4)
    row = placement.row + (0.05 if in_front else -0.08) * person_height
    column = placement.column + float(rng.choice((-1, 1)) * rng.uniform(0.22, 0.34)) * person_height
    pose = walking_pose(passerby, float(rng.uniform(0, 2 * np.pi)))
    height = camera.scale(row) * passerby.height * box.zoom[1]
    posed = _PosedPerson(passerby, pose, replace(viewpoint, yaw=yaw), box.canvas_point(column, row), height)
    return posed, in_front


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
    box = _sample_box(camera, placement, person_height, rng, junk=junk)
    canvas = _warp_background(camera, box)
    # Heading and gait differ a little from frame to frame.
    yaw = placement.heading + float(rng.normal(0, 0.15))
    viewpoint = Viewpoint(yaw, camera.pitch + float(rng.normal(0, 0.02)), camera.light)
    stride = person.stride * (0.15 if rng.random() < 0.15 else float(rng.uniform(0.8, 1.1)))
    posed = _PosedPerson(
        person,
        walking_pose(person, placement.phase, stride),
        viewpoint,
        feet=box.canvas_point(placement.column, placement.row),
        height=person_height * box.zoom[1],
    )
    occlusion_draw = rng.random()
    if passerby is None:
        posed.draw(canvas)
        if occlusion_draw < 0.1:
            draw_occluder(canvas, posed.feet[1] + 0.03 * posed.height, posed.height, rng)
    else:
        posed_passerby, in_front = _sample_passerby(passerby, camera, placement, viewpoint, box, person_height, rng)
        for drawn in (posed, posed_passerby) if in_front else (posed_passerby, posed):
            drawn.draw(canvas)
    return apply_camera(camera, canvas, (CROP_WIDTH, CROP_HEIGHT), rng, heading=placement.heading)
