"""Who walks before which camera, and when: the plan of a clip, in metres and seconds."""
# ruff: noqa: PLR2004 - measures and odds read best in place

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .cameras import CAMERAS
from .dataset import DEFAULT_TEST, DEFAULT_TRAIN, cast
from .scenes import FOCAL, HEIGHT, WIDTH

if TYPE_CHECKING:
    from .cameras import Camera
    from .people import Person

Points = npt.NDArray[np.float64]  # metres: to the right of the camera, away from it

_WALKS = 500_000  # the dice of walks; those of crops have smaller numbers
_STEP = 0.1  # metres between two points of a path
_TRIES = 16  # paths drawn to find one that keeps clear of the others


@dataclass(frozen=True)
class Stand:
    """Where somebody is at one moment: metres to the right of the camera and away from it, angles in radians."""

    right: float
    away: float
    yaw: float  # as the camera sees it: 0 comes towards it, pi/2 walks to the right
    phase: float  # of the gait


@dataclass(frozen=True, eq=False)
class Walk:
    """One passage of one person: in at one side of the picture, out at one."""

    identity: int
    person: Person
    camera: Camera
    start: float  # seconds into the clip; negative for who is already there
    speed: float  # metres per second
    path: Points  # [N, 2], `_STEP` apart

    @property
    def end(self) -> float:
        """When they are out of the picture again, in seconds into the clip."""
        return self.start + (len(self.path) - 1) * _STEP / self.speed

    def at(self, time: float) -> Stand | None:
        """Where the person is `time` seconds into the clip; None before and after the passage."""
        if not self.start <= time <= self.end:
            return None
        gone = (time - self.start) * self.speed
        right, away = self._point(gone)
        # The heading over two thirds of a step: nobody turns on the spot.
        ahead, behind = self._point(gone + 0.25), self._point(gone - 0.25)
        heading = np.arctan2(ahead[0] - behind[0], behind[1] - ahead[1])
        # A full cycle carries the body as far as both legs swing, so that the feet do not slide.
        cycle = 4 * np.sin(0.4 * self.person.stride) * 0.49 * self.person.height
        phase = self.person.texture + 2 * np.pi * gone / cycle  # not all are in step
        return Stand(float(right), float(away), float(heading + np.arctan2(right, away)), float(phase))

    def _point(self, gone: float) -> Points:
        place = np.clip(gone / _STEP, 0, len(self.path) - 1.001)
        step = int(place)
        return np.asarray(self.path[step] + (place - step) * (self.path[step + 1] - self.path[step]))


def choose(seed: int, count: int) -> list[tuple[int, Person]]:
    """Number and looks of `count` of the people searched for in the default set of `seed`: none to train on.

    First comes one of each group in the same colours, then their mates.
    """
    groups: dict[object, list[tuple[int, Person]]] = {}
    for number, person in enumerate(cast(seed, 1, DEFAULT_TEST), start=DEFAULT_TRAIN + 1):
        groups.setdefault(person.palette, []).append((number, person))
    ranked = [(place, number, person) for group in groups.values() for place, (number, person) in enumerate(group)]
    return [(number, person) for _, number, person in sorted(ranked, key=lambda entry: entry[:2])][:count]


def near_and_far(camera: Camera) -> tuple[float, float]:
    """How many metres away from `camera` people walk: with their feet in the picture, not along the wall."""
    near = FOCAL * camera.above_ground / (HEIGHT - 15 - camera.horizon)
    wall = FOCAL * camera.above_ground / (camera.wall - camera.horizon)
    return near, min(0.8 * wall, near + 3.8)


def _path(camera: Camera, rng: np.random.Generator) -> Points:
    """From one side of the picture to the same or the other one, far at one end and near at the other."""
    near, far = near_and_far(camera)
    depths = rng.uniform((near, near + 0.55 * (far - near)), (near + 0.3 * (far - near), far))
    sides = np.array((1.0, 1.0 if rng.random() < 0.3 else -1.0)) * rng.choice((-1, 1))
    out = sides * (depths * WIDTH / 2 / FOCAL + 0.9)
    middle = rng.uniform(-0.3, 0.3, 2) * depths * WIDTH / 2 / FOCAL
    points = ((out[0], depths[0]), (middle[0], depths[0]), (middle[1], depths[1]), (out[1], depths[1]))
    t = np.linspace(0, 1, 400)[:, None]
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    curve = np.sum([weight * point for weight, point in zip(weights, np.array(points), strict=True)], axis=0)
    if rng.random() < 0.5:
        curve = curve[::-1]
    gone = np.concatenate(((0.0,), np.cumsum(np.hypot(*np.diff(curve, axis=0).T))))
    even = np.arange(0, gone[-1], _STEP)
    return np.stack([np.interp(even, gone, column) for column in curve.T], axis=1)


def _clearance(walk: Walk, others: list[Walk]) -> float:
    """How close `walk` comes to those of `others` before the same camera, in metres."""
    closest = np.inf
    for time in np.arange(walk.start, walk.end, 0.25):
        here = walk.at(float(time))
        for other in others:
            there = other.at(float(time)) if other.camera is walk.camera else None
            if here and there:
                closest = min(closest, float(np.hypot(here.right - there.right, here.away - there.away)))
    return float(closest)


def plan(seed: int, people: int, cameras: int, seconds: float) -> list[Walk]:
    """The passages of `people` before the first `cameras` cameras within `seconds`; everybody returns, if in time.

    A person goes on to the next camera, or now and then past the same one again. Some are there from the beginning.
    """
    walks: list[Walk] = []
    starts = np.random.default_rng([seed, _WALKS]).permutation(people)
    for index, (identity, person) in enumerate(choose(seed, people)):
        rng = np.random.default_rng([seed, _WALKS, identity])
        time = float(-5 + min(11, 5 + 0.8 * seconds) * (starts[index] + rng.random()) / people)
        visit = index
        while time < seconds:
            speed = float(rng.uniform(1.15, 1.35) * person.stride**0.5)
            camera = CAMERAS[visit % cameras]
            tries = [Walk(identity, person, camera, time, speed, _path(camera, rng)) for _ in range(_TRIES)]
            walk = max(tries, key=lambda walk: min(_clearance(walk, walks), 1.0))
            walks.append(walk)
            time = walk.end + float(rng.uniform(0.5, 3.0))
            visit += int(rng.random() < 0.75)
    return walks
