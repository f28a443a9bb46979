"""Draws one person: the body and the clothes as solids, rendered from a viewpoint."""
# ruff: noqa: PLR2004 - lengths and probabilities read best in place

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import textures
from .body_renderer import BodyRenderer, Viewpoint

if TYPE_CHECKING:
    from .appearance import Person
    from .pose import Limb, Point, Pose
    from .primitives import Float32Array

__all__ = ["Viewpoint", "draw_person"]


def _vector(x: float, y: float, z: float) -> Point:
    return np.array((x, y, z), dtype=np.float64)


def _add_leg(renderer: BodyRenderer, person: Person, leg: Limb) -> None:
    unit, height = person.build**0.6 * person.height / 1.72, person.height
    lower, tights = person.palette.lower, person.cut == "dress" and person.variation % 2 == 0
    skin = lower if tights else person.skin
    if person.lower_garment in ("shorts", "skirt", "long skirt") or person.cut == "dress":
        thigh, calf = np.array((0.086, 0.08, 0.062)) * unit, np.array((0.06, 0.062, 0.046, 0.038)) * unit
        shin_texture = textures.banded((0.0, skin), (0.88, textures.WHITE))
        if person.boots:
            shin_texture = textures.banded((0.0, skin), (0.45, person.shoe_colour))
        elif tights:
            shin_texture = textures.plain(skin)
        renderer.add_tube(leg.root, leg.middle, thigh.tolist(), textures.plain(skin), under_clothes=True)
        renderer.add_tube(
            leg.middle, leg.end, calf.tolist(), shin_texture, depth_bias=-0.01, contact_shadow=0.08, under_clothes=True
        )
        if person.lower_garment == "shorts" and person.cut != "dress":
            hem = leg.root + (leg.middle - leg.root) * 0.88
            half_widths = (np.array((0.094, 0.1, 0.1)) * unit).tolist()
            renderer.add_tube(
                leg.root,
                hem,
                half_widths,
                textures.banded((0, lower), (0.9, textures.mix(lower, textures.DARK, 0.3))),
                depth_bias=0.05,
                caps=(1, 0.2),
                fold_strength=0.06,
                under_clothes=True,
            )
    else:
        is_wide = person.lower_garment == "wide"
        thigh = np.array((0.094, 0.096, 0.09) if is_wide else (0.09, 0.086, 0.068)) * unit
        calf = np.array((0.09, 0.089, 0.092, 0.1) if is_wide else (0.068, 0.066, 0.055, 0.05)) * unit
        renderer.add_tube(
            leg.root, leg.middle, thigh.tolist(), textures.plain(lower), fold_strength=0.05, under_clothes=True
        )
        calf_texture = (
            textures.banded((0.0, lower), (0.5, person.shoe_colour))
            if person.boots and not is_wide
            else textures.plain(lower)
        )
        renderer.add_tube(
            leg.middle,
            leg.end,
            calf.tolist(),
            calf_texture,
            depth_bias=-0.006,
            caps=(1, 0.3),
            fold_strength=0.06,
            contact_shadow=0.06,
            under_clothes=True,
        )
    heel = leg.end - (leg.tip - leg.end) * 0.28 - _vector(0, 0.012 * height, 0)
    drop = _vector(0, 0.016 * height, 0)
    renderer.add_tube(
        heel - drop,
        leg.tip - drop * 0.6,
        (0.034, 0.032, 0.034),
        textures.plain(person.sole_colour),
        depth_bias=-0.03,
        under_clothes=True,
    )
    renderer.add_tube(
        heel,
        leg.tip,
        (0.041, 0.043, 0.033),
        textures.plain(person.shoe_colour),
        depth_bias=-0.02,
        contact_shadow=0,
        under_clothes=True,
    )


