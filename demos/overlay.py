"""The picture that the live demo shows: the frame with boxes and names, and a strip of recognised people."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bot_deploy import images
from bot_deploy.errors import ImageError
from bot_deploy.escaping import escape
from bot_deploy.matching.verdict import UNCERTAIN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot_deploy.images import Pixels
    from bot_deploy.matching.identify import Candidate

    from .recognition import TrackedPerson

Colour = tuple[int, int, int]

# All in pixels.
STRIP_WIDTH, TILE_HEIGHT, GAP = 120, 132, 8  # the strip, a picture in it, the space around
TILE_PITCH = TILE_HEIGHT + 2 * GAP + 24  # from one picture of the strip to the next, with name and score
LINE_HEIGHT, LABEL_HEIGHT = 26, 22
BOX_THICKNESS, SELECTED_THICKNESS = 3, 6

BACKGROUND, TEXT, DIM_TEXT = (24, 26, 30), (240, 240, 240), (150, 155, 165)
STRANGER_COLOUR, PROBLEM_COLOUR = (160, 165, 175), (190, 60, 40)
NAME_COLOURS = (  # distinct for colour-blind people too (Okabe and Ito, 2008)
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
)
MAX_NAME_LETTERS = 16  # in the strip


def draw(
    pixels: Pixels,
    persons: Sequence[TrackedPerson],
    recent: Sequence[Candidate],
    *,
    status: str = "",
    problem: str = "",
    selected: int | None = None,
) -> Pixels:
    """Draws boxes and names on a copy of the frame, and the recognised people beside it.

    Args:
        pixels: the frame, uint8 RGB [H, W, 3].
        persons: the people on it.
        recent: recognised people, the last one first; those that fit in the strip are drawn.
        status: a line at the bottom.
        problem: a line at the top.
        selected: id of the track whose box is thicker.

    Returns:
        uint8 RGB [H, W + STRIP_WIDTH, 3].
    """
    height, width = pixels.shape[:2]
    sheet = Image.new("RGB", (width + STRIP_WIDTH, height), BACKGROUND)
    sheet.paste(Image.fromarray(pixels), (0, 0))
    pen = ImageDraw.Draw(sheet)
    for person in persons:
        _draw_box(pen, person, width, SELECTED_THICKNESS if person.track_id == selected else BOX_THICKNESS)
    pen.rectangle((width, 0, width + STRIP_WIDTH, height), fill=BACKGROUND)  # covers parts of labels
    for row, candidate in enumerate(recent[: height // TILE_PITCH]):
        _draw_tile(sheet, pen, (width + GAP, GAP + row * TILE_PITCH), candidate)
    if problem:
        _draw_line(pen, problem, (0, 0, width), PROBLEM_COLOUR)
    if status:
        _draw_line(pen, status, (0, height - LINE_HEIGHT, width), BACKGROUND)
    return np.asarray(sheet)


def name_colour(name: str) -> Colour:
    """The colour of a name; always the same for the same name."""
    return NAME_COLOURS[sum(name.encode(errors="replace")) % len(NAME_COLOURS)]


def label(person: TrackedPerson) -> str:
    """A name, a name with a question mark, or "unknown"; with the score."""
    if person.candidate is None:
        return "unknown"
    if person.name is None and person.decision != UNCERTAIN:
        return f"unknown  {person.candidate.score:.2f}"
    return f"{person.candidate.name}{'' if person.name is not None else '?'}  {person.candidate.score:.2f}"


def _draw_box(pen: ImageDraw.ImageDraw, person: TrackedPerson, width: int, thickness: int) -> None:
    left, top, right, bottom = person.xyxy
    colour = name_colour(person.name) if person.name is not None else STRANGER_COLOUR
    pen.rectangle((left, top, right, bottom), outline=colour, width=thickness)
    text = f"{person.track_id}  {escape(label(person))}"
    label_width = pen.textlength(text, _font(15)) + 10
    x = max(0, min(left, width - label_width))
    y = max(0, top - LABEL_HEIGHT)
    pen.rectangle((x, y, x + label_width, y + LABEL_HEIGHT), fill=colour)
    pen.text((x + 5, y + LABEL_HEIGHT // 2), text, (0, 0, 0), _font(15), anchor="lm")


def _draw_tile(sheet: Image.Image, pen: ImageDraw.ImageDraw, corner: tuple[int, int], candidate: Candidate) -> None:
    left, top = corner
    inner_width = STRIP_WIDTH - 2 * GAP
    colour = name_colour(candidate.name)
    thumbnail = _thumbnail(candidate.crop_path)
    x = left + (inner_width - thumbnail.shape[1]) // 2
    sheet.paste(Image.fromarray(thumbnail), (x, top))
    pen.rectangle((x - 2, top - 2, x + thumbnail.shape[1] + 1, top + TILE_HEIGHT + 1), outline=colour, width=2)
    name = escape(candidate.name)
    if len(name) > MAX_NAME_LETTERS:
        name = name[: MAX_NAME_LETTERS - 1] + "…"
    centre = left + inner_width // 2
    pen.text((centre, top + TILE_HEIGHT + 12), name, TEXT, _font(13), anchor="mm")
    pen.text((centre, top + TILE_HEIGHT + 26), f"{candidate.score:.2f}", DIM_TEXT, _font(12), anchor="mm")


def _draw_line(pen: ImageDraw.ImageDraw, text: str, place: tuple[int, int, int], colour: Colour) -> None:
    left, top, right = place
    pen.rectangle((left, top, right, top + LINE_HEIGHT), fill=colour)
    pen.text((left + 8, top + LINE_HEIGHT // 2), escape(text), TEXT, _font(14), anchor="lm")


@lru_cache(maxsize=256)
def _thumbnail(path: Path) -> Pixels:
    try:
        return images.read_resized(path, (TILE_HEIGHT, TILE_HEIGHT // 2))
    except ImageError:  # the file was moved after indexing; the name below is still right
        return np.full((TILE_HEIGHT, TILE_HEIGHT // 2, 3), 60, np.uint8)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
