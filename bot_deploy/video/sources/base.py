"""What every source of frames is, and how a picture leaves OpenCV."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bot_deploy.images import Pixels

DEFAULT_FPS = 25.0
MOST_FPS = 300.0  # containers also say 1000 and 90000: their clock, not their pictures


@dataclass(frozen=True)
class Frame:
    """A picture and when it was."""

    pixels: Pixels  # uint8 RGB [H, W, 3]
    number: int  # from 0; frames that were dropped count
    time: float  # seconds: the position in a video or folder; since the first frame of a live source
    name: str = ""  # of its file, in a folder of frames
    trouble: str = ""  # why this is only the last picture again; `number` is that picture's, `time` is now


class Capture(Protocol):
    """What is used of cv2.VideoCapture."""

    def isOpened(self) -> bool: ...  # noqa: N802
    def read(self) -> tuple[bool, Any]: ...
    def get(self, prop: int, /) -> float: ...
    def release(self) -> None: ...


class Source(ABC):
    """Frames, one by one; a context manager. Iterating again goes on where the last loop left off."""

    live = False  # a camera or stream: frames are dropped rather than late

    def __init__(self, name: str, fps: float) -> None:
        self.name = name  # for messages and titles; no password in it
        self.fps = fps
        self.dropped = 0  # frames of a live source that nobody had time for

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...

    @abstractmethod
    def close(self) -> None:
        """Lets go of camera, file and threads, and ends the iteration; a second time does nothing."""


def quiet() -> None:
    """Silences OpenCV and FFmpeg, which tell stderr what our messages say better; the user's environment prevails."""
    import cv2

    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if "OPENCV_LOG_LEVEL" not in os.environ:
        set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # where 4.10 has it
        set_level(0)


def opened(make: Callable[[], Capture]) -> Capture | None:
    """What `make` makes, if that opens."""
    try:
        capture = make()
    except Exception:  # noqa: BLE001 - whatever a driver throws, it did not open
        return None
    if capture.isOpened():
        return capture
    release(capture)
    return None


def read(capture: Capture) -> Pixels | None:
    """The next picture as OpenCV has it: BGR, BGRA or grey; None when there is none."""
    try:
        ok, pixels = capture.read()
    except Exception:  # noqa: BLE001 - whatever a driver throws is no picture
        return None
    if not ok or pixels is None or not pixels.size or pixels.shape[2:] not in {(), (1,), (3,), (4,)}:
        return None
    return np.asarray(pixels)


def rgb(pixels: Pixels) -> Pixels:
    """A picture of `read` as uint8 RGB [H, W, 3]."""
    import cv2

    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    ways = {(): cv2.COLOR_GRAY2RGB, (1,): cv2.COLOR_GRAY2RGB, (3,): cv2.COLOR_BGR2RGB, (4,): cv2.COLOR_BGRA2RGB}
    return np.asarray(cv2.cvtColor(pixels, ways[pixels.shape[2:]]), np.uint8)


def frame_rate(capture: Capture) -> float:
    """What it says, where that makes sense."""
    import cv2

    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 0 < fps <= MOST_FPS else DEFAULT_FPS


def release(capture: Capture) -> None:
    """Lets go of it, whatever it throws."""
    with suppress(Exception):
        capture.release()