def _add_arm(renderer: BodyRenderer, person: Person, arm: Limb, depth_bias: float) -> None:
    unit = person.build**0.7 * person.height / 1.72
    skin = textures.plain(person.skin)
    loose = {"coat": 1.1, "hoodie": 1.12, "jacket": 1.06}.get(person.cut, 1.0)
    upper, fore = np.array((0.046, 0.052, 0.047, 0.042)) * unit, np.array((0.042, 0.041, 0.03)) * unit
    sleeve = textures.upper_garment(person, 0.28, 0.06, sleeve=True)
    cuff = textures.upper_garment(person, 0.25, 0.06, sleeve=True, start=0.28)
    renderer.add_ellipsoid(
        arm.end * 0.4 + arm.tip * 0.6, (0.033 * unit, 0.045 * unit, 0.038 * unit), skin, depth_bias=depth_bias
    )
    if person.cut in ("tee", "vest", "dress"):
        renderer.add_tube(arm.root, arm.middle, upper.tolist(), skin, depth_bias=depth_bias, contact_shadow=0.16)
        renderer.add_tube(arm.middle, arm.end, fore.tolist(), skin, depth_bias=depth_bias + 0.004, contact_shadow=0.06)
        if person.cut != "vest":
            hem = arm.root + (arm.middle - arm.root) * (0.66 if person.cut == "tee" else 0.3)
            renderer.add_tube(
                arm.root,
                hem,
                (upper[:3] * (1.05, 1.15, 1.35)).tolist(),
                sleeve,
                depth_bias=depth_bias + 0.006,
                caps=(0.8, 0.15),
                fold_strength=0.06,
                contact_shadow=0.1,
            )
        return
    renderer.add_tube(
        arm.root,
        arm.middle,
        (upper * loose * 1.1).tolist(),
        sleeve,
        depth_bias=depth_bias,
        caps=(0.8, 1),
        fold_strength=0.06,
        contact_shadow=0.16,
    )
    renderer.add_tube(
        arm.middle,
        arm.end,
        (fore * loose * (1.1, 1.15, 1.2)).tolist(),
        cuff,
        depth_bias=depth_bias + 0.004,
        caps=(1, 0.3),
        fold_strength=0.07,
        contact_shadow=0.06,
    )


def _add_trunk(renderer: BodyRenderer, person: Person, pose: Pose) -> None:
    height = person.height
    girth = person.build**0.8
    shoulders, hips = person.shoulders * (0.9 + 0.1 * girth), person.hips * girth
    hem = {"coat": 0.33, "dress": 0.31, "jacket": 0.48, "hoodie": 0.475}.get(person.cut, 0.5)
    neck, lift = pose.neck, pose.pelvis[1] - 0.5 * height
    spread = max(abs(leg.middle[2] - leg.root[2]) for leg in pose.legs)
    stretch = min(max(spread, *(0.85 * abs(leg.end[2]) for leg in pose.legs)), 0.27)
    if person.cut != "dress" and "skirt" not in person.lower_garment:
        waist, seat = _vector(0, 0.585 * height, 0.004), _vector(0, 0.505 * height, -0.004)
        renderer.add_tube(
            waist + _vector(0, lift, 0),
            seat + _vector(0, lift, 0),
            np.multiply((0.083, 0.094, 0.092), height * hips).tolist(),
            textures.plain(person.palette.lower),
            half_depths=np.multiply((0.06, 0.068, 0.06), height * girth).tolist(),
            depth_bias=-0.12,
            caps=(0.3, 0.35),
            fold_strength=0.04,
        )
    if "skirt" in person.lower_garment and person.cut != "dress":
        end = 0.14 if person.lower_garment == "long skirt" else 0.3
        top, bottom = _vector(0, 0.585 * height + lift, 0.004), _vector(0, end * height + lift, 0.02)
        half_widths = np.multiply((0.082, 0.098, 0.108, 0.118), height * hips)
        sway = np.maximum(
            np.multiply((0.06, 0.072, 0.085, 0.095), height * girth),
            (0, 0, spread * 0.75, (stretch if end < 0.2 else spread) + 0.09),
        )
        renderer.add_tube(
            top,
            bottom,
            half_widths.tolist(),
            textures.skirt(person, 0.17),
            half_depths=sway.tolist(),
            depth_bias=-0.06,
            caps=(0.2, 0.1),
            fold_strength=0.06,
        )
    bottom = _vector(0, hem * height + lift, 0.0)
    length = float(neck[1] - bottom[1])
    # Rows: fraction of the way from neck to hips; half-width and half-depth as fractions of the body height.
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
    steps = np.linspace(0, 1, 24) * length / (0.335 * height)
    loose = {"hoodie": 1.08, "coat": 1.07, "jacket": 1.06, "long": 1.0, "dress": 0.97}.get(person.cut, 1.01)
    shape = np.where(steps < 0.45, shoulders * (0.75 + 0.25 * girth), hips) * loose
    half_widths = (
        np.interp(steps, outline[:, 0], outline[:, 1])
        * height
        * np.convolve(np.pad(shape, 2, "edge"), np.ones(5) / 5, "valid")
    )
    half_depths = np.interp(steps, outline[:, 0], outline[:, 2]) * height * girth * loose
    flare = np.clip(steps - 1, 0, None) * (0.55 if person.cut == "dress" else 0.25)
    half_widths *= 1 + flare
    half_depths = np.maximum(
        half_depths * (1 + flare), np.where(steps > 1.15, (spread * 0.6 + 0.08) * (steps - 0.65), 0)
    )
    renderer.add_tube(
        neck,
        bottom,
        half_widths.tolist(),
        textures.torso(person, length, 0.14),
        half_depths=half_depths.tolist(),
        caps=(0.35, 0.12),
        fold_strength=0.05,
    )


