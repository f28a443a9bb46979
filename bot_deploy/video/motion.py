"""Where nothing moves, nobody is looked for: a cheap comparison of small grey pictures decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bot_deploy.images import Pixels

MIN_CHANGE = 8  # grey values, of 255; the noise of a block's mean is below 2 in a dark room
MIN_CHANGED_BLOCKS = 3  # of a picture of `GREY_SIDE`; a person of 40 pixels covers about ten
REFERENCE_AGE_S = 1.0  # of the picture to compare with, so that slow people move far enough
HOLD_S = 1.0  # for which people are looked for after the last movement
STILL_LOOK_S = 1.0  # between two looks at people who stand still


class MotionGate:
    """Decides, picture by picture, whether a detector has to look at it."""

    def __init__(self) -> None:
        self._reference: Pixels | None = None
        self._reference_time = 0.0
        self._look_until = 0.0  # because something moved
        self._last_look = 0.0

    def needs_look(self, grey: Pixels, time: float, *, people_present: bool) -> bool:
        """Whether people may have changed on the picture `grey` [h, w] of `time`, in seconds.

        True for the first picture, where something moves and shortly after, and now and then while `people_present`.
        """
        is_first = self._reference is None
        if is_first or _moved(grey, self._reference):
            self._look_until = time + HOLD_S
        if is_first or time - self._reference_time >= REFERENCE_AGE_S:
            self._reference, self._reference_time = grey, time
        looks = time <= self._look_until or (people_present and time - self._last_look >= STILL_LOOK_S)
        if looks:
            self._last_look = time
        return looks


def _moved(grey: Pixels, reference: Pixels | None) -> bool:
    """Whether enough blocks of `grey` differ from `reference`; a lamp or the exposure changes all alike."""
    assert reference is not None
    if grey.shape != reference.shape:
        return True
    difference = grey.astype(np.int16) - reference
    difference -= np.int16(np.median(difference))
    return int(np.count_nonzero(np.abs(difference) >= MIN_CHANGE)) >= MIN_CHANGED_BLOCKS
