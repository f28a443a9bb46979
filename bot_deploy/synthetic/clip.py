"""A short clip of synthetic people before several cameras: frames drawn when they are asked for, with the truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from bot_deploy.errors import InputError

from .cameras import CAMERAS, Film
from .crops import over, shadow
from .dataset import DEFAULT_TEST
from .draw import View, draw_person
from .pose import walk as pose_of
from .scenes import FOCAL, HEIGHT, WIDTH, background
from .walks import Stand, Walk, near_and_far, plan

if TYPE_CHECKING:
    from .cameras import Camera
    from .people import Person
    from .tubes import Array

Picture = npt.NDArray[np.uint8]  # RGB [H, W, 3]

_SHARP = 1.5  # how much larger than in the picture people are drawn
_SOLID = 0.5  # the opacity from which a pixel is the person's
_POSES = ((0.35, 0.8), (-0.9, 2.6), (2.8, 0.5))  # of the gallery: yaw and phase of the gait


@dataclass(frozen=True)
class Seen:
    """The truth about one person on one frame."""

    identity: int
    left: int  # pixels; the box ends at the edges of the picture, and before `right` and `bottom`
    top: int
    right: int
    bottom: int
    visible: float  # share of the person that is in the picture and behind nobody


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture, and who is on it, from far to near."""

    picture: Picture
    people: tuple[Seen, ...]


@dataclass(frozen=True, eq=False)
class Clip:
    """What `cameras` film at the same time: `frames` pictures each, `height` x `width` pixels."""

    seed: int
    cameras: tuple[Camera, ...]
    walks: tuple[Walk, ...]
    frames: int
    fps: int
    height: int

    @property
    def width(self) -> int:
        return _width(self.height)

    @property
    def people(self) -> dict[int, Person]:
        """Everybody who is seen, by identity."""
        return {walk.identity: walk.person for walk in sorted(self.walks, key=lambda walk: walk.identity)}

    def frame(self, camera: int, number: int) -> Frame:
        """Frame `number`, from 0, of `camera`, from 1: the same at every call, in any order."""
        if not (1 <= camera <= len(self.cameras) and 0 <= number < self.frames):
            raise IndexError(f"camera {camera}, frame {number}: there are {len(self.cameras)} of {self.frames} frames")
        time, seen_by = number / self.fps, self.cameras[camera - 1]
        stands = [(walk, stand) for walk in self.walks if walk.camera is seen_by and (stand := walk.at(time))]
        stands.sort(key=lambda pair: -pair[1].away)
        dice = np.random.default_rng([self.seed, camera, number])
        canvas, people = _scene(seen_by, self.height, stands)
        return Frame(_film(seen_by, self.height).develop(canvas, dice), people)


def clip(
    seed: int = 0, *, people: int = 8, cameras: int = 2, seconds: float = 20, fps: int = 25, height: int = 540
) -> Clip:
    """`people` who walk past the first `cameras` of the six cameras for `seconds`, and mostly return.

    They are those searched for in the set that `generate_dataset` writes with the same `seed`, under the same
    numbers. A frame is `height` pixels high and 16:9.

    Raises:
        InputError: what is asked for cannot be filmed.
    """
    for name, value, least, most in (
        ("people", people, 1, DEFAULT_TEST),
        ("cameras", cameras, 1, len(CAMERAS)),
        ("seconds", seconds, 0.1, 3600),
        ("fps", fps, 1, 60),
        ("height", height, 180, 1080),
    ):
        if not least <= value <= most:
            raise InputError(f"{name} is {value}; choose {least} to {most}")
    if seed < 0:
        raise InputError(f"seed is {seed}; choose one from 0")
    if height % 2:
        raise InputError(f"height is {height}; a video needs an even one")
    walks = tuple(plan(seed, people, cameras, seconds))
    return Clip(seed, CAMERAS[:cameras], walks, max(1, round(seconds * fps)), fps, height)


def portraits(clip: Clip, identity: int) -> list[Picture]:
    """Crops of `identity` alone before the first camera: from the front, from the side, from behind."""
    camera, person = clip.cameras[0], clip.people[identity]
    near, far = near_and_far(camera)
    crops = []
    for number, (yaw, phase) in enumerate(_POSES):
        stand = Stand(0.0, near + 0.15 * (far - near), yaw, phase)
        alone = Walk(identity, person, camera, 0.0, 1.0, np.zeros((2, 2)))
        canvas, (seen,) = _scene(camera, clip.height, [(alone, stand)])
        picture = _film(camera, clip.height).develop(canvas, np.random.default_rng([clip.seed, identity, number]))
        margin = round(0.04 * (seen.bottom - seen.top))
        rows = slice(max(seen.top - margin, 0), seen.bottom + margin)
        crops.append(picture[rows, max(seen.left - margin, 0) : seen.right + margin])
    return crops


