"""A moment of a video as a query: entrance.mp4@00:12:31, and a box on the frame or the only person there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bot_deploy.errors import InputError
from bot_deploy.video.crops import crop_box
from bot_deploy.video.sources.video_file import VideoSource

from .times import format_position, parse_position
from .videos import is_video

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bot_deploy.images import Pixels
    from bot_deploy.video.detectors import Detector
    from bot_deploy.video.tracks import Xyxy

logger = logging.getLogger(__name__)

Xywh = tuple[int, int, int, int]  # left, top, width, height in pixels


class Moment(NamedTuple):
    """A time of a video."""

    video: Path
    time: float  # seconds


def parse_moment(query: Path) -> Moment | None:
    """The moment that `query` names as VIDEO@TIME; None for anything else, also for a file of that name."""
    name, at, text = str(query).rpartition("@")
    time = parse_position(text)
    if not at or time is None or not is_video(Path(name)) or query.exists():
        return None
    return Moment(Path(name), time)


def read_moment(
    moment: Moment,
    box: Xywh | None,
    open_detector: Callable[[], Detector],
    choose: Callable[[Pixels, Sequence[Xyxy]], int | None] | None = None,
) -> Pixels:
    """The crop of the person at `moment`, uint8 RGB [h, w, 3].

    Args:
        moment: a time of a video.
        box: where the person is; None for the only person on the frame.
        open_detector: opens what finds the person, where there is no `box`.
        choose: asks the user which of several people on a frame it is: from the frame and the boxes of all to the
            number of one of them, or None for no answer.

    Raises:
        InputError: no such video or time; the box is outside the frame; or there is not exactly one person, and none
            of them was chosen.
    """
    if not moment.video.is_file():
        raise InputError(f"{moment.video}: no such file")
    pixels = _read_frame(moment)
    height, width = pixels.shape[:2]
    if box is None:
        return crop_box(pixels, _find_person(moment, pixels, open_detector(), choose))
    left, top, box_width, box_height = box
    if left >= width or top >= height or left + box_width <= 0 or top + box_height <= 0:
        raise InputError(f"{moment.video}: the frame is {width}x{height} pixels; the box is outside", parameter="box")
    return crop_box(pixels, (left, top, left + box_width, top + box_height))


def _read_frame(moment: Moment) -> Pixels:
    """The last frame that is not after `moment`."""
    with VideoSource(str(moment.video), str(moment.video.absolute())) as source:
        if source.times_note:
            logger.info(f"{moment.video}: {source.times_note}")
        source.seek(moment.time)
        last = None
        for picture in source.pictures():
            if last is not None and picture.time > moment.time:
                return last.pixels()
            last = picture
        if last is None or moment.time > last.time + 1:
            end = format_position(last.time if last else source.seconds)
            raise InputError(f"{moment.video}: ends at {end}, before {format_position(moment.time)}")
        return last.pixels()


def _find_person(
    moment: Moment,
    pixels: Pixels,
    detector: Detector,
    choose: Callable[[Pixels, Sequence[Xyxy]], int | None] | None,
) -> Xyxy:
    found: list[Xyxy] = [tuple(box) for box in detector.detect(pixels).xyxy.tolist()]
    chosen = 0 if len(found) == 1 else choose(pixels, found) if choose and found else None
    if chosen is not None:
        return found[chosen]
    boxes = " ".join(
        f"{left:.0f},{top:.0f},{right - left:.0f},{bottom - top:.0f}" for left, top, right, bottom in found
    )
    raise InputError(
        f"{moment.video} at {format_position(moment.time)}: {len(found) or 'no'} people are found; choose a box of "
        f"left,top,width,height{': ' if boxes else ''}{boxes}",
        parameter="box",
    )
