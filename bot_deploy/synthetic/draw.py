"""One person as a picture: the solids of the body, dressed, as they are seen."""
# ruff: noqa: PLR2004 - measures and odds read best in place

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import cloth
from .artist import Artist, View

if TYPE_CHECKING:
    from .people import Person
    from .pose import Limb, Point, Pose
    from .tubes import Array

__all__ = ["View", "draw_person"]


def _at(x: float, y: float, z: float) -> Point:
    return np.array((x, y, z), dtype=np.float64)


def _leg(artist: Artist, person: Person, leg: Limb) -> None:
    unit, tall = person.build**0.6 * person.height / 1.72, person.height
    lower, tights = person.palette.lower, person.cut == "dress" and person.texture % 2 == 0
    skin = lower if tights else person.skin
    if person.lower in ("shorts", "skirt", "long skirt") or person.cut == "dress":
        thigh, calf = np.array((0.086, 0.08, 0.062)) * unit, np.array((0.06, 0.062, 0.046, 0.038)) * unit
        shin = cloth.banded((0.0, skin), (0.88, cloth.WHITE))
        if person.boots:
            shin = cloth.banded((0.0, skin), (0.45, person.shoes))
        elif tights:
            shin = cloth.plain(skin)
        artist.tube(leg.root, leg.middle, thigh.tolist(), cloth.plain(skin), under=True)
        artist.tube(leg.middle, leg.end, calf.tolist(), shin, nearer=-0.01, rim=0.08, under=True)
        if person.lower == "shorts" and person.cut != "dress":
            hem = leg.root + (leg.middle - leg.root) * 0.88
            wide = (np.array((0.094, 0.1, 0.1)) * unit).tolist()
            artist.tube(
                leg.root,
                hem,
                wide,
                cloth.banded((0, lower), (0.9, cloth.mix(lower, cloth.DARK, 0.3))),
                nearer=0.05,
                caps=(1, 0.2),
                folds=0.06,
                under=True,
            )
    else:
        wide = person.lower == "wide"
        thigh = np.array((0.094, 0.096, 0.09) if wide else (0.09, 0.086, 0.068)) * unit
        calf = np.array((0.09, 0.089, 0.092, 0.1) if wide else (0.068, 0.066, 0.055, 0.05)) * unit
        artist.tube(leg.root, leg.middle, thigh.tolist(), cloth.plain(lower), folds=0.05, under=True)
        paint = cloth.banded((0.0, lower), (0.5, person.shoes)) if person.boots and not wide else cloth.plain(lower)
        artist.tube(
            leg.middle, leg.end, calf.tolist(), paint, nearer=-0.006, caps=(1, 0.3), folds=0.06, rim=0.06, under=True
        )
    heel = leg.end - (leg.tip - leg.end) * 0.28 - _at(0, 0.012 * tall, 0)
    drop = _at(0, 0.016 * tall, 0)
    artist.tube(
        heel - drop, leg.tip - drop * 0.6, (0.034, 0.032, 0.034), cloth.plain(person.sole), nearer=-0.03, under=True
    )
    artist.tube(heel, leg.tip, (0.041, 0.043, 0.033), cloth.plain(person.shoes), nearer=-0.02, rim=0, under=True)


