"""A clip of synthetic people: frames of several cameras, rendered on demand with their ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from bot_deploy.errors import InputError

from .backgrounds import FOCAL_LENGTH_PX, SCENE_HEIGHT_PX, SCENE_WIDTH_PX, render_background
from .body import SUPERSAMPLING, Viewpoint, draw_person
from .cameras import CAMERAS, CameraResponse
from .compositing import alpha_composite, draw_shadow
from .dataset_plan import DEFAULT_TEST_IDENTITIES
from .pose import walking_pose
from .trajectories import GroundPlacement, Trajectory, plan_trajectories, walking_distances

if TYPE_CHECKING:
    from .appearance import Person
    from .cameras import Camera
    from .primitives import Float32Array

RgbImage = npt.NDArray[np.uint8]  # [H, W, 3]

_EXPOSURE_STOPS = 0.7  # greatest change of the light, where it changes: from 0.6 to 1.6 times as bright
_WARMTH = 0.12  # greatest change of red against blue
_EXPOSURE_PERIOD_S = 37.0
_WARMTH_PERIOD_S = 53.0
_MIN_OPACITY = 0.5  # of a pixel that counts as part of the person
_GALLERY_VIEWS = ((0.35, 0.8), (-0.9, 2.6), (2.8, 0.5))  # (yaw, gait phase) of each gallery crop


@dataclass(frozen=True)
class VisiblePerson:
    """Ground truth for one person on one frame. The box is in pixels, and ends before `right` and `bottom`."""

    identity: int
    left: int  # the box covers the whole person, and is cut at the edges of the frame
    top: int
    right: int
    bottom: int
    visible: float  # fraction of the person that is inside the frame and not occluded by other people


@dataclass(frozen=True, eq=False)
class RenderedFrame:
    """One frame of one camera, and the people on it from far to near."""

    picture: RgbImage
    people: tuple[VisiblePerson, ...]


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip of several cameras that film at the same time: `frames` frames each, `height` x `width` pixels."""

    seed: int
    cameras: tuple[Camera, ...]
    trajectories: tuple[Trajectory, ...]
    frames: int
    fps: int
    height: int
    changing_light: bool = False  # else it is the same at all times

    @property
    def width(self) -> int:
        return _frame_width(self.height)

    @property
    def people(self) -> dict[int, Person]:
        """The people of the clip by identity."""
        trajectories = sorted(self.trajectories, key=lambda trajectory: trajectory.identity)
        return {trajectory.identity: trajectory.person for trajectory in trajectories}

    def render_frame(self, camera: int, number: int) -> RenderedFrame:
        """Render frame `number` (from 0) of camera number `camera` (from 1); the same at every call, in any order.

        Raises:
            IndexError: there is no such camera or frame.
        """
        if not (1 <= camera <= len(self.cameras) and 0 <= number < self.frames):
            raise IndexError(
                f"camera {camera}, frame {number}: the clip has {len(self.cameras)} cameras and {self.frames} frames"
            )
        time, view = number / self.fps, self.cameras[camera - 1]
        placements = [
            (trajectory, placement)
            for trajectory in self.trajectories
            if trajectory.camera is view and (placement := trajectory.placement_at(time))
        ]
        placements.sort(key=lambda pair: -pair[1].away)
        canvas, people = _render_people(view, self.height, placements)
        if self.changing_light:
            canvas *= light_at(camera, time)
        rng = np.random.default_rng([self.seed, camera, number])
        return RenderedFrame(_camera_response(view, self.height).apply(canvas, rng), people)


