"""Poses: the joint positions of a walking person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .appearance import Person

Point = npt.NDArray[np.float64]  # [3]: x to the person's left, y up from the ground, z forward; metres


@dataclass(frozen=True)
class Limb:
    """An arm or a leg: its three joints, and the end of the hand or the toes."""

    root: Point  # shoulder or hip
    middle: Point  # elbow or knee
    end: Point  # wrist or ankle
    tip: Point  # end of the hand or the toes


@dataclass(frozen=True)
class Pose:
    """Joint positions in body coordinates. Pairs of limbs have side -1 first, then side 1."""

    pelvis: Point
    neck: Point
    head: Point
    arms: tuple[Limb, Limb]
    legs: tuple[Limb, Limb]


def body_point(x: float, y: float, z: float) -> Point:
    """A point or a vector in the coordinates of the body."""
    return np.array((x, y, z), dtype=np.float64)


def _bone(angle: float, length: float, outward: float = 0.0) -> Point:
    """The vector along a bone of `length` metres that hangs down, swung forward by `angle` radians."""
    return body_point(outward * length, -np.cos(angle) * length, np.sin(angle) * length)


def _pose_leg(person: Person, side: int, phase: float, stride: float) -> Limb:
    height = person.height
    phase = phase % (2 * np.pi)
    forward = 0.04 + 0.40 * stride * np.cos(phase)
    # The knee bends most while the leg swings forward (phase pi to 2 pi).
    knee_bend = 0.06 + stride * (
        0.16 * np.exp(-(((phase - 0.6) / 0.5) ** 2)) + 0.95 * np.exp(-(((phase - 4.35) / 0.75) ** 2))
    )
    foot_pitch = stride * (0.25 * np.cos(phase / 2) ** 8 - 0.75 * np.exp(-(((phase - 3.7) / 0.6) ** 2)))
    hip = body_point(side * 0.048 * height * person.hips, 0.515 * height, 0.0)
    knee = hip + _bone(forward, 0.245 * height, -side * 0.03)
    ankle = knee + _bone(forward - knee_bend, 0.225 * height, -side * 0.02)
    toe = ankle + body_point(
        side * 0.022 * height, height * (0.085 * np.sin(foot_pitch) - 0.022), height * 0.085 * np.cos(foot_pitch)
    )
    return Limb(hip, knee, ankle, toe)


def _pose_arm(person: Person, side: int, phase: float, stride: float) -> Limb:
    height = person.height
    carries_bag = person.bag in ("handbag", "tote") and side == person.bag_side
    arm_swing = (0.25 if carries_bag else 1.0) * stride
    forward = 0.02 - 0.42 * arm_swing * np.cos(phase)
    elbow_bend = 0.16 + 0.35 * arm_swing * max(0.0, np.sin(forward) + 0.2)
    if person.bag == "tote" and carries_bag:
        elbow_bend, forward = 1.5, -0.25
    shoulder = body_point(
        side * 0.1 * height * person.shoulders * (0.92 + 0.08 * person.build), 0.79 * height, -0.05 * forward
    )
    elbow = shoulder + _bone(forward, 0.16 * height, side * 0.17)
    wrist = elbow + _bone(forward + elbow_bend, 0.145 * height, side * 0.04)
    hand = wrist + _bone(forward + elbow_bend + 0.1, 0.04 * height, 0.0)
    return Limb(shoulder, elbow, wrist, hand)


def walking_pose(person: Person, phase: float, stride: float | None = None) -> Pose:
    """The pose at `phase` radians of the gait cycle; stride 0 stands still. At phase 0 the leg of side 1 lands."""
    stride = person.stride if stride is None else stride
    height = person.height
    legs = (_pose_leg(person, -1, phase + np.pi, stride), _pose_leg(person, 1, phase, stride))
    lowest = min(min(leg.end[1] - 0.042 * height, leg.tip[1] - 0.02 * height) for leg in legs)
    drop = body_point(0.0, -lowest, 0.0)

    def lower(limb: Limb) -> Limb:
        return Limb(limb.root + drop, limb.middle + drop, limb.end + drop, limb.tip + drop)

    arms = (_pose_arm(person, -1, phase + np.pi, stride), _pose_arm(person, 1, phase, stride))
    lean = 0.012 * height * stride
    return Pose(
        pelvis=body_point(0.0, 0.5 * height, 0.0) + drop,
        neck=body_point(0.0, 0.835 * height, lean) + drop,
        head=body_point(0.0, 0.925 * height, lean + 0.012 * height) + drop,
        arms=(lower(arms[0]), lower(arms[1])),
        legs=(lower(legs[0]), lower(legs[1])),
    )