def _arm(artist: Artist, person: Person, arm: Limb, nearer: float) -> None:
    unit = person.build**0.7 * person.height / 1.72
    skin = cloth.plain(person.skin)
    loose = {"coat": 1.1, "hoodie": 1.12, "jacket": 1.06}.get(person.cut, 1.0)
    upper, fore = np.array((0.046, 0.052, 0.047, 0.042)) * unit, np.array((0.042, 0.041, 0.03)) * unit
    sleeve = cloth.fabric(person, 0.28, 0.06, sleeve=True)
    cuff = cloth.fabric(person, 0.25, 0.06, sleeve=True, start=0.28)
    artist.ball(arm.end * 0.4 + arm.tip * 0.6, (0.033 * unit, 0.045 * unit, 0.038 * unit), skin, nearer=nearer)
    if person.cut in ("tee", "vest", "dress"):
        artist.tube(arm.root, arm.middle, upper.tolist(), skin, nearer=nearer, rim=0.16)
        artist.tube(arm.middle, arm.end, fore.tolist(), skin, nearer=nearer + 0.004, rim=0.06)
        if person.cut != "vest":
            hem = arm.root + (arm.middle - arm.root) * (0.66 if person.cut == "tee" else 0.3)
            artist.tube(
                arm.root,
                hem,
                (upper[:3] * (1.05, 1.15, 1.35)).tolist(),
                sleeve,
                nearer=nearer + 0.006,
                caps=(0.8, 0.15),
                folds=0.06,
                rim=0.1,
            )
        return
    artist.tube(
        arm.root, arm.middle, (upper * loose * 1.1).tolist(), sleeve, nearer=nearer, caps=(0.8, 1), folds=0.06, rim=0.16
    )
    artist.tube(
        arm.middle,
        arm.end,
        (fore * loose * (1.1, 1.15, 1.2)).tolist(),
        cuff,
        nearer=nearer + 0.004,
        caps=(1, 0.3),
        folds=0.07,
        rim=0.06,
    )


def _trunk(artist: Artist, person: Person, pose: Pose) -> None:
    tall = person.height
    girth = person.build**0.8
    shoulders, hips = person.shoulders * (0.9 + 0.1 * girth), person.hips * girth
    hem = {"coat": 0.33, "dress": 0.31, "jacket": 0.48, "hoodie": 0.475}.get(person.cut, 0.5)
    neck, lift = pose.neck, pose.pelvis[1] - 0.5 * tall
    spread = max(abs(leg.middle[2] - leg.root[2]) for leg in pose.legs)
    stretch = min(max(spread, *(0.85 * abs(leg.end[2]) for leg in pose.legs)), 0.27)
    if person.cut != "dress" and "skirt" not in person.lower:
        waist, seat = _at(0, 0.585 * tall, 0.004), _at(0, 0.505 * tall, -0.004)
        artist.tube(
            waist + _at(0, lift, 0),
            seat + _at(0, lift, 0),
            np.multiply((0.083, 0.094, 0.092), tall * hips).tolist(),
            cloth.plain(person.palette.lower),
            depths=np.multiply((0.06, 0.068, 0.06), tall * girth).tolist(),
            nearer=-0.12,
            caps=(0.3, 0.35),
            folds=0.04,
        )
    if "skirt" in person.lower and person.cut != "dress":
        end = 0.14 if person.lower == "long skirt" else 0.3
        top, bottom = _at(0, 0.585 * tall + lift, 0.004), _at(0, end * tall + lift, 0.02)
        sides = np.multiply((0.082, 0.098, 0.108, 0.118), tall * hips)
        sway = np.maximum(
            np.multiply((0.06, 0.072, 0.085, 0.095), tall * girth),
            (0, 0, spread * 0.75, (stretch if end < 0.2 else spread) + 0.09),
        )
        artist.tube(
            top,
            bottom,
            sides.tolist(),
            cloth.skirt(person, 0.17),
            depths=sway.tolist(),
            nearer=-0.06,
            caps=(0.2, 0.1),
            folds=0.06,
        )
    bottom = _at(0, hem * tall + lift, 0.0)
    length = float(neck[1] - bottom[1])
    # (share of the way down to the hips, half-width, half-depth) over body height
    outline = np.array(
        (
            (0, 0.04, 0.04),
            (0.05, 0.07, 0.05),
            (0.12, 0.104, 0.062),
            (0.3, 0.1, 0.074),
            (0.62, 0.086, 0.066),
            (1, 0.098, 0.07),
        )
    )
    steps = np.linspace(0, 1, 24) * length / (0.335 * tall)
    loose = {"hoodie": 1.08, "coat": 1.07, "jacket": 1.06, "long": 1.0, "dress": 0.97}.get(person.cut, 1.01)
    shape = np.where(steps < 0.45, shoulders * (0.75 + 0.25 * girth), hips) * loose
    sides = (
        np.interp(steps, outline[:, 0], outline[:, 1])
        * tall
        * np.convolve(np.pad(shape, 2, "edge"), np.ones(5) / 5, "valid")
    )
    through = np.interp(steps, outline[:, 0], outline[:, 2]) * tall * girth * loose
    flare = np.clip(steps - 1, 0, None) * (0.55 if person.cut == "dress" else 0.25)
    sides *= 1 + flare
    through = np.maximum(through * (1 + flare), np.where(steps > 1.15, (spread * 0.6 + 0.08) * (steps - 0.65), 0))
    artist.tube(
        neck,
        bottom,
        sides.tolist(),
        cloth.torso(person, length, 0.14),
        depths=through.tolist(),
        caps=(0.35, 0.12),
        folds=0.05,
    )


