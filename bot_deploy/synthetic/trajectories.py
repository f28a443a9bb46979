"""Plans the trajectories of a clip: the path and the time of each person past each camera, in metres and seconds."""
# ruff: noqa: PLR2004 - lengths and probabilities read best in place

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .backgrounds import FOCAL_LENGTH_PX, SCENE_HEIGHT_PX, SCENE_WIDTH_PX
from .cameras import CAMERAS
from .dataset_plan import DEFAULT_TEST_IDENTITIES, DEFAULT_TRAIN_IDENTITIES, TEST_PEOPLE, sample_people

if TYPE_CHECKING:
    from .appearance import Person
    from .cameras import Camera

GroundPath = npt.NDArray[np.float64]  # [N, 2] in metres: to the right of the camera, away from the camera

_TRAJECTORIES = 500_000  # number in the seeds of random generators; the numbers in dataset_plan.py are smaller
_PATH_STEP_M = 0.1  # distance between two points of a path
_PATH_CANDIDATES = 16  # random paths; the one farthest from other people is used
_GROUP_SIZES = (2, 3)  # in turns
_SHOULDER_M = 0.55  # between two people who walk side by side
_LAG_S = 0.15  # of each person in a group behind the one beside
_STEPS_MORE = 4  # points of the path at each end, for each place farther from the camera


