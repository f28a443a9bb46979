"""Lets the user click one of several people on a frame, in a window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from .window import ESCAPE, Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bot_deploy.images import Pixels
    from bot_deploy.video.tracks import Xyxy

TITLE = "bot: click the person"
COLOUR = (86, 180, 233)
LINE_SHARE = 1 / 240  # width of a box's line, of the frame's height
WAIT_S = 0.05


def choose_person(frame: Pixels, boxes: Sequence[Xyxy]) -> int | None:
    """The number of the box that the user clicks; None if the user closes the window, or presses Escape or q.

    Args:
        frame: uint8 RGB [H, W, 3].
        boxes: left, top, right and bottom of each person, in pixels.

    Raises:
        RunError: no window can be opened.
    """
    picture = Image.fromarray(frame)
    pen = ImageDraw.Draw(picture)
    for box in boxes:
        pen.rectangle(tuple(box), outline=COLOUR, width=max(1, round(frame.shape[0] * LINE_SHARE)))
    with Window(TITLE) as window:
        window.show(np.asarray(picture))
        while not window.is_closed:
            if window.wait_key(WAIT_S) in {ESCAPE, ord("q")}:
                break
            click = window.take_click()
            chosen = None if click is None else box_at(boxes, *click)
            if chosen is not None:
                return chosen
    return None


def box_at(boxes: Sequence[Xyxy], x: float, y: float) -> int | None:
    """The number of the smallest of `boxes` around the point (x, y); None if there is none."""
    around = [
        ((right - left) * (bottom - top), number)
        for number, (left, top, right, bottom) in enumerate(boxes)
        if left <= x <= right and top <= y <= bottom
    ]
    return min(around)[1] if around else None