def _add_head(renderer: BodyRenderer, person: Person, pose: Pose) -> None:
    height = person.height
    skull, neck = pose.head, pose.neck
    unit = 0.5 * height + 0.5 * 1.7
    hair = textures.plain(person.hair_colour)
    renderer.add_tube(
        neck - _vector(0, 0.02 * height, 0),
        skull - _vector(0, 0.03 * height, 0.012),
        (0.036 * height, 0.032 * height),
        textures.plain(textures.mix(person.skin, textures.DARK, 0.12)),
        depth_bias=0.03,
    )
    if person.scarf:
        renderer.add_tube(
            neck + _vector(0, 0.02, 0.01),
            neck - _vector(0, 0.03, -0.02),
            (0.055 * height, 0.06 * height),
            textures.plain(person.hat_colour),
            depth_bias=0.09,
        )
    if person.hair == "hood":
        renderer.add_ellipsoid(
            skull - _vector(0, 0.004, 0.01),
            (0.064 * unit, 0.082 * unit, 0.075 * unit),
            textures.hood(person),
            depth_bias=0.1,
        )
        return
    if person.cut == "hoodie":
        renderer.add_ellipsoid(
            neck + _vector(0, 0.0, -0.055),
            (0.075 * unit, 0.032 * unit, 0.045 * unit),
            textures.plain(textures.mix(person.palette.upper, textures.DARK, 0.18)),
            depth_bias=0.02,
        )
    renderer.add_ellipsoid(skull, (0.049 * unit, 0.068 * unit, 0.059 * unit), textures.head(person), depth_bias=0.1)
    renderer.add_ellipsoid(
        skull + _vector(0, -0.012, 0.06 * unit), (0.009, 0.016, 0.012), textures.plain(person.skin), depth_bias=0.09
    )
    if person.hair == "long":
        renderer.add_tube(
            skull + _vector(0, 0.01, -0.035),
            neck - _vector(0, 0.05, 0.075),
            np.multiply((0.056, 0.06, 0.062, 0.045), unit).tolist(),
            hair,
            half_depths=np.multiply((0.045, 0.04, 0.034, 0.025), unit).tolist(),
            depth_bias=-0.0,
            fold_strength=0.12,
        )
    elif person.hair == "curly":
        renderer.add_ellipsoid(
            skull + _vector(0, 0.02, -0.03), (0.075 * unit, 0.075 * unit, 0.07 * unit), hair, depth_bias=0.05
        )
    elif person.hair == "bun":
        renderer.add_ellipsoid(
            skull + _vector(0, 0.062 * unit, -0.045 * unit),
            (0.03 * unit, 0.028 * unit, 0.03 * unit),
            hair,
            depth_bias=0.08,
        )
    elif person.hair == "ponytail":
        renderer.add_tube(
            skull + _vector(0, 0.02, -0.06 * unit),
            neck - _vector(0, 0.04, 0.11),
            np.multiply((0.016, 0.026, 0.014), unit).tolist(),
            hair,
            depth_bias=0.02,
            fold_strength=0.12,
        )
    elif person.hair == "cap":
        brim = skull + _vector(0, 0.026 * unit, 0.05 * unit)
        renderer.add_tube(
            brim,
            brim + _vector(0, -0.01, 0.05 * unit),
            np.multiply((0.042, 0.034), unit).tolist(),
            textures.plain(textures.mix(person.hat_colour, textures.DARK, 0.15)),
            half_depths=(0.008, 0.008),
            depth_bias=0.13,
        )