def _head(artist: Artist, person: Person, pose: Pose) -> None:
    tall = person.height
    skull, neck = pose.head, pose.neck
    unit = 0.5 * tall + 0.5 * 1.7
    hair = cloth.plain(person.hair_colour)
    artist.tube(
        neck - _at(0, 0.02 * tall, 0),
        skull - _at(0, 0.03 * tall, 0.012),
        (0.036 * tall, 0.032 * tall),
        cloth.plain(cloth.mix(person.skin, cloth.DARK, 0.12)),
        nearer=0.03,
    )
    if person.scarf:
        artist.tube(
            neck + _at(0, 0.02, 0.01),
            neck - _at(0, 0.03, -0.02),
            (0.055 * tall, 0.06 * tall),
            cloth.plain(person.hat_colour),
            nearer=0.09,
        )
    if person.hair == "hood":
        artist.ball(
            skull - _at(0, 0.004, 0.01), (0.064 * unit, 0.082 * unit, 0.075 * unit), cloth.hood(person), nearer=0.1
        )
        return
    if person.cut == "hoodie":
        artist.ball(
            neck + _at(0, 0.0, -0.055),
            (0.075 * unit, 0.032 * unit, 0.045 * unit),
            cloth.plain(cloth.mix(person.palette.upper, cloth.DARK, 0.18)),
            nearer=0.02,
        )
    artist.ball(skull, (0.049 * unit, 0.068 * unit, 0.059 * unit), cloth.head(person), nearer=0.1)
    artist.ball(skull + _at(0, -0.012, 0.06 * unit), (0.009, 0.016, 0.012), cloth.plain(person.skin), nearer=0.09)
    if person.hair == "long":
        artist.tube(
            skull + _at(0, 0.01, -0.035),
            neck - _at(0, 0.05, 0.075),
            np.multiply((0.056, 0.06, 0.062, 0.045), unit).tolist(),
            hair,
            depths=np.multiply((0.045, 0.04, 0.034, 0.025), unit).tolist(),
            nearer=-0.0,
            folds=0.12,
        )
    elif person.hair == "curly":
        artist.ball(skull + _at(0, 0.02, -0.03), (0.075 * unit, 0.075 * unit, 0.07 * unit), hair, nearer=0.05)
    elif person.hair == "bun":
        artist.ball(
            skull + _at(0, 0.062 * unit, -0.045 * unit), (0.03 * unit, 0.028 * unit, 0.03 * unit), hair, nearer=0.08
        )
    elif person.hair == "ponytail":
        artist.tube(
            skull + _at(0, 0.02, -0.06 * unit),
            neck - _at(0, 0.04, 0.11),
            np.multiply((0.016, 0.026, 0.014), unit).tolist(),
            hair,
            nearer=0.02,
            folds=0.12,
        )
    elif person.hair == "cap":
        brim = skull + _at(0, 0.026 * unit, 0.05 * unit)
        artist.tube(
            brim,
            brim + _at(0, -0.01, 0.05 * unit),
            np.multiply((0.042, 0.034), unit).tolist(),
            cloth.plain(cloth.mix(person.hat_colour, cloth.DARK, 0.15)),
            depths=(0.008, 0.008),
            nearer=0.13,
        )