def _width(height: int) -> int:
    return 2 * round(height * WIDTH / HEIGHT / 2)


@lru_cache(maxsize=len(CAMERAS))
def _empty(camera: Camera, height: int) -> Array:
    """The scene without people: RGB [H, W, 3] in 0..1; not to be written to."""
    way = cv2.INTER_AREA if height < HEIGHT else cv2.INTER_CUBIC
    scene = np.asarray(cv2.resize(background(camera), (_width(height), height), interpolation=way), dtype=np.float32)
    scene /= np.float32(255)
    scene.flags.writeable = False
    return scene


@lru_cache(maxsize=len(CAMERAS))
def _film(camera: Camera, height: int) -> Film:
    return Film(camera, (height, _width(height)), height / HEIGHT)


@dataclass(frozen=True, eq=False)
class _Sprite:
    """A person cut out: premultiplied RGBA [h, w, 4] and where its upper left lies in the picture (x, y)."""

    picture: Array
    corner: tuple[int, int]


def _sprite(person: Person, stand: Stand, view: View, feet: tuple[float, float], height: float) -> _Sprite:
    """`person`, `height` pixels tall; drawn larger and put down between the pixels, so that nobody jerks."""
    large, origin = draw_person(person, pose_of(person, stand.phase), view, height * _SHARP)
    x, y = int(feet[0] - origin[0] / _SHARP) - 1, int(feet[1] - origin[1] / _SHARP) - 1
    shift = [(0.5 - at) / _SHARP + to - corner - 0.5 for at, to, corner in zip(origin, feet, (x, y), strict=True)]
    matrix = np.array(((1 / _SHARP, 0, shift[0]), (0, 1 / _SHARP, shift[1])))
    size = int(large.shape[1] / _SHARP) + 3, int(large.shape[0] / _SHARP) + 3
    return _Sprite(np.asarray(cv2.warpAffine(large, matrix, size), dtype=np.float32), (x, y))


def _scene(camera: Camera, height: int, stands: list[tuple[Walk, Stand]]) -> tuple[Array, tuple[Seen, ...]]:
    """Everybody of `stands`, from far to near, before `camera`: RGB [H, W, 3] in 0..1, and the truth."""
    canvas = _empty(camera, height).copy()
    zoom = height / HEIGHT
    sprites = []
    for walk, stand in stands:
        scale = FOCAL / stand.away * zoom
        feet = _width(height) / 2 + stand.right * scale, (camera.horizon * zoom + camera.above_ground * scale)
        tall = walk.person.height * scale
        view = View(stand.yaw, camera.pitch, camera.light)
        for reach in (1.0, 0.5):  # darker where they stand
            shadow(canvas, feet, reach * tall, view)
        sprites.append(_sprite(walk.person, stand, view, feet, tall))
    for sprite in sprites:
        over(canvas, sprite.picture, sprite.corner)
    covered = np.zeros(canvas.shape[:2], dtype=np.bool_)
    people = []
    for (walk, _), sprite in zip(reversed(stands), reversed(sprites), strict=True):
        seen = _truth(walk.identity, sprite, covered)
        if seen:
            people.append(seen)
    return canvas, tuple(reversed(people))


def _truth(identity: int, sprite: _Sprite, covered: npt.NDArray[np.bool_]) -> Seen | None:
    """What `covered` [H, W], by whoever is nearer, leaves of a person, who then covers it too; None outside."""
    solid = sprite.picture[:, :, 3] > _SOLID
    (height, width), (x, y) = covered.shape, sprite.corner
    left, top = max(x, 0), max(y, 0)
    inside = solid[top - y : max(height - y, 0), left - x : max(width - x, 0)]
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return None
    hidden = covered[top : top + inside.shape[0], left : left + inside.shape[1]]
    visible = float((inside & ~hidden).sum() / solid.sum())
    hidden |= inside
    return Seen(
        identity,
        left=left + int(columns[0]),
        top=top + int(rows[0]),
        right=left + int(columns[-1]) + 1,
        bottom=top + int(rows[-1]) + 1,
        visible=visible,
    )
