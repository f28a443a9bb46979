"""The picture that the live demo shows: the frame with boxes and names, and a strip of recognised people."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bot_deploy import images
from bot_deploy.errors import ImageError
from bot_deploy.escaping import escape
from bot_deploy.matching.verdict import UNCERTAIN

from .grid import arrange

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot_deploy.images import Pixels
    from bot_deploy.matching.identify import Candidate
    from bot_deploy.video.tracks import Xyxy

    from .grid import Grid
    from .recognition import TrackedPerson

Colour = tuple[int, int, int]

# All in pixels.
STRIP_WIDTH, TILE_HEIGHT, GAP = 120, 132, 8  # the strip, a picture in it, the space around
TILE_PITCH = TILE_HEIGHT + 2 * GAP + 24  # from one picture of the strip to the next, with name and score
LINE_HEIGHT = 26
MIN_LETTERS = 9  # that can still be read

BOX_SHARE = 1 / 180  # line of a box, of the frame's height
LETTER_SHARE, PERSON_LETTER_SHARE = 1 / 36, 1 / 6  # letters of a label, of the height of the frame and of the person
LABEL_LETTERS = 1.5  # height of a label, in its letters

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
NAME_OUTLINE: dict[str, Any] = {"stroke_width": 2, "stroke_fill": BACKGROUND}  # of a camera's name
MAX_NAME_LETTERS = 16  # in the strip


class View(NamedTuple):
    """What one camera shows."""

    pixels: Pixels  # the frame, uint8 RGB [H, W, 3]
    persons: Sequence[TrackedPerson] = ()  # on it
    name: str = ""  # of the camera, which is drawn if there are several
    problem: str = ""  # a line at the top
    selected: int | None = None  # id of the track whose box is thicker


def draw(views: Sequence[View], recent: Sequence[Candidate], *, status: str = "") -> Pixels:
    """Draws the frames of all cameras with boxes and names, in a grid, and the recognised people beside them.

    Args:
        views: one for each camera, at least one.
        recent: recognised people, the last one first; those that fit in the strip are drawn.
        status: a line at the bottom.

    Returns:
        uint8 RGB [H, W + STRIP_WIDTH, 3], where H and W are those of the grid; of a single frame, its own.
    """
    grid = grid_of(views)
    height, width = grid.size
    sheet = Image.new("RGB", (width + STRIP_WIDTH, height), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for number, view in enumerate(views):
        place = grid.place(number, _size(view))
        cell = _draw_view(view, place.scale, view.name if len(views) > 1 else "")
        sheet.paste(cell, (place.left, place.top))
    for row, candidate in enumerate(recent[: height // TILE_PITCH]):
        _draw_tile(sheet, pen, (width + GAP, GAP + row * TILE_PITCH), candidate)
    if status:
        _draw_line(pen, status, (0, height - LINE_HEIGHT, width), BACKGROUND)
    return np.asarray(sheet)


def grid_of(views: Sequence[View]) -> Grid:
    """Where `draw` draws the frames of `views`."""
    return arrange(len(views), _size(views[0]))


def find_point(point: tuple[int, int], views: Sequence[View]) -> tuple[int, tuple[float, float]] | None:
    """The camera that is drawn at `point` (x, y) of the picture, and the point on its frame; None beside them."""
    return grid_of(views).find(point, [_size(view) for view in views])


def _size(view: View) -> tuple[int, int]:
    return view.pixels.shape[0], view.pixels.shape[1]


def _draw_view(view: View, scale: float, name: str) -> Image.Image:
    """The frame of `view` at `scale`, with boxes and lines."""
    height, width = (max(1, round(scale * side)) for side in _size(view))
    picture = Image.fromarray(view.pixels if scale == 1 else images.resize(view.pixels, (height, width)))
    pen = ImageDraw.Draw(picture)
    thin = max(1, round(BOX_SHARE * height))
    boxes = [_scaled(person.xyxy, scale) for person in view.persons]
    for person, box in zip(view.persons, boxes, strict=True):
        thickness = 2 * thin + 3 if person.track_id == view.selected else thin
        pen.rectangle(box, outline=box_colour(person), width=thickness)
    _draw_labels(pen, view.persons, boxes, (height, width))
    if name:
        pen.text((GAP, LINE_HEIGHT if view.problem else 0), escape(name), TEXT, _font(14), **NAME_OUTLINE)
    if view.problem:
        _draw_line(pen, view.problem, (0, 0, width), PROBLEM_COLOUR)
    return picture


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


def box_colour(person: TrackedPerson) -> Colour:
    """The colour of the name, or grey without one."""
    return name_colour(person.name) if person.name is not None else STRANGER_COLOUR


def _scaled(xyxy: Xyxy, scale: float) -> Xyxy:
    left, top, right, bottom = xyxy
    return scale * left, scale * top, scale * right, scale * bottom


def _draw_labels(
    pen: ImageDraw.ImageDraw, persons: Sequence[TrackedPerson], boxes: Sequence[Xyxy], size: tuple[int, int]
) -> None:
    """Writes who is in each of `boxes` beside it, where the label hides least of all people and other labels."""
    taken = list(boxes)
    for person, box in zip(persons, boxes, strict=True):
        text = f"{person.track_id}  {escape(label(person))}"
        letters = letter_size(box[3] - box[1], size[0])
        label_size = round(LABEL_LETTERS * letters), round(pen.textlength(text, _font(letters)) + letters * 2 / 3)
        left, top, right, bottom = place_label(label_size, box, taken, size)
        taken.append((left, top, right, bottom))
        pen.rectangle((left, top, right - 1, bottom - 1), fill=box_colour(person))
        middle = left + letters / 3, (top + bottom) // 2
        pen.text(middle, text, (0, 0, 0), _font(letters), anchor="lm")


def letter_size(person_height: float, frame_height: float) -> int:
    """Pixels of the letters of a label: smaller on small frames, and for small people."""
    return max(MIN_LETTERS, min(round(LETTER_SHARE * frame_height), round(PERSON_LETTER_SHARE * person_height)))


def place_label(label_size: tuple[int, int], box: Xyxy, taken: Sequence[Xyxy], size: tuple[int, int]) -> Xyxy:
    """The box of a label of `label_size`, height and width, beside `box` and inside a frame of `size`.

    It stands above, below, to the right or to the left: at the first of the places where it hides least of `taken`.
    """
    height, width = label_size
    left, top, right, bottom = box
    corners = ((left, top - height), (left, bottom), (right, top), (left - width, top))
    inside = [(max(0, min(x, size[1] - width)), max(0, min(y, size[0] - height))) for x, y in corners]
    places = [(x, y, x + width, y + height) for x, y in inside]
    return min(places, key=lambda place: sum(_overlap(place, other) for other in taken))


def _overlap(first: Xyxy, second: Xyxy) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)


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