def plan_clip(
    seed: int = 0,
    *,
    people: int = 8,
    cameras: int = 2,
    seconds: float = 20,
    fps: int = 25,
    height: int = 540,
    groups: float = 0.0,
    changing_light: bool = False,
) -> Clip:
    """Plan a clip: `people` walk past the first `cameras` of the six cameras for `seconds`, most of them repeatedly.

    They are test identities of the data set that `generate_dataset` writes with the same `seed`, with the same
    numbers. A frame is `height` pixels high and 16:9. `groups` is the share of people who walk in twos and threes.
    With `changing_light`, each camera's light changes in brightness and colour, so that people return in another one.

    Raises:
        InputError: a number is outside its limits, or `height` is odd.
    """
    for name, value, minimum, maximum in (
        ("people", people, 1, DEFAULT_TEST_IDENTITIES),
        ("cameras", cameras, 1, len(CAMERAS)),
        ("seconds", seconds, 0.1, 3600),
        ("fps", fps, 1, 60),
        ("height", height, 180, 1080),
        ("groups", groups, 0, 1),
    ):
        if not minimum <= value <= maximum:
            raise InputError(f"{name} is {value}; choose {minimum} to {maximum}", parameter=name)
    if seed < 0:
        raise InputError(f"seed is {seed}; choose 0 or more", parameter="seed")
    if height % 2:
        raise InputError(f"height is {height}; choose an even number, as video files need", parameter="height")
    trajectories = tuple(plan_trajectories(seed, people, cameras, seconds, groups))
    return Clip(seed, CAMERAS[:cameras], trajectories, max(1, round(seconds * fps)), fps, height, changing_light)


def light_at(camera: int, time: float) -> Float32Array:
    """Brightness of red, green and blue, at `time` seconds, where the light changes; each camera has its own course."""
    exposure = 2.0 ** (_EXPOSURE_STOPS * np.sin(2 * np.pi * (time / _EXPOSURE_PERIOD_S + 0.37 * camera)))
    warmth = _WARMTH * np.sin(2 * np.pi * (time / _WARMTH_PERIOD_S + 0.61 * camera))
    return np.asarray(exposure * np.array((1 + warmth, 1, 1 - warmth)), dtype=np.float32)


def gallery_crops(clip: Clip, identity: int) -> list[RgbImage]:
    """Crops of `identity` alone in the first camera: from the front, from the side, from behind."""
    camera, person = clip.cameras[0], clip.people[identity]
    near, far = walking_distances(camera)
    crops = []
    for number, (yaw, phase) in enumerate(_GALLERY_VIEWS):
        placement = GroundPlacement(0.0, near + 0.15 * (far - near), yaw, phase)
        alone = Trajectory(identity, person, camera, 0.0, 1.0, np.zeros((2, 2)))
        canvas, (box,) = _render_people(camera, clip.height, [(alone, placement)])
        rng = np.random.default_rng([clip.seed, identity, number])
        picture = _camera_response(camera, clip.height).apply(canvas, rng)
        margin = round(0.04 * (box.bottom - box.top))
        rows = slice(max(box.top - margin, 0), box.bottom + margin)
        crops.append(picture[rows, max(box.left - margin, 0) : box.right + margin])
    return crops


def _frame_width(height: int) -> int:
    return 2 * round(height * SCENE_WIDTH_PX / SCENE_HEIGHT_PX / 2)


@lru_cache(maxsize=len(CAMERAS))
def _resized_background(camera: Camera, height: int) -> Float32Array:
    """The background of `camera` at the size of a frame: RGB [H, W, 3] in 0..1, read-only."""
    interpolation = cv2.INTER_AREA if height < SCENE_HEIGHT_PX else cv2.INTER_CUBIC
    size = (_frame_width(height), height)
    background = np.asarray(cv2.resize(render_background(camera), size, interpolation=interpolation), dtype=np.float32)
    background /= np.float32(255)
    background.flags.writeable = False
    return background


@lru_cache(maxsize=len(CAMERAS))
def _camera_response(camera: Camera, height: int) -> CameraResponse:
    return CameraResponse(camera, (height, _frame_width(height)), height / SCENE_HEIGHT_PX)


