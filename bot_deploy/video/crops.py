"""Crops of people: cut a box out of a frame, and tell whether it shows the whole person."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bot_deploy.images import Pixels

    from .tracks import Xyxy

MAX_OCCLUSION = 0.3  # share of a box behind a nearer one; with more, the crop shows two people
FRAME_EDGE_PX = 2  # pixels; a box so close to the frame's edge is cut off by it
MAX_ASPECT_RATIO = 0.7  # width / height; a wider box shows a person who bends, or a part of one


def crop_box(pixels: Pixels, xyxy: Xyxy) -> Pixels:
    """A copy of the part of `pixels` uint8 [H, W, 3] inside the box: uint8 [h, w, 3], at least one pixel."""
    height, width = pixels.shape[:2]
    left, top = min(max(0, round(xyxy[0])), width - 1), min(max(0, round(xyxy[1])), height - 1)
    right, bottom = max(left + 1, round(xyxy[2])), max(top + 1, round(xyxy[3]))
    return pixels[top:bottom, left:right].copy()  # a view would keep the whole frame in memory


def shows_whole_person(xyxy: Xyxy, others: list[Xyxy], frame_size: tuple[int, int]) -> bool:
    """Whether the box shows a whole person: not cut off by the frame's edge, not behind a nearer person.

    Args:
        xyxy: the box.
        others: the other boxes of the frame; one whose lower edge is lower is nearer.
        frame_size: height and width of the frame, in pixels.
    """
    left, top, right, bottom = xyxy
    height, width = frame_size
    if left < FRAME_EDGE_PX or top < FRAME_EDGE_PX or right > width - FRAME_EDGE_PX or bottom > height - FRAME_EDGE_PX:
        return False
    if right - left > MAX_ASPECT_RATIO * (bottom - top):
        return False
    area = (right - left) * (bottom - top)
    for other in others:
        overlap_width = min(right, other[2]) - max(left, other[0])
        overlap_height = min(bottom, other[3]) - max(top, other[1])
        overlap = max(0.0, overlap_width) * max(0.0, overlap_height)
        if other[3] > bottom and overlap > MAX_OCCLUSION * area:
            return False
    return True
