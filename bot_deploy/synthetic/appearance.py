"""The appearance of a person: body, hair, clothes and bag, sampled at random."""
# ruff: noqa: PLR2004 - lengths and probabilities read best in place

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

FloatRgb = tuple[float, float, float]  # RGB in 0..1


def _hex(code: str) -> FloatRgb:
    red, green, blue = bytes.fromhex(code)
    return red / 255, green / 255, blue / 255


UPPER_COLOURS = tuple(
    _hex(code)
    for code in [
        "23262b",
        "f1eee6",
        "8d9299",
        "1f3a63",
        "3f6fa8",
        "b3342f",
        "7c2a33",
        "2f6b4f",
        "77804a",
        "d9a441",
        "c9683a",
        "6c4a7e",
        "d98c9b",
        "3d8a8f",
        "c8b08a",
    ]
)
LOWER_COLOURS = tuple(
    _hex(code) for code in ["1d1f24", "2b3a55", "4a6a94", "6d7278", "b7a27c", "5b4636", "e4ddd0", "3c4a3a"]
)
ACCENT_COLOURS = tuple(
    _hex(code) for code in ["f4f1ea", "1c2230", "d6453d", "f0c24b", "2f6fb0", "2f8f6b", "e58fa0", "f08a3c"]
)
SHOE_COLOURS = tuple(_hex(code) for code in ["f2f0ea", "1e1e20", "7a4b2c", "b83a35", "2f5d9c", "9aa0a6"])
BAG_COLOURS = tuple(
    _hex(code) for code in ["22252a", "7a4a2b", "9b2f2f", "2e5a88", "3f6b45", "d8b25a", "d9cdb8", "5d4a78"]
)
SKIN_TONES = tuple(_hex(code) for code in ["f3d3bd", "e8bd9c", "d39f76", "b57b52", "8c5a3a", "5f3c28"])
HAIR_COLOURS = tuple(_hex(code) for code in ["1a1614", "2e211a", "4c3222", "7a4e2c", "b48a55", "8c3b24", "a9a6a3"])

CUTS = ("tee", "vest", "long", "jacket", "hoodie", "coat", "dress")
PATTERNS = ("plain", "rows", "columns", "checks", "block", "print", "dots")
LOWER_GARMENTS = ("slim", "wide", "shorts", "skirt", "long skirt")
HAIR_STYLES = ("short", "long", "bun", "ponytail", "bald", "curly", "cap", "beanie", "hood")
BAGS = ("none", "backpack", "shoulder", "handbag", "tote")


@dataclass(frozen=True)
class Palette:
    """Clothing colours, which several people may share."""

    upper: FloatRgb
    lower: FloatRgb
    accent: FloatRgb


@dataclass(frozen=True)
class Person:
    """The appearance of one person, whatever the camera and the pose. Lengths are metres; a side is -1 or 1."""

    palette: Palette
    height: float
    build: float  # relative thickness of body and limbs; 1 is the average
    shoulders: float  # relative width; 1 is the average
    hips: float  # relative width; 1 is the average
    skin: FloatRgb
    hair: str
    hair_colour: FloatRgb
    cut: str
    pattern: str
    inner_colour: FloatRgb  # of the shirt under an open jacket or coat
    lower_garment: str
    shoe_colour: FloatRgb
    sole_colour: FloatRgb
    boots: bool
    bag: str
    bag_colour: FloatRgb
    bag_side: int
    hat_colour: FloatRgb
    glasses: bool
    beard: bool
    scarf: bool
    stride: float  # relative length of a step; 1 is usual
    variation: int  # 0 to 255; offset of the folds and of the gait; even: tights under a dress


T = TypeVar("T")


def _pick(rng: np.random.Generator, choices: tuple[T, ...], weights: tuple[float, ...] | None = None) -> T:
    probabilities = None if weights is None else np.asarray(weights) / np.sum(weights)
    return choices[int(rng.choice(len(choices), p=probabilities))]


