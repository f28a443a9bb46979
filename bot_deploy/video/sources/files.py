"""Frames from files: every one is delivered, in order."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from bot_deploy import images
from bot_deploy.errors import ImageError, InputError

from .base import Frame, Source, frame_rate, opened, read, release, rgb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bot_deploy.images import Pixels

    from .base import Capture

logger = logging.getLogger(__name__)

FOLDER_FPS = 1.0  # pictures in a folder are seldom closer together
DAMAGED = 100  # pictures in a row that a damaged video may lack
NO_VIDEO = (
    "not a video, or none that this OpenCV can decode; convert it: ffmpeg -i FILE -c:v libx264 -pix_fmt yuv420p OUT.mp4"
)


class Folder(Source):
    """Pictures in files; those that are broken are named on stderr and passed over."""

    def __init__(self, name: str, files: list[Path]) -> None:
        super().__init__(name, FOLDER_FPS)
        if not files:
            raise InputError(f"{name}: no pictures in this folder ({', '.join(sorted(images.SUFFIXES))})")
        self._frames = self._load(sorted(files, key=_natural))
        self._first = next(self._frames, None)
        if self._first is None:
            raise InputError(f"{name}: not one picture in it can be read")

    def _load(self, files: list[Path]) -> Iterator[Frame]:
        for number, file in enumerate(files):
            try:
                yield Frame(images.read_image(file), number, number / self.fps, file.name)
            except ImageError as error:
                logger.warning(str(error))

    def __iter__(self) -> Iterator[Frame]:
        while frame := self._first or next(self._frames, None):
            self._first = None
            yield frame

    def close(self) -> None:
        self._first, self._frames = None, iter(())


def _natural(file: Path) -> list[tuple[int, str]]:
    """Sorts frame2 before frame10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", str(file))]


class Video(Source):
    """A file of frames, upright."""

    def __init__(self, name: str, make: Callable[[], Capture]) -> None:
        import cv2

        capture = opened(make)
        if capture is None:
            raise InputError(f"{name}: {NO_VIDEO}")
        super().__init__(name, frame_rate(capture))
        self._capture = capture
        self._closed = False
        self._number = 0  # of the next frame
        self._time = 0.0
        self._count = capture.get(cv2.CAP_PROP_FRAME_COUNT)  # a guess in some containers
        self._first = self._read()
        if self._first is None:
            self.close()
            raise InputError(f"{name}: {NO_VIDEO}")

    def _read(self) -> Pixels | None:
        """The next picture; after damage the next that can be had."""
        pixels, tries = read(self._capture), 1
        while pixels is None and self._number < self._count and tries < DAMAGED and not self._closed:
            pixels, tries = read(self._capture), tries + 1
        return pixels

    def _frame(self, pixels: Pixels) -> Frame:
        import cv2

        position = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000  # of the frame just read
        if self._number:
            self._time = position if position > self._time else self._time + 1 / self.fps
        frame = Frame(rgb(pixels), self._number, self._time)
        self._number += 1
        return frame

    def __iter__(self) -> Iterator[Frame]:
        while not self._closed:
            pixels, self._first = self._first if self._first is not None else self._read(), None
            if pixels is None:
                break
            yield self._frame(pixels)
        if not self._closed and self._number < 0.95 * self._count - 2:
            logger.warning(
                f"{self.name}: ends after {self._number} of {self._count:.0f} frames; the file is truncated or damaged"
            )

    def close(self) -> None:
        self._closed = True
        release(self._capture)
