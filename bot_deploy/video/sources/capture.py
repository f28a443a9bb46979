"""Safe calls of cv2.VideoCapture: drivers may raise anything, report nonsense, or give any kind of picture."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from bot_deploy.images import Pixels

DEFAULT_FPS = 25.0  # where a capture reports no usable frame rate
MAX_REPORTED_FPS = 300.0  # some containers report 1000 or 90000, which is the rate of their clock


class Capture(Protocol):
    """The methods of cv2.VideoCapture that sources use."""

    def isOpened(self) -> bool: ...  # noqa: N802
    def read(self) -> tuple[bool, Any]: ...
    def get(self, prop: int, /) -> float: ...
    def release(self) -> None: ...


def open_capture(make_capture: Callable[[], Capture]) -> Capture | None:
    """The capture that `make_capture` returns; None if it does not open."""
    try:
        capture = make_capture()
    except Exception:  # noqa: BLE001 - a driver may raise anything; the capture did not open
        return None
    if capture.isOpened():
        return capture
    release(capture)
    return None


def read_pixels(capture: Capture) -> Pixels | None:
    """The next picture as OpenCV gives it: BGR, BGRA or grey; None if there is none."""
    try:
        is_read, pixels = capture.read()
    except Exception:  # noqa: BLE001 - a driver may raise anything; there is no picture
        return None
    if not is_read or pixels is None or not pixels.size or pixels.shape[2:] not in {(), (1,), (3,), (4,)}:
        return None
    return np.asarray(pixels)


def to_rgb(pixels: Pixels) -> Pixels:
    """A picture of `read_pixels`, 8 or 16 bits, as uint8 RGB [H, W, 3]."""
    import cv2

    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    conversions = {(): cv2.COLOR_GRAY2RGB, (1,): cv2.COLOR_GRAY2RGB, (3,): cv2.COLOR_BGR2RGB, (4,): cv2.COLOR_BGRA2RGB}
    return np.asarray(cv2.cvtColor(pixels, conversions[pixels.shape[2:]]), np.uint8)


def frame_rate(capture: Capture) -> float:
    """Frames per second of a capture; `DEFAULT_FPS` if that is not above 0 and at most `MAX_REPORTED_FPS`."""
    import cv2

    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 0 < fps <= MAX_REPORTED_FPS else DEFAULT_FPS


def release(capture: Capture) -> None:
    """Releases `capture` and ignores what its driver raises."""
    with suppress(Exception):
        capture.release()