def _contrast(first: FloatRgb, second: FloatRgb) -> float:
    return float(np.abs(np.subtract(first, second)).sum())


def sample_palette(rng: np.random.Generator) -> Palette:
    """Sample the upper, lower and accent colours; upper and lower differ, and the accent contrasts with the upper."""
    upper = _pick(rng, UPPER_COLOURS)
    lower = _pick(rng, tuple(colour for colour in LOWER_COLOURS if _contrast(colour, upper) > 0.25), None)
    accent = _pick(rng, tuple(colour for colour in ACCENT_COLOURS if _contrast(colour, upper) > 0.8))
    return Palette(upper, lower, accent)


def sample_person(rng: np.random.Generator, palette: Palette) -> Person:
    """Sample a person in the colours of `palette`."""
    cut = _pick(rng, CUTS, (4, 1.2, 3, 3, 2.5, 2, 2))
    hair = _pick(rng, HAIR_STYLES, (5, 4, 2, 2.5, 1, 1.5, 1.5, 1, 1.5 if cut == "hoodie" else 0))
    inner_colour = _pick(rng, tuple(colour for colour in ACCENT_COLOURS if _contrast(colour, palette.upper) > 0.8))
    shoe_colour = _pick(rng, SHOE_COLOURS)
    shoulder_width = float(rng.normal(0, 1))
    return Person(
        palette=palette,
        height=float(np.clip(rng.normal(1.71, 0.09), 1.52, 1.93)),
        build=float(np.clip(rng.normal(1.0, 0.14), 0.78, 1.38)),
        shoulders=float(np.clip(1.0 + 0.055 * shoulder_width, 0.9, 1.12)),
        hips=float(np.clip(1.0 - 0.04 * shoulder_width + rng.normal(0, 0.04), 0.88, 1.14)),
        skin=_pick(rng, SKIN_TONES),
        hair=hair,
        hair_colour=_pick(rng, HAIR_COLOURS, (4, 3, 3, 2, 2, 0.8, 1)),
        cut=cut,
        pattern=_pick(rng, PATTERNS, (4, 2, 1.2, 1.5, 2, 2.5, 1)),
        inner_colour=inner_colour,
        lower_garment="slim" if cut == "dress" else _pick(rng, LOWER_GARMENTS, (5, 2.5, 2.5, 1.8, 1.2)),
        shoe_colour=shoe_colour,
        sole_colour=_pick(rng, ((0.93, 0.92, 0.9), (0.12, 0.12, 0.12)), (2, 1)),
        boots=bool(rng.random() < 0.2),
        bag=_pick(rng, BAGS, (3, 3, 2, 1.2, 1.6)),
        bag_colour=_pick(rng, BAG_COLOURS),
        bag_side=int(rng.choice((-1, 1))),
        hat_colour=_pick(rng, BAG_COLOURS),
        glasses=bool(rng.random() < 0.15),
        beard=bool(hair in ("short", "bald", "cap", "beanie") and rng.random() < 0.3),
        scarf=bool(cut in ("jacket", "coat") and rng.random() < 0.35),
        stride=float(rng.uniform(0.75, 1.15)),
        variation=int(rng.integers(256)),
    )


def _count_shared_traits(first: Person, second: Person) -> int:
    traits = ("cut", "pattern", "lower_garment", "hair", "bag")
    return sum(getattr(first, trait) == getattr(second, trait) for trait in traits)


def sample_group(rng: np.random.Generator, size: int) -> tuple[Person, ...]:
    """Sample `size` people in the same colours; two of them share at most 2 of 5 traits (cut, pattern, hair, ...)."""
    palette = sample_palette(rng)
    group: list[Person] = []
    while len(group) < size:
        person = sample_person(rng, palette)
        if all(_count_shared_traits(person, other) <= 2 for other in group):
            group.append(person)
    return tuple(group)