@dataclass(frozen=True, eq=False)
class _Sprite:
    """A drawn person: premultiplied RGBA [h, w, 4], and its upper left corner (x, y) on the frame."""

    picture: Float32Array
    corner: tuple[int, int]


def _draw_sprite(
    person: Person, placement: GroundPlacement, viewpoint: Viewpoint, feet: tuple[float, float], height: float
) -> _Sprite:
    """Draw `person`, `height` pixels tall, with the feet at `feet` (x, y).

    The person is drawn larger, then resized with a subpixel shift, so that people move smoothly.
    """
    pose = walking_pose(person, placement.phase)
    large, origin = draw_person(person, pose, viewpoint, height * SUPERSAMPLING)
    x, y = int(feet[0] - origin[0] / SUPERSAMPLING) - 1, int(feet[1] - origin[1] / SUPERSAMPLING) - 1
    shift = [
        (0.5 - source) / SUPERSAMPLING + target - corner - 0.5
        for source, target, corner in zip(origin, feet, (x, y), strict=True)
    ]
    matrix = np.array(((1 / SUPERSAMPLING, 0, shift[0]), (0, 1 / SUPERSAMPLING, shift[1])))
    size = int(large.shape[1] / SUPERSAMPLING) + 3, int(large.shape[0] / SUPERSAMPLING) + 3
    return _Sprite(np.asarray(cv2.warpAffine(large, matrix, size), dtype=np.float32), (x, y))


def _render_people(
    camera: Camera, height: int, placements: list[tuple[Trajectory, GroundPlacement]]
) -> tuple[Float32Array, tuple[VisiblePerson, ...]]:
    """Render people, given from far to near, over the background: RGB [H, W, 3] in 0..1, and the ground truth."""
    canvas = _resized_background(camera, height).copy()
    zoom = height / SCENE_HEIGHT_PX
    sprites = []
    for trajectory, placement in placements:
        scale = FOCAL_LENGTH_PX / placement.away * zoom
        feet = (
            _frame_width(height) / 2 + placement.right * scale,
            camera.horizon_row * zoom + camera.height_m * scale,
        )
        person_height = trajectory.person.height * scale
        viewpoint = Viewpoint(placement.yaw, camera.pitch, camera.light)
        for shadow_size in (1.0, 0.5):  # two shadows, so that the ground is darkest at the feet
            draw_shadow(canvas, feet, shadow_size * person_height, viewpoint)
        sprites.append(_draw_sprite(trajectory.person, placement, viewpoint, feet, person_height))
    for sprite in sprites:
        alpha_composite(canvas, sprite.picture, sprite.corner)
    occluded = np.zeros(canvas.shape[:2], dtype=np.bool_)
    people = []
    for (trajectory, _), sprite in zip(reversed(placements), reversed(sprites), strict=True):
        visible_person = _locate_person(trajectory.identity, sprite, occluded)
        if visible_person:
            people.append(visible_person)
    return canvas, tuple(reversed(people))


def _locate_person(identity: int, sprite: _Sprite, occluded: npt.NDArray[np.bool_]) -> VisiblePerson | None:
    """Box and visibility of the person of `sprite`; None outside the frame.

    `occluded` [H, W] marks the pixels of nearer people; the pixels of this person are added to it.
    """
    solid = sprite.picture[:, :, 3] > _MIN_OPACITY
    (height, width), (x, y) = occluded.shape, sprite.corner
    left, top = max(x, 0), max(y, 0)
    inside = solid[top - y : max(height - y, 0), left - x : max(width - x, 0)]
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return None
    hidden = occluded[top : top + inside.shape[0], left : left + inside.shape[1]]
    visible = float((inside & ~hidden).sum() / solid.sum())
    hidden |= inside
    return VisiblePerson(
        identity,
        left=left + int(columns[0]),
        top=top + int(rows[0]),
        right=left + int(columns[-1]) + 1,
        bottom=top + int(rows[-1]) + 1,
        visible=visible,
    )
