"""Where the joints of a walking person are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .people import Person

Point = npt.NDArray[np.float64]  # [3]: x to the person's left, y up from the ground, z forward; metres


@dataclass(frozen=True)
class Limb:
    """The three joints of an arm or a leg, and where its hand or toe ends."""

    root: Point
    middle: Point
    end: Point
    tip: Point


@dataclass(frozen=True)
class Pose:
    """Joints of one person in body coordinates; limbs are ordered side -1, then side 1."""

    pelvis: Point
    neck: Point
    head: Point
    arms: tuple[Limb, Limb]
    legs: tuple[Limb, Limb]


def _point(x: float, y: float, z: float) -> Point:
    return np.array((x, y, z), dtype=np.float64)


def _swing(angle: float, length: float, outward: float = 0.0) -> Point:
    """The step along a bone that hangs down, turned forward by `angle` radians."""
    return _point(outward * length, -np.cos(angle) * length, np.sin(angle) * length)


def _leg(person: Person, side: int, phase: float, stride: float) -> Limb:
    tall = person.height
    phase = phase % (2 * np.pi)
    forward = 0.04 + 0.40 * stride * np.cos(phase)
    # The knee bends most while the leg swings forward again (phase pi to 2 pi).
    knee = 0.06 + stride * (
        0.16 * np.exp(-(((phase - 0.6) / 0.5) ** 2)) + 0.95 * np.exp(-(((phase - 4.35) / 0.75) ** 2))
    )
    pitch = stride * (0.25 * np.cos(phase / 2) ** 8 - 0.75 * np.exp(-(((phase - 3.7) / 0.6) ** 2)))
    hip = _point(side * 0.048 * tall * person.hips, 0.515 * tall, 0.0)
    bend = hip + _swing(forward, 0.245 * tall, -side * 0.03)
    ankle = bend + _swing(forward - knee, 0.225 * tall, -side * 0.02)
    toe = ankle + _point(side * 0.022 * tall, tall * (0.085 * np.sin(pitch) - 0.022), tall * 0.085 * np.cos(pitch))
    return Limb(hip, bend, ankle, toe)


def _arm(person: Person, side: int, phase: float, stride: float) -> Limb:
    tall = person.height
    carries = person.bag in ("handbag", "tote") and side == person.bag_side
    reach = (0.25 if carries else 1.0) * stride
    forward = 0.02 - 0.42 * reach * np.cos(phase)
    elbow = 0.16 + 0.35 * reach * max(0.0, np.sin(forward) + 0.2)
    if person.bag == "tote" and carries:
        elbow, forward = 1.5, -0.25
    shoulder = _point(side * 0.1 * tall * person.shoulders * (0.92 + 0.08 * person.build), 0.79 * tall, -0.05 * forward)
    bend = shoulder + _swing(forward, 0.16 * tall, side * 0.17)
    wrist = bend + _swing(forward + elbow, 0.145 * tall, side * 0.04)
    hand = wrist + _swing(forward + elbow + 0.1, 0.04 * tall, 0.0)
    return Limb(shoulder, bend, wrist, hand)


def walk(person: Person, phase: float, stride: float | None = None) -> Pose:
    """The pose at `phase` radians of the gait (0: the leg of side 1 strikes the ground); stride 0 stands still."""
    stride = person.stride if stride is None else stride
    tall = person.height
    legs = (_leg(person, -1, phase + np.pi, stride), _leg(person, 1, phase, stride))
    lowest = min(min(leg.end[1] - 0.042 * tall, leg.tip[1] - 0.02 * tall) for leg in legs)
    drop = _point(0.0, -lowest, 0.0)

    def ground(limb: Limb) -> Limb:
        return Limb(limb.root + drop, limb.middle + drop, limb.end + drop, limb.tip + drop)

    arms = (_arm(person, -1, phase + np.pi, stride), _arm(person, 1, phase, stride))
    lean = 0.012 * tall * stride
    return Pose(
        pelvis=_point(0.0, 0.5 * tall, 0.0) + drop,
        neck=_point(0.0, 0.835 * tall, lean) + drop,
        head=_point(0.0, 0.925 * tall, lean + 0.012 * tall) + drop,
        arms=(ground(arms[0]), ground(arms[1])),
        legs=(ground(legs[0]), ground(legs[1])),
    )