def _add_bag(renderer: BodyRenderer, person: Person, pose: Pose) -> None:
    height, side = person.height, person.bag_side
    texture, strap = (
        textures.bag(person.bag_colour),
        textures.plain(textures.mix(person.bag_colour, textures.DARK, 0.25)),
    )
    arm = pose.arms[0 if side < 0 else 1]
    if person.bag == "backpack":
        top = pose.neck - _vector(0, 0.035 * height, 0.118 * height * person.build**0.8)
        renderer.add_tube(
            top,
            top - _vector(0, 0.23 * height, 0),
            np.multiply((0.07, 0.086, 0.09, 0.09, 0.08), height).tolist(),
            texture,
            half_depths=np.multiply((0.035, 0.05, 0.056, 0.06, 0.05), height).tolist(),
            caps=(0.35, 0.2),
            fold_strength=0.04,
        )
    elif person.bag == "shoulder":
        top = _vector(side * 0.118 * height * person.hips * person.build**0.8, 0.53 * height, 0.0)
        renderer.add_tube(
            top,
            top - _vector(0, 0.09 * height, 0),
            (0.05, 0.055, 0.05),
            texture,
            half_depths=(0.12, 0.13, 0.12),
            depth_bias=0.05,
            caps=(0.15, 0.2),
        )
    elif person.bag == "handbag":
        hand = arm.tip
        renderer.add_tube(
            hand, hand - _vector(0, 0.09, 0), (0.012, 0.05), strap, half_depths=(0.012, 0.09), caps=(0.3, 0.1)
        )
        renderer.add_tube(
            hand - _vector(0, 0.09, 0),
            hand - _vector(0, 0.25, 0),
            (0.05, 0.055, 0.055),
            texture,
            half_depths=(0.12, 0.13, 0.14),
            depth_bias=0.01,
            caps=(0.1, 0.2),
        )
    elif person.bag == "tote":
        top = arm.root + _vector(side * 0.045, -0.24 * height, -0.04)
        renderer.add_tube(arm.root + _vector(side * 0.01, 0.03, 0), top, (0.012, 0.012), strap, depth_bias=0.06)
        renderer.add_tube(
            top,
            top - _vector(0, 0.16 * height, 0),
            (0.045, 0.055, 0.06),
            texture,
            half_depths=(0.13, 0.15, 0.155),
            depth_bias=0.04,
            caps=(0.1, 0.15),
            fold_strength=0.05,
        )


def draw_person(
    person: Person, pose: Pose, viewpoint: Viewpoint, height_px: float
) -> tuple[Float32Array, tuple[float, float]]:
    """Returns the person as premultiplied RGBA float32 [H, W, 4] in 0..1, and the position (x, y) of the feet in it.

    `height_px` is the height in pixels of this person, standing upright and viewed horizontally.
    """
    rows, columns = int(height_px * 1.2), int(height_px * 0.9)
    canvas = np.zeros((4, rows, columns), dtype=np.float32)
    origin = (columns / 2, height_px * 1.1)
    renderer = BodyRenderer(viewpoint, height_px / person.height, origin, canvas, fold_offset=person.variation)
    for side, leg in enumerate(pose.legs):
        _add_leg(renderer, person, leg)
        # The arm on the viewer's side lies in front of the torso, the other arm behind it.
        towards_viewer = -(side * 2 - 1) * float(np.sin(viewpoint.yaw))
        _add_arm(renderer, person, pose.arms[side], depth_bias=0.06 * towards_viewer)
    _add_trunk(renderer, person, pose)
    _add_head(renderer, person, pose)
    _add_bag(renderer, person, pose)
    renderer.render()
    return np.ascontiguousarray(canvas.transpose(1, 2, 0)), origin
