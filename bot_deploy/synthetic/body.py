"""Draws one person: the body and the clothes as solids, rendered from a viewpoint."""
# ruff: noqa: PLR2004 - lengths and probabilities read best in place

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from . import textures
from .body_renderer import BodyRenderer, Viewpoint
from .pose import body_point

if TYPE_CHECKING:
    from .appearance import Person
    from .pose import Limb, Pose
    from .primitives import Float32Array, Texture

    Floats = npt.NDArray[np.float64]

__all__ = ["SUPERSAMPLING", "Viewpoint", "draw_person"]

SUPERSAMPLING = 1.5  # people and crops are drawn larger by this factor, and reduced afterwards


# ---- legs ----


def _add_leg(renderer: BodyRenderer, person: Person, leg: Limb) -> None:
    limb_scale = person.build**0.6 * person.height / 1.72
    if person.lower_garment in ("shorts", "skirt", "long skirt") or person.cut == "dress":
        _add_bare_leg(renderer, person, leg, limb_scale)
        if person.lower_garment == "shorts" and person.cut != "dress":
            _add_shorts_leg(renderer, person, leg, limb_scale)
    else:
        _add_trouser_leg(renderer, person, leg, limb_scale)
    _add_shoe(renderer, person, leg)


def _add_bare_leg(renderer: BodyRenderer, person: Person, leg: Limb, limb_scale: float) -> None:
    """The leg below shorts, a skirt or a dress: skin or tights, with a sock or a boot."""
    has_tights = person.cut == "dress" and person.variation % 2 == 0
    colour = person.palette.lower if has_tights else person.skin
    thigh = np.array((0.086, 0.08, 0.062)) * limb_scale
    calf = np.array((0.06, 0.062, 0.046, 0.038)) * limb_scale
    calf_texture = textures.banded((0.0, colour), (0.88, textures.WHITE))
    if person.boots:
        calf_texture = textures.banded((0.0, colour), (0.45, person.shoe_colour))
    elif has_tights:
        calf_texture = textures.plain(colour)
    renderer.add_tube(leg.root, leg.middle, thigh.tolist(), textures.plain(colour), under_clothes=True)
    renderer.add_tube(
        leg.middle, leg.end, calf.tolist(), calf_texture, depth_bias=-0.01, contact_shadow=0.08, under_clothes=True
    )


def _add_shorts_leg(renderer: BodyRenderer, person: Person, leg: Limb, limb_scale: float) -> None:
    lower = person.palette.lower
    renderer.add_tube(
        leg.root,
        leg.root + (leg.middle - leg.root) * 0.88,
        (np.array((0.094, 0.1, 0.1)) * limb_scale).tolist(),
        textures.banded((0, lower), (0.9, textures.mix(lower, textures.DARK, 0.3))),
        depth_bias=0.05,
        caps=(1, 0.2),
        fold_strength=0.06,
        under_clothes=True,
    )


def _add_trouser_leg(renderer: BodyRenderer, person: Person, leg: Limb, limb_scale: float) -> None:
    is_wide, lower = person.lower_garment == "wide", person.palette.lower
    thigh = np.array((0.094, 0.096, 0.09) if is_wide else (0.09, 0.086, 0.068)) * limb_scale
    calf = np.array((0.09, 0.089, 0.092, 0.1) if is_wide else (0.068, 0.066, 0.055, 0.05)) * limb_scale
    shows_boots = person.boots and not is_wide
    renderer.add_tube(
        leg.root, leg.middle, thigh.tolist(), textures.plain(lower), fold_strength=0.05, under_clothes=True
    )
    renderer.add_tube(
        leg.middle,
        leg.end,
        calf.tolist(),
        textures.banded((0.0, lower), (0.5, person.shoe_colour)) if shows_boots else textures.plain(lower),
        depth_bias=-0.006,
        caps=(1, 0.3),
        fold_strength=0.06,
        contact_shadow=0.06,
        under_clothes=True,
    )


