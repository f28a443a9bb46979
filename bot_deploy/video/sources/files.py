"""Sources that read files: every frame is delivered, in order."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy import images
from bot_deploy.errors import ImageError, InputError

from .base import Frame, Source
from .capture import frame_rate, open_capture, read_pixels, release, to_rgb
from .streams import stream_capture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bot_deploy.images import Pixels

    from .capture import Capture

logger = logging.getLogger(__name__)

FOLDER_FPS = 1.0  # frames per second; pictures in a folder are seldom closer together
MAX_FAILED_READS = 100  # in a row, after damage in a video
MIN_COMPLETE_SHARE = 0.95  # of the frames that a video promises; with fewer it is reported as damaged
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mkv", ".avi", ".mov", ".webm")  # of web addresses that are files, not streams
HEAD_BYTES = 4096  # at the start of a file, which show whether it is text
NOT_A_VIDEO = (
    "not a video, or none that this OpenCV can decode; convert it: ffmpeg -i FILE -c:v libx264 -pix_fmt yuv420p OUT.mp4"
)


def open_web_video(
    address: str, name: str, fps: float | None, capture: Callable[[str], Capture] | None
) -> Source | None:
    """The video at a web address that ends like a video file; None for another address."""
    if re.match(r"https?://", address, re.IGNORECASE) and address.partition("?")[0].lower().endswith(VIDEO_SUFFIXES):
        return VideoSource(name, lambda: (capture or stream_capture)(address), fps)
    return None


def open_frame_folder(
    address: str, name: str, fps: float | None, capture: Callable[[str], Capture] | None
) -> Source | None:
    """The pictures in a folder, or one picture; None for another file."""
    del capture
    path = Path(address)
    if address and path.is_dir():
        files = images.find_images(path)
        # Pictures in folders below are frames only if there are no others.
        return FrameFolderSource(name, [file for file in files if file.parent == path] or files, fps)
    if path.is_file() and path.suffix.lower() in images.SUFFIXES:
        _read_head(path)
        return FrameFolderSource(name, [path], fps)
    return None


def open_video(address: str, name: str, fps: float | None, capture: Callable[[str], Capture] | None) -> Source | None:
    """The video in a file; None if there is no such file."""
    path = Path(address)
    if not path.is_file():
        return None
    if b"\0" not in _read_head(path):  # FFmpeg would draw a .txt file as ANSI art
        raise InputError(f"{name}: this file is text, not a video", parameter="source")
    return VideoSource(name, lambda: (capture or _video_capture)(address), fps)


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise InputError(f"{path}: the file is empty")
    return head


def _video_capture(path: str) -> Capture:
    import cv2

    return cv2.VideoCapture(str(Path(path).absolute()))  # FFmpeg would take "a:b.mp4" for an address


class FrameFolderSource(Source):
    """Frames from picture files, sorted by the numbers in their names; broken files are logged and left out."""

    def __init__(self, name: str, files: list[Path], fps: float | None = None) -> None:
        """Reads the first picture of `files`; `fps` None means `FOLDER_FPS`.

        Raises:
            InputError: no picture can be read.
        """
        super().__init__(name, fps or FOLDER_FPS)
        if not files:
            raise InputError(f"{name}: no pictures in this folder ({', '.join(sorted(images.SUFFIXES))})")
        self._frames = self._read_frames(sorted(files, key=_number_order))
        self._first = next(self._frames, None)
        if self._first is None:
            raise InputError(f"{name}: not one picture in it can be read")

    def _read_frames(self, files: list[Path]) -> Iterator[Frame]:
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


def _number_order(file: Path) -> list[tuple[int, str]]:
    """Sort key that places frame2 before frame10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", str(file))]


class VideoSource(Source):
    """Frames from a video file, rotated upright by OpenCV."""

    def __init__(self, name: str, make_capture: Callable[[], Capture], fps: float | None = None) -> None:
        """Reads the first frame; `fps` None means the rate that the video reports.

        Raises:
            InputError: no frame can be read.
        """
        import cv2

        capture = open_capture(make_capture)
        if capture is None:
            raise InputError(f"{name}: {NOT_A_VIDEO}")
        super().__init__(name, fps or frame_rate(capture))
        self._capture = capture
        self._closed = False
        self._number = 0  # of the next frame
        self._time = 0.0  # of the last frame, in seconds
        self._expected_frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)  # an estimate in some containers
        self._first = self._read()
        if self._first is None:
            self.close()
            raise InputError(f"{name}: {NOT_A_VIDEO}")

    def _read(self) -> Pixels | None:
        """The next picture, past damaged ones; None at the end."""
        pixels, reads = read_pixels(self._capture), 1
        while pixels is None and self._number < self._expected_frames and reads < MAX_FAILED_READS and not self._closed:
            pixels, reads = read_pixels(self._capture), reads + 1
        return pixels

    def _frame(self, pixels: Pixels) -> Frame:
        import cv2

        position = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000  # of this picture
        if self._number:
            self._time = position if position > self._time else self._time + 1 / self.fps
        frame = Frame(to_rgb(pixels), self._number, self._time)
        self._number += 1
        return frame

    def __iter__(self) -> Iterator[Frame]:
        while not self._closed:
            pixels, self._first = self._first if self._first is not None else self._read(), None
            if pixels is None:
                break
            yield self._frame(pixels)
        if not self._closed and self._number < MIN_COMPLETE_SHARE * self._expected_frames - 2:
            logger.warning(
                f"{self.name}: ends after {self._number} of {self._expected_frames:.0f} frames; "
                "the file is truncated or damaged"
            )

    def close(self) -> None:
        self._closed = True
        release(self._capture)