@dataclass(frozen=True)
class GroundPlacement:
    """Where a person is at one moment, relative to the camera: metres on the ground, and angles in radians."""

    right: float
    away: float
    yaw: float  # relative to the line of sight: at 0 the person walks towards the camera, at pi/2 to the right
    phase: float  # of the gait cycle


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The path of one person past one camera. It begins and ends outside the picture."""

    identity: int
    person: Person
    camera: Camera
    start: float  # seconds into the clip; negative if the person is in the picture from the beginning
    speed: float  # metres per second
    path: GroundPath  # points `_PATH_STEP_M` apart

    @property
    def end(self) -> float:
        """The time when the path ends, in seconds into the clip."""
        return self.start + (len(self.path) - 1) * _PATH_STEP_M / self.speed

    def placement_at(self, time: float) -> GroundPlacement | None:
        """The placement at `time` seconds into the clip; None before the start and after the end."""
        if not self.start <= time <= self.end:
            return None
        distance = (time - self.start) * self.speed
        right, away = self._point(distance)
        # The heading is taken over half a metre, so that nobody turns on the spot.
        ahead, behind = self._point(distance + 0.25), self._point(distance - 0.25)
        heading = np.arctan2(ahead[0] - behind[0], behind[1] - ahead[1])
        # A gait cycle covers the distance that both legs swing, so that the feet do not slide.
        cycle_length = 4 * np.sin(0.4 * self.person.stride) * 0.49 * self.person.height
        phase = self.person.variation + 2 * np.pi * distance / cycle_length  # not everyone is in step
        return GroundPlacement(float(right), float(away), float(heading + np.arctan2(right, away)), float(phase))

    def _point(self, distance: float) -> GroundPath:
        position = np.clip(distance / _PATH_STEP_M, 0, len(self.path) - 1.001)
        step = int(position)
        return np.asarray(self.path[step] + (position - step) * (self.path[step + 1] - self.path[step]))


def select_people(seed: int, count: int) -> list[tuple[int, Person]]:
    """Select `count` test identities of the default data set with `seed`, as (identity, person).

    The first ones have different colours: one person of each group in the same colours, then the next of each group.
    """
    groups: dict[object, list[tuple[int, Person]]] = {}
    test_people = sample_people(seed, TEST_PEOPLE, DEFAULT_TEST_IDENTITIES)
    for identity, person in enumerate(test_people, start=DEFAULT_TRAIN_IDENTITIES + 1):
        groups.setdefault(person.palette, []).append((identity, person))
    ranked = [(rank, identity, person) for group in groups.values() for rank, (identity, person) in enumerate(group)]
    return [(identity, person) for _, identity, person in sorted(ranked, key=lambda entry: entry[:2])][:count]


def walking_distances(camera: Camera) -> tuple[float, float]:
    """The nearest and farthest distance from `camera` in metres where people walk: feet in view, away from the wall."""
    near = FOCAL_LENGTH_PX * camera.height_m / (SCENE_HEIGHT_PX - 15 - camera.horizon_row)
    wall = FOCAL_LENGTH_PX * camera.height_m / (camera.wall_row - camera.horizon_row)
    return near, min(0.8 * wall, near + 3.8)


def _sample_path(camera: Camera, rng: np.random.Generator) -> GroundPath:
    """Sample a path that is far from the camera at one end and near at the other; both ends are outside the picture."""
    near, far = walking_distances(camera)
    depths = rng.uniform((near, near + 0.55 * (far - near)), (near + 0.3 * (far - near), far))
    sides = np.array((1.0, 1.0 if rng.random() < 0.3 else -1.0)) * rng.choice((-1, 1))
    end_columns = sides * (depths * SCENE_WIDTH_PX / 2 / FOCAL_LENGTH_PX + 0.9)
    middle = rng.uniform(-0.3, 0.3, 2) * depths * SCENE_WIDTH_PX / 2 / FOCAL_LENGTH_PX
    points = ((end_columns[0], depths[0]), (middle[0], depths[0]), (middle[1], depths[1]), (end_columns[1], depths[1]))
    t = np.linspace(0, 1, 400)[:, None]
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    curve = np.sum([weight * point for weight, point in zip(weights, np.array(points), strict=True)], axis=0)
    if rng.random() < 0.5:
        curve = curve[::-1]
    distance = np.concatenate(((0.0,), np.cumsum(np.hypot(*np.diff(curve, axis=0).T))))
    even_distances = np.arange(0, distance[-1], _PATH_STEP_M)
    return np.stack([np.interp(even_distances, distance, column) for column in curve.T], axis=1)


def _clearance(trajectory: Trajectory, others: list[Trajectory]) -> float:
    """The smallest distance in metres between `trajectory` and the `others` past the same camera."""
    closest = np.inf
    for time in np.arange(trajectory.start, trajectory.end, 0.25):
        placement = trajectory.placement_at(float(time))
        for other in others:
            other_placement = other.placement_at(float(time)) if other.camera is trajectory.camera else None
            if placement and other_placement:
                right, away = placement.right - other_placement.right, placement.away - other_placement.away
                closest = min(closest, float(np.hypot(right, away)))
    return float(closest)


def plan_groups(people: int, share: float) -> list[range]:
    """The numbers from 0 to `people` - 1 in groups: `share` of them in twos and threes, the others alone."""
    groups: list[range] = []
    first, together = 0, round(share * people)
    while first < people:
        size = min(_GROUP_SIZES[len(groups) % len(_GROUP_SIZES)], together - first)
        groups.append(range(first, first + max(size, 1)))
        first = groups[-1].stop
    return groups


def walk_beside(leader: Trajectory, identity: int, person: Person, place: int) -> Trajectory:
    """The trajectory of `person` beside `leader`, on the side that is farther from the camera; `place` from 1."""
    heading = np.gradient(leader.path, axis=0)
    sideways = heading[:, ::-1] * (-1, 1) / np.hypot(*heading.T)[:, None]
    if sideways[:, 1].mean() < 0:
        sideways = -sideways
    path = leader.path + place * _SHOULDER_M * sideways
    # The picture is wider there, so the path goes straight on at both ends until it is outside.
    steps = np.arange(1, place * _STEPS_MORE + 1)[:, None]
    path = np.concatenate((path[0] - steps[::-1] * heading[0], path, path[-1] + steps * heading[-1]))
    start = leader.start + place * _LAG_S - len(steps) * _PATH_STEP_M / leader.speed
    return Trajectory(identity, person, leader.camera, start, leader.speed, path)


def plan_trajectories(seed: int, people: int, cameras: int, seconds: float, groups: float = 0.0) -> list[Trajectory]:
    """Plan the trajectories of `people` past the first `cameras` cameras within `seconds`.

    After one camera a person goes to the next camera, or sometimes past the same one again, as long as time is left.
    Some people are in the picture from the beginning. `groups` is the share of people who walk in twos and threes.
    """
    trajectories: list[Trajectory] = []
    ranks = np.random.default_rng([seed, _TRAJECTORIES]).permutation(people)
    selected = select_people(seed, people)
    for group in plan_groups(people, groups):
        index = group[0]
        identity, person = selected[index]
        rng = np.random.default_rng([seed, _TRAJECTORIES, identity])
        time = float(-5 + min(11, 5 + 0.8 * seconds) * (ranks[index] + rng.random()) / people)
        visit = index
        while time < seconds:
            speed = float(rng.uniform(1.15, 1.35) * person.stride**0.5)
            camera = CAMERAS[visit % cameras]
            candidates = [
                Trajectory(identity, person, camera, time, speed, _sample_path(camera, rng))
                for _ in range(_PATH_CANDIDATES)
            ]
            trajectory = max(candidates, key=lambda candidate: min(_clearance(candidate, trajectories), 1.0))
            trajectories.append(trajectory)
            trajectories += [
                walk_beside(trajectory, *selected[other], place) for place, other in enumerate(group[1:], 1)
            ]
            time = trajectories[-1].end + float(rng.uniform(0.5, 3.0))
            visit += int(rng.random() < 0.75)
    return trajectories