def _add_shoe(renderer: BodyRenderer, person: Person, leg: Limb) -> None:
    """The sole, and the shoe on it."""
    heel = leg.end - (leg.tip - leg.end) * 0.28 - body_point(0, 0.012 * person.height, 0)
    sole_drop = body_point(0, 0.016 * person.height, 0)
    renderer.add_tube(
        heel - sole_drop,
        leg.tip - sole_drop * 0.6,
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


# ---- arms ----


def _add_arm(renderer: BodyRenderer, person: Person, arm: Limb, depth_bias: float) -> None:
    limb_scale = person.build**0.7 * person.height / 1.72
    renderer.add_ellipsoid(
        arm.end * 0.4 + arm.tip * 0.6,
        (0.033 * limb_scale, 0.045 * limb_scale, 0.038 * limb_scale),
        textures.plain(person.skin),
        depth_bias=depth_bias,
    )
    # Half-widths of the arm without clothes.
    upper = np.array((0.046, 0.052, 0.047, 0.042)) * limb_scale
    fore = np.array((0.042, 0.041, 0.03)) * limb_scale
    if person.cut in ("tee", "vest", "dress"):
        _add_bare_arm(renderer, person, arm, upper, fore, depth_bias)
    else:
        _add_long_sleeve(renderer, person, arm, upper, fore, depth_bias)


def _add_bare_arm(
    renderer: BodyRenderer, person: Person, arm: Limb, upper: Floats, fore: Floats, depth_bias: float
) -> None:
    """The arm in a T-shirt, a vest or a dress; a vest has no sleeve."""
    skin = textures.plain(person.skin)
    renderer.add_tube(arm.root, arm.middle, upper.tolist(), skin, depth_bias=depth_bias, contact_shadow=0.16)
    renderer.add_tube(arm.middle, arm.end, fore.tolist(), skin, depth_bias=depth_bias + 0.004, contact_shadow=0.06)
    if person.cut == "vest":
        return
    renderer.add_tube(
        arm.root,
        arm.root + (arm.middle - arm.root) * (0.66 if person.cut == "tee" else 0.3),
        (upper[:3] * (1.05, 1.15, 1.35)).tolist(),
        textures.upper_garment(person, 0.28, 0.06, sleeve=True),
        depth_bias=depth_bias + 0.006,
        caps=(0.8, 0.15),
        fold_strength=0.06,
        contact_shadow=0.1,
    )


def _add_long_sleeve(
    renderer: BodyRenderer, person: Person, arm: Limb, upper: Floats, fore: Floats, depth_bias: float
) -> None:
    looseness = {"coat": 1.1, "hoodie": 1.12, "jacket": 1.06}.get(person.cut, 1.0)
    renderer.add_tube(
        arm.root,
        arm.middle,
        (upper * looseness * 1.1).tolist(),
        textures.upper_garment(person, 0.28, 0.06, sleeve=True),
        depth_bias=depth_bias,
        caps=(0.8, 1),
        fold_strength=0.06,
        contact_shadow=0.16,
    )
    renderer.add_tube(
        arm.middle,
        arm.end,
        (fore * looseness * (1.1, 1.15, 1.2)).tolist(),
        textures.upper_garment(person, 0.25, 0.06, sleeve=True, start=0.28),
        depth_bias=depth_bias + 0.004,
        caps=(1, 0.3),
        fold_strength=0.07,
        contact_shadow=0.06,
    )


# ---- trunk ----

# Half-width and half-depth of the torso as fractions of the body height, at steps of the way from neck to hips.
_TORSO_STEPS = (0, 0.05, 0.12, 0.3, 0.62, 1)
_TORSO_HALF_WIDTHS = (0.04, 0.07, 0.104, 0.1, 0.086, 0.098)
_TORSO_HALF_DEPTHS = (0.04, 0.05, 0.062, 0.074, 0.066, 0.07)
_TORSO_HEM_HEIGHT = {"coat": 0.33, "dress": 0.31, "jacket": 0.48, "hoodie": 0.475}  # share of the body height
_TORSO_LOOSENESS = {"hoodie": 1.08, "coat": 1.07, "jacket": 1.06, "long": 1.0, "dress": 0.97}


def _add_trunk(renderer: BodyRenderer, person: Person, pose: Pose) -> None:
    knee_spread_m = max(abs(leg.middle[2] - leg.root[2]) for leg in pose.legs)
    pelvis_rise_m = pose.pelvis[1] - 0.5 * person.height
    if person.cut != "dress":
        if "skirt" in person.lower_garment:
            _add_skirt(renderer, person, pose, knee_spread_m, pelvis_rise_m)
        else:
            _add_seat(renderer, person, pelvis_rise_m)
    _add_torso(renderer, person, pose, knee_spread_m, pelvis_rise_m)


def _add_seat(renderer: BodyRenderer, person: Person, pelvis_rise_m: float) -> None:
    """The part of trousers or shorts above the legs."""
    height, girth = person.height, person.build**0.8
    waist, seat = body_point(0, 0.585 * height, 0.004), body_point(0, 0.505 * height, -0.004)
    renderer.add_tube(
        waist + body_point(0, pelvis_rise_m, 0),
        seat + body_point(0, pelvis_rise_m, 0),
        np.multiply((0.083, 0.094, 0.092), height * (person.hips * girth)).tolist(),
        textures.plain(person.palette.lower),
        half_depths=np.multiply((0.06, 0.068, 0.06), height * girth).tolist(),
        depth_bias=-0.12,
        caps=(0.3, 0.35),
        fold_strength=0.04,
    )


def _add_skirt(renderer: BodyRenderer, person: Person, pose: Pose, knee_spread_m: float, pelvis_rise_m: float) -> None:
    """A skirt that is wide enough for the knees, and a long one for the feet, too."""
    height, girth = person.height, person.build**0.8
    is_long = person.lower_garment == "long skirt"
    hem_depth_m = knee_spread_m
    if is_long:
        hem_depth_m = min(max(knee_spread_m, *(0.85 * abs(leg.end[2]) for leg in pose.legs)), 0.27)
    hem_height_share = 0.14 if is_long else 0.3
    half_depths = np.maximum(
        np.multiply((0.06, 0.072, 0.085, 0.095), height * girth),
        (0, 0, knee_spread_m * 0.75, hem_depth_m + 0.09),
    )
    renderer.add_tube(
        body_point(0, 0.585 * height + pelvis_rise_m, 0.004),
        body_point(0, hem_height_share * height + pelvis_rise_m, 0.02),
        np.multiply((0.082, 0.098, 0.108, 0.118), height * (person.hips * girth)).tolist(),
        textures.skirt(person, 0.17),
        half_depths=half_depths.tolist(),
        depth_bias=-0.06,
        caps=(0.2, 0.1),
        fold_strength=0.06,
    )


def _add_torso(renderer: BodyRenderer, person: Person, pose: Pose, knee_spread_m: float, pelvis_rise_m: float) -> None:
    """The upper garment from the neck to its hem. A coat or dress is wide enough for the knees."""
    height, girth = person.height, person.build**0.8
    shoulders, hips = person.shoulders * (0.9 + 0.1 * girth), person.hips * girth
    looseness = _TORSO_LOOSENESS.get(person.cut, 1.01)
    hem = body_point(0, _TORSO_HEM_HEIGHT.get(person.cut, 0.5) * height + pelvis_rise_m, 0.0)
    length = float(pose.neck[1] - hem[1])
    steps = np.linspace(0, 1, 24) * length / (0.335 * height)
    # The width follows the shoulders above and the hips below; five steps are averaged for a smooth transition.
    shape = np.where(steps < 0.45, shoulders * (0.75 + 0.25 * girth), hips) * looseness
    half_widths = (
        np.interp(steps, _TORSO_STEPS, _TORSO_HALF_WIDTHS)
        * height
        * np.convolve(np.pad(shape, 2, "edge"), np.ones(5) / 5, "valid")
    )
    half_depths = np.interp(steps, _TORSO_STEPS, _TORSO_HALF_DEPTHS) * height * girth * looseness
    flare = np.clip(steps - 1, 0, None) * (0.55 if person.cut == "dress" else 0.25)
    half_widths *= 1 + flare
    knee_room = np.where(steps > 1.15, (knee_spread_m * 0.6 + 0.08) * (steps - 0.65), 0)
    renderer.add_tube(
        pose.neck,
        hem,
        half_widths.tolist(),
        textures.torso(person, length, 0.14),
        half_depths=np.maximum(half_depths * (1 + flare), knee_room).tolist(),
        caps=(0.35, 0.12),
        fold_strength=0.05,
    )


# ---- head ----


def _add_head(renderer: BodyRenderer, person: Person, pose: Pose) -> None:
    head_scale = 0.5 * person.height + 0.5 * 1.7
    _add_neck(renderer, person, pose)
    if person.scarf:
        _add_scarf(renderer, person, pose)
    if person.hair == "hood":
        _add_hood(renderer, person, pose, head_scale)
        return
    if person.cut == "hoodie":
        _add_lowered_hood(renderer, person, pose, head_scale)
    _add_skull_and_nose(renderer, person, pose, head_scale)
    add_hair = _ADD_HAIR.get(person.hair)
    if add_hair:
        add_hair(renderer, person, pose, head_scale)


def _add_neck(renderer: BodyRenderer, person: Person, pose: Pose) -> None:
    height = person.height
    renderer.add_tube(
        pose.neck - body_point(0, 0.02 * height, 0),
        pose.head - body_point(0, 0.03 * height, 0.012),
        (0.036 * height, 0.032 * height),
        textures.plain(textures.mix(person.skin, textures.DARK, 0.12)),
        depth_bias=0.03,
    )


def _add_scarf(renderer: BodyRenderer, person: Person, pose: Pose) -> None:
    renderer.add_tube(
        pose.neck + body_point(0, 0.02, 0.01),
        pose.neck - body_point(0, 0.03, -0.02),
        (0.055 * person.height, 0.06 * person.height),
        textures.plain(person.hat_colour),
        depth_bias=0.09,
    )


def _add_hood(renderer: BodyRenderer, person: Person, pose: Pose, head_scale: float) -> None:
    """A hood over the head, instead of head and hair."""
    renderer.add_ellipsoid(
        pose.head - body_point(0, 0.004, 0.01),
        (0.064 * head_scale, 0.082 * head_scale, 0.075 * head_scale),
        textures.hood(person),
        depth_bias=0.1,
    )


def _add_lowered_hood(renderer: BodyRenderer, person: Person, pose: Pose, head_scale: float) -> None:
    renderer.add_ellipsoid(
        pose.neck + body_point(0, 0.0, -0.055),
        (0.075 * head_scale, 0.032 * head_scale, 0.045 * head_scale),
        textures.plain(textures.mix(person.palette.upper, textures.DARK, 0.18)),
        depth_bias=0.02,
    )


def _add_skull_and_nose(renderer: BodyRenderer, person: Person, pose: Pose, head_scale: float) -> None:
    """The head; its texture shows short hair, a beanie or the top of a cap."""
    renderer.add_ellipsoid(
        pose.head, (0.049 * head_scale, 0.068 * head_scale, 0.059 * head_scale), textures.head(person), depth_bias=0.1
    )
    renderer.add_ellipsoid(
        pose.head + body_point(0, -0.012, 0.06 * head_scale),
        (0.009, 0.016, 0.012),
        textures.plain(person.skin),
        depth_bias=0.09,
    )


def _add_long_hair(renderer: BodyRenderer, person: Person, pose: Pose, head_scale: float) -> None:
    renderer.add_tube(
        pose.head + body_point(0, 0.01, -0.035),
        pose.neck - body_point(0, 0.05, 0.075),
        np.multiply((0.056, 0.06, 0.062, 0.045), head_scale).tolist(),
        textures.plain(person.hair_colour),
        half_depths=np.multiply((0.045, 0.04, 0.034, 0.025), head_scale).tolist(),
        depth_bias=-0.0,
        fold_strength=0.12,
    )


def _add_curly_hair(renderer: BodyRenderer, person: Person, pose: Pose, head_scale: float) -> None:
    renderer.add_ellipsoid(
        pose.head + body_point(0, 0.02, -0.03),
        (0.075 * head_scale, 0.075 * head_scale, 0.07 * head_scale),
        textures.plain(person.hair_colour),
        depth_bias=0.05,
    )


def _add_bun(renderer: BodyRenderer, person: Person, pose: Pose, head_scale: float) -> None:
    renderer.add_ellipsoid(
        pose.head + body_point(0, 0.062 * head_scale, -0.045 * head_scale),
        (0.03 * head_scale, 0.028 * head_scale, 0.03 * head_scale),
        textures.plain(person.hair_colour),
        depth_bias=0.08,
    )


def _add_ponytail(renderer: BodyRenderer, person: Person, pose: Pose, head_scale: float) -> None:
    renderer.add_tube(
        pose.head + body_point(0, 0.02, -0.06 * head_scale),
        pose.neck - body_point(0, 0.04, 0.11),
        np.multiply((0.016, 0.026, 0.014), head_scale).tolist(),
        textures.plain(person.hair_colour),
        depth_bias=0.02,
        fold_strength=0.12,
    )


def _add_brim(renderer: BodyRenderer, person: Person, pose: Pose, head_scale: float) -> None:
    """The brim of a cap."""
    brim = pose.head + body_point(0, 0.026 * head_scale, 0.05 * head_scale)
    renderer.add_tube(
        brim,
        brim + body_point(0, -0.01, 0.05 * head_scale),
        np.multiply((0.042, 0.034), head_scale).tolist(),
        textures.plain(textures.mix(person.hat_colour, textures.DARK, 0.15)),
        half_depths=(0.008, 0.008),
        depth_bias=0.13,
    )


# The other styles are only in the texture of the head.
_ADD_HAIR = {
    "long": _add_long_hair,
    "curly": _add_curly_hair,
    "bun": _add_bun,
    "ponytail": _add_ponytail,
    "cap": _add_brim,
}


# ---- bags ----


def _add_backpack(renderer: BodyRenderer, person: Person, pose: Pose) -> None:
    height = person.height
    top = pose.neck - body_point(0, 0.035 * height, 0.118 * height * person.build**0.8)
    renderer.add_tube(
        top,
        top - body_point(0, 0.23 * height, 0),
        np.multiply((0.07, 0.086, 0.09, 0.09, 0.08), height).tolist(),
        textures.bag(person.bag_colour),
        half_depths=np.multiply((0.035, 0.05, 0.056, 0.06, 0.05), height).tolist(),
        caps=(0.35, 0.2),
        fold_strength=0.04,
    )


def _add_shoulder_bag(renderer: BodyRenderer, person: Person, pose: Pose) -> None:  # noqa: ARG001 - as the other bags
    height = person.height
    top = body_point(person.bag_side * 0.118 * height * person.hips * person.build**0.8, 0.53 * height, 0.0)
    renderer.add_tube(
        top,
        top - body_point(0, 0.09 * height, 0),
        (0.05, 0.055, 0.05),
        textures.bag(person.bag_colour),
        half_depths=(0.12, 0.13, 0.12),
        depth_bias=0.05,
        caps=(0.15, 0.2),
    )


def _add_handbag(renderer: BodyRenderer, person: Person, pose: Pose) -> None:
    hand = _bag_arm(person, pose).tip
    bag_top = hand - body_point(0, 0.09, 0)
    renderer.add_tube(hand, bag_top, (0.012, 0.05), _strap_texture(person), half_depths=(0.012, 0.09), caps=(0.3, 0.1))
    renderer.add_tube(
        bag_top,
        hand - body_point(0, 0.25, 0),
        (0.05, 0.055, 0.055),
        textures.bag(person.bag_colour),
        half_depths=(0.12, 0.13, 0.14),
        depth_bias=0.01,
        caps=(0.1, 0.2),
    )


def _add_tote(renderer: BodyRenderer, person: Person, pose: Pose) -> None:
    """A bag that hangs from the shoulder, under the arm."""
    height, side, shoulder = person.height, person.bag_side, _bag_arm(person, pose).root
    top = shoulder + body_point(side * 0.045, -0.24 * height, -0.04)
    renderer.add_tube(
        shoulder + body_point(side * 0.01, 0.03, 0), top, (0.012, 0.012), _strap_texture(person), depth_bias=0.06
    )
    renderer.add_tube(
        top,
        top - body_point(0, 0.16 * height, 0),
        (0.045, 0.055, 0.06),
        textures.bag(person.bag_colour),
        half_depths=(0.13, 0.15, 0.155),
        depth_bias=0.04,
        caps=(0.1, 0.15),
        fold_strength=0.05,
    )


def _bag_arm(person: Person, pose: Pose) -> Limb:
    return pose.arms[0 if person.bag_side < 0 else 1]


def _strap_texture(person: Person) -> Texture:
    return textures.plain(textures.mix(person.bag_colour, textures.DARK, 0.25))


_ADD_BAG = {
    "backpack": _add_backpack,
    "shoulder": _add_shoulder_bag,
    "handbag": _add_handbag,
    "tote": _add_tote,
}


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
    add_bag = _ADD_BAG.get(person.bag)
    if add_bag:
        add_bag(renderer, person, pose)
    renderer.render()
    return np.ascontiguousarray(canvas.transpose(1, 2, 0)), origin
