"""Procedural textures for the body parts: garments with their patterns, faces, hair, bags."""
# ruff: noqa: PLR2004 - lengths and probabilities read best in place

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .appearance import FloatRgb, Person
    from .primitives import Float32Array, Texture

Mask = npt.NDArray[np.bool_]

WHITE: FloatRgb = (0.95, 0.94, 0.92)
DARK: FloatRgb = (0.09, 0.09, 0.1)


def mix(first: FloatRgb, second: FloatRgb, share: float) -> FloatRgb:
    """Linear interpolation from `first` (share 0) to `second` (share 1)."""
    a, b, c = (x + (y - x) * share for x, y in zip(first, second, strict=True))
    return a, b, c


def _fill(like: Float32Array, colour: FloatRgb) -> Float32Array:
    """`colour` for each element of `like` [N]: RGB [N, 3]."""
    planes = np.empty((3, len(like)), dtype=np.float32)
    planes[:] = np.array(colour, dtype=np.float32)[:, None]
    return planes.T  # the channels lie one after another in memory, which is faster


def _angle_from(angle: Float32Array, centre: float) -> Float32Array:
    """The absolute angle between `angle` and `centre` around the body, 0..pi."""
    half = np.float32(np.pi)
    return np.asarray(np.abs((angle - np.float32(centre) + half) % (2 * half) - half))


def plain(colour: FloatRgb) -> Texture:
    """A single colour."""
    return lambda angle, _position: _fill(angle, colour)


def banded(*bands: tuple[float, FloatRgb]) -> Texture:
    """Bands of colour along the tube: each pair (start of the band, colour) holds until the next start."""

    def texture(angle: Float32Array, position: Float32Array) -> Float32Array:
        rgb = _fill(angle, bands[0][1])
        for start, colour in bands[1:]:
            rgb[position >= start] = colour
        return rgb

    return texture


def _pattern(person: Person, angle: Float32Array, metres: Float32Array, radius: float, *, sleeve: bool) -> Mask | None:
    """The mask of the accent colour, or None. `metres` runs down the garment; `radius` is in metres."""
    along_girth = (angle + np.float32(0.35)) * np.float32(radius)
    match person.pattern:
        case "rows":
            return np.asarray(metres % 0.092 < 0.042)
        case "columns":
            return np.asarray(along_girth % 0.075 < 0.026)
        case "checks":
            return np.asarray((metres % 0.12 < 0.045) ^ (along_girth % 0.12 < 0.045))
        case "block":
            return np.ones(len(angle), dtype=np.bool_) if sleeve else np.asarray(metres < 0.14)
        case "dots":
            row = np.floor(metres / 0.075)
            dx, dy = (along_girth + row * 0.0375) % 0.075 - 0.0375, metres % 0.075 - 0.0375
            return np.asarray(dx * dx + dy * dy < 0.021**2)
    return None


def upper_garment(person: Person, length: float, radius: float, *, sleeve: bool = False, start: float = 0.0) -> Texture:
    """The upper garment on a tube of `length` metres; sleeves have its pattern but no print."""
    base, accent = person.palette.upper, person.palette.accent

    def texture(angle: Float32Array, position: Float32Array) -> Float32Array:
        rgb = _fill(angle, base)
        accented = _pattern(person, angle, start + position * np.float32(length), radius, sleeve=sleeve)
        if accented is not None:
            rgb[accented] = accent
        return rgb

    return texture


def _draw_straps(
    person: Person, rgb: Float32Array, angle: Float32Array, position: Float32Array, metres: Float32Array
) -> None:
    """Paint the straps of the bag on the torso colours `rgb` [N, 3]."""
    strap = mix(person.bag_colour, DARK, 0.25)
    if person.bag == "backpack":
        rgb[(_angle_from(angle, 0.72) < 0.15) & (position < 0.62)] = strap
        rgb[(_angle_from(angle, -0.72) < 0.15) & (position < 0.62)] = strap
    elif person.bag == "shoulder":
        # The strap runs from the opposite shoulder to the bag on the hip, in front and behind.
        line = person.bag_side * (3.4 * (metres - 0.3))
        rgb[(_angle_from(angle, 0.0) < 1.7) & (np.abs(angle - line) < 0.19) & (metres < 0.55)] = strap
        behind = (np.pi - np.abs(angle)) * np.sign(angle)
        rgb[(_angle_from(angle, np.pi) < 1.5) & (np.abs(behind - line) < 0.19) & (metres < 0.55)] = strap
    elif person.bag == "tote":
        rgb[(_angle_from(angle, 1.15 * person.bag_side) < 0.16) & (metres < 0.3)] = strap