def _bag(artist: Artist, person: Person, pose: Pose) -> None:
    tall, side = person.height, person.bag_side
    paint, strap = cloth.bag(person.bag_colour), cloth.plain(cloth.mix(person.bag_colour, cloth.DARK, 0.25))
    arm = pose.arms[0 if side < 0 else 1]
    if person.bag == "backpack":
        top = pose.neck - _at(0, 0.035 * tall, 0.118 * tall * person.build**0.8)
        artist.tube(
            top,
            top - _at(0, 0.23 * tall, 0),
            np.multiply((0.07, 0.086, 0.09, 0.09, 0.08), tall).tolist(),
            paint,
            depths=np.multiply((0.035, 0.05, 0.056, 0.06, 0.05), tall).tolist(),
            caps=(0.35, 0.2),
            folds=0.04,
        )
    elif person.bag == "shoulder":
        top = _at(side * 0.118 * tall * person.hips * person.build**0.8, 0.53 * tall, 0.0)
        artist.tube(
            top,
            top - _at(0, 0.09 * tall, 0),
            (0.05, 0.055, 0.05),
            paint,
            depths=(0.12, 0.13, 0.12),
            nearer=0.05,
            caps=(0.15, 0.2),
        )
    elif person.bag == "handbag":
        hand = arm.tip
        artist.tube(hand, hand - _at(0, 0.09, 0), (0.012, 0.05), strap, depths=(0.012, 0.09), caps=(0.3, 0.1))
        artist.tube(
            hand - _at(0, 0.09, 0),
            hand - _at(0, 0.25, 0),
            (0.05, 0.055, 0.055),
            paint,
            depths=(0.12, 0.13, 0.14),
            nearer=0.01,
            caps=(0.1, 0.2),
        )
    elif person.bag == "tote":
        top = arm.root + _at(side * 0.045, -0.24 * tall, -0.04)
        artist.tube(arm.root + _at(side * 0.01, 0.03, 0), top, (0.012, 0.012), strap, nearer=0.06)
        artist.tube(
            top,
            top - _at(0, 0.16 * tall, 0),
            (0.045, 0.055, 0.06),
            paint,
            depths=(0.13, 0.15, 0.155),
            nearer=0.04,
            caps=(0.1, 0.15),
            folds=0.05,
        )


def draw_person(person: Person, pose: Pose, view: View, height_px: float) -> tuple[Array, tuple[float, float]]:
    """The person as premultiplied RGBA float32 [H, W, 4] in 0..1, and where (x, y) in it the body stands.

    `height_px` is the height in pixels of this person standing upright at the camera's height.
    """
    rows, columns = int(height_px * 1.2), int(height_px * 0.9)
    canvas = np.zeros((4, rows, columns), dtype=np.float32)
    origin = (columns / 2, height_px * 1.1)
    artist = Artist(view, height_px / person.height, origin, canvas, texture=person.texture)
    for side, leg in enumerate(pose.legs):
        _leg(artist, person, leg)
        # The arm on the viewer's side lies over the torso, the other one behind it.
        towards = -(side * 2 - 1) * float(np.sin(view.yaw))
        _arm(artist, person, pose.arms[side], nearer=0.06 * towards)
    _trunk(artist, person, pose)
    _head(artist, person, pose)
    _bag(artist, person, pose)
    artist.draw()
    return np.ascontiguousarray(canvas.transpose(1, 2, 0)), origin
