"""A frame and who is on it, as one picture."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bot_deploy import images
from bot_deploy.errors import ImageError
from bot_deploy.matching.verdict import UNCERTAIN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot_deploy.images import Pixels
    from bot_deploy.matching.identify import Candidate

    from .recognition import Sighting

Colour = tuple[int, int, int]

STRIP, TILE, GAP = 120, 132, 8  # pixels: width of the strip, height of a picture in it, space around
PAPER, INK, DIM = (24, 26, 30), (240, 240, 240), (150, 155, 165)
STRANGER, TROUBLE = (160, 165, 175), (190, 60, 40)
NAMED = (  # told apart by people who see colours differently too (Okabe and Ito, 2008)
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
)
LETTERS = 16  # of a name in the strip


def draw(
    pixels: Pixels,
    sightings: Sequence[Sighting],
    known: Sequence[Candidate],
    *,
    status: str = "",
    trouble: str = "",
    chosen: int | None = None,
) -> Pixels:
    """`pixels` uint8 RGB [H, W, 3] with boxes and names, and beside it the pictures of who was recognised.

    Args:
        pixels: the frame.
        sightings: the people on it.
        known: who was recognised, the last first; as many as there is room for are shown.
        status: a line at the foot.
        trouble: a line across the top.
        chosen: the track whose box is drawn thicker.

    Returns:
        uint8 RGB [H, W + STRIP, 3].
    """
    height, width = pixels.shape[:2]
    sheet = Image.new("RGB", (width + STRIP, height), PAPER)
    sheet.paste(Image.fromarray(pixels), (0, 0))
    pen = ImageDraw.Draw(sheet)
    for sighting in sightings:
        _box(pen, sighting, width, 6 if sighting.track == chosen else 3)
    pen.rectangle((width, 0, width + STRIP, height), fill=PAPER)  # over what the boxes' labels left there
    for row, candidate in enumerate(known[: height // (TILE + 2 * GAP + 24)]):
        _tile(sheet, pen, (width + GAP, GAP + row * (TILE + 2 * GAP + 24)), candidate)
    if trouble:
        _line(pen, trouble, (0, 0, width), TROUBLE)
    if status:
        _line(pen, status, (0, height - 26, width), PAPER)
    return np.asarray(sheet)


def colour_of(name: str) -> Colour:
    """The same for the same name, today and tomorrow."""
    return NAMED[sum(name.encode(errors="replace")) % len(NAMED)]


def _box(pen: ImageDraw.ImageDraw, sighting: Sighting, width: int, thickness: int) -> None:
    left, top, right, bottom = sighting.corners
    colour = colour_of(sighting.name) if sighting.name is not None else STRANGER
    pen.rectangle((left, top, right, bottom), outline=colour, width=thickness)
    text = " ".join(f"{sighting.track}  {label(sighting)}".split("\n"))
    wide = pen.textlength(text, _font(15)) + 10
    x = max(0, min(left, width - wide))
    y = max(0, top - 22)
    pen.rectangle((x, y, x + wide, y + 22), fill=colour)
    pen.text((x + 5, y + 11), text, (0, 0, 0), _font(15), anchor="lm")


def label(sighting: Sighting) -> str:
    """Who it is, in words: a name, a name with a question mark, or "unknown", with the score."""
    if sighting.who is None:
        return "unknown"
    if sighting.name is None and sighting.decision != UNCERTAIN:
        return f"unknown  {sighting.who.score:.2f}"
    return f"{sighting.who.name}{'' if sighting.name is not None else '?'}  {sighting.who.score:.2f}"


def _tile(sheet: Image.Image, pen: ImageDraw.ImageDraw, corner: tuple[int, int], candidate: Candidate) -> None:
    left, top = corner
    inner = STRIP - 2 * GAP
    small = _thumbnail(candidate.picture)
    x = left + (inner - small.shape[1]) // 2
    sheet.paste(Image.fromarray(small), (x, top))
    frame = (x - 2, top - 2, x + small.shape[1] + 1, top + TILE + 1)
    pen.rectangle(frame, outline=colour_of(candidate.name), width=2)
    name = candidate.name if len(candidate.name) <= LETTERS else candidate.name[: LETTERS - 1] + "…"
    pen.text((left + inner // 2, top + TILE + 12), name, INK, _font(13), anchor="mm")
    pen.text((left + inner // 2, top + TILE + 26), f"{candidate.score:.2f}", DIM, _font(12), anchor="mm")


def _line(pen: ImageDraw.ImageDraw, text: str, place: tuple[int, int, int], colour: Colour) -> None:
    left, top, right = place
    pen.rectangle((left, top, right, top + 26), fill=colour)
    pen.text((left + 8, top + 13), text, INK, _font(14), anchor="lm")


@lru_cache(maxsize=256)
def _thumbnail(path: Path) -> Pixels:
    try:
        return images.read_resized(path, (TILE, TILE // 2))
    except ImageError:  # moved since it was indexed; its name still says who it is
        return np.full((TILE, TILE // 2, 3), 60, np.uint8)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