def torso(person: Person, length: float, radius: float) -> Texture:
    """The upper garment with its collar, opening, print, pocket and the straps of the bag; position 0 is the neck."""
    garment = upper_garment(person, length, radius)
    base, accent = person.palette.upper, person.palette.accent
    trim = mix(base, DARK, 0.45) if sum(base) > 0.9 else mix(base, WHITE, 0.3)

    def texture(angle: Float32Array, position: Float32Array) -> Float32Array:
        rgb = garment(angle, position)
        metres = position * np.float32(length)
        front = _angle_from(angle, 0.0)
        back = _angle_from(angle, np.pi)
        if person.pattern == "print":
            chest = (front < 0.62) & (np.abs(metres - 0.22) < 0.085)
            rgb[chest] = accent
            rgb[chest & (np.abs(metres - 0.22) < 0.03) & (front < 0.45)] = mix(base, accent, 0.15)
            rgb[(back < 0.85) & (np.abs(metres - 0.16) < 0.028)] = accent
        if person.cut in ("jacket", "coat"):
            opening = 0.2 + 0.3 * position if person.cut == "jacket" else 0.62 - 1.3 * position
            rgb[front < opening + 0.13] = trim
            rgb[front < opening] = person.inner_colour
            if person.cut == "coat":
                rgb[(np.abs(front - 0.16) < 0.06) & (metres % 0.13 < 0.03) & (metres > 0.25)] = trim
                rgb[np.abs(metres - 0.42) < 0.025] = trim
        elif person.cut == "hoodie":
            rgb[(np.abs(metres - 0.46) < 0.085) & (front < 0.35 + 1.4 * (metres - 0.36))] = mix(base, trim, 0.55)
            rgb[(np.abs(front - 0.16) < 0.05) & (metres > 0.07) & (metres < 0.2)] = WHITE
            rgb[position > 0.95] = trim
        elif person.cut == "vest":
            rgb[(front < 0.55) & (metres < 0.13 - 0.1 * front)] = person.skin
        elif person.cut == "dress":
            rgb[(front < 0.5) & (metres < 0.11 - 0.08 * front)] = person.skin
            rgb[np.abs(metres - 0.42) < 0.022] = accent
        else:
            rgb[(front < 0.5) & (metres < 0.085)] = person.skin if person.cut == "tee" else trim
        _draw_straps(person, rgb, angle, position, metres)
        return rgb

    return texture


def skirt(person: Person, radius: float) -> Texture:
    """A skirt in the colour of the lower garment; a long skirt has pleats."""
    lower = person.palette.lower
    pleat = mix(lower, DARK, 0.35) if sum(lower) > 0.7 else mix(lower, WHITE, 0.18)

    def texture(angle: Float32Array, position: Float32Array) -> Float32Array:
        rgb = _fill(angle, lower)
        if person.lower_garment == "long skirt":
            rgb[((angle * np.float32(radius)) % 0.07 < 0.02) & (position > 0.1)] = pleat
        else:
            rgb[position > 0.9] = pleat
        return rgb

    return texture


def head(person: Person) -> Texture:
    """Face, ears, and the hair or hat on the skull; -1 is the crown and 1 the chin."""
    skin, hair = person.skin, person.hair_colour
    blush = mix(skin, (0.75, 0.3, 0.28), 0.22)
    hairline = {"long": 1.0, "ponytail": 0.42, "bun": 0.42, "curly": 0.6}.get(person.hair, 0.38)
    side = 1.0 if person.hair in ("long", "curly") else 1.2

    def texture(angle: Float32Array, down: Float32Array) -> Float32Array:
        rgb = _fill(angle, skin)
        front = _angle_from(angle, 0.0)
        rgb[(np.abs(front - 0.62) < 0.25) & (np.abs(down - 0.25) < 0.16)] = blush
        if person.beard:
            rgb[(down > 0.3 - 0.12 * front) & (front < 1.5)] = mix(hair, skin, 0.25)
        rgb[(np.abs(front - 0.4) < 0.17) & (np.abs(down - 0.02) < 0.075)] = DARK
        rgb[(np.abs(front - 0.4) < 0.26) & (np.abs(down + 0.17) < 0.045)] = mix(hair, skin, 0.2)
        rgb[(front < 0.24) & (np.abs(down - 0.52) < 0.055)] = mix(skin, (0.6, 0.15, 0.15), 0.55)
        rgb[(front < 0.1) & (down > 0.0) & (down < 0.3)] = mix(skin, WHITE, 0.25)
        if person.glasses:
            rgb[(np.abs(front - 0.42) < 0.3) & (np.abs(down - 0.02) < 0.14)] = (0.1, 0.1, 0.12)
            rgb[(front < 1.4) & (np.abs(down + 0.04) < 0.045)] = (0.1, 0.1, 0.12)
        if person.hair == "bald":
            return rgb
        rgb[(down < -0.42 + 0.12 * front) | ((front > side) & (down < hairline))] = hair
        if hairline < 1:
            rgb[((front - 1.5) / 0.2) ** 2 + ((down - 0.12) / 0.2) ** 2 < 1] = mix(skin, DARK, 0.1)
        if person.hair == "beanie":
            edge = -0.3 + 0.12 * front
            rgb[down < edge] = person.hat_colour
            rgb[np.abs(down - edge + 0.12) < 0.12] = mix(person.hat_colour, DARK, 0.3)
        elif person.hair == "cap":
            rgb[down < -0.34 + 0.08 * front] = person.hat_colour
        return rgb

    return texture


def hood(person: Person) -> Texture:
    """A raised hood: cloth around a face in shadow."""
    face, cloth = head(person), mix(person.palette.upper, DARK, 0.08)

    def texture(angle: Float32Array, down: Float32Array) -> Float32Array:
        rgb = face(angle, np.clip(down * np.float32(1.15), -1, 1))
        front = _angle_from(angle, 0.0)
        outside = (front / 0.95) ** 2 + (down - 0.12) ** 2 / 0.62 > 1
        rgb[outside] = cloth
        rgb[outside & ((front / 1.1) ** 2 + (down - 0.12) ** 2 / 0.8 < 1)] = mix(cloth, DARK, 0.4)
        return rgb

    return texture


def bag(colour: FloatRgb) -> Texture:
    """A backpack or bag with a pocket and a zip on its outer side, which faces backwards."""
    dark, light = mix(colour, DARK, 0.4), mix(colour, WHITE, 0.22)

    def texture(angle: Float32Array, position: Float32Array) -> Float32Array:
        rgb = _fill(angle, colour)
        outer = _angle_from(angle, np.pi) < 1.05
        rgb[outer & (position > 0.48) & (position < 0.93)] = light
        rgb[(np.abs(position - 0.48) < 0.03) | (np.abs(position - 0.12) < 0.025)] = dark
        return rgb

    return texture
