"""Sources that read files: a folder of frames, and the openers of videos. Every frame is delivered, in order."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy import images
from bot_deploy.choices import MAX_NAMED_FILES
from bot_deploy.errors import ImageError, InputError

from .base import Frame, Source
from .video_file import VideoSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .capture import Capture

logger = logging.getLogger(__name__)

FOLDER_FPS = 1.0  # frames per second; pictures in a folder are seldom closer together
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mkv", ".avi", ".mov", ".webm")  # of web addresses that are files, not streams
HEAD_BYTES = 4096  # at the start of a file, which show whether it is text
WEB_PROTOCOLS = "http,https,tcp,tls,httpproxy"


def open_web_video(
    address: str, name: str, fps: float | None, make_capture: Callable[[str], Capture] | None
) -> Source | None:
    """The video at a web address that ends like a video file; None for another address."""
    del make_capture
    if re.match(r"https?://", address, re.IGNORECASE) and address.partition("?")[0].lower().endswith(VIDEO_SUFFIXES):
        return VideoSource(name, address, fps, WEB_PROTOCOLS)
    return None


def open_frame_folder(
    address: str, name: str, fps: float | None, make_capture: Callable[[str], Capture] | None
) -> Source | None:
    """The pictures in a folder, or one picture; None for another file."""
    del make_capture
    path = Path(address)
    if address and path.is_dir():
        files = images.find_images(path)
        # Pictures in folders below are frames only if there are no others.
        return FrameFolderSource(name, [file for file in files if file.parent == path] or files, fps)
    if path.is_file() and path.suffix.lower() in images.SUFFIXES - {".gif"}:  # a GIF is a video
        _read_head(path)
        return FrameFolderSource(name, [path], fps)
    return None


def open_video(
    address: str, name: str, fps: float | None, make_capture: Callable[[str], Capture] | None
) -> Source | None:
    """The video in a file; None if there is no such file."""
    del make_capture
    path = Path(address)
    if not path.is_file():
        return None
    if b"\0" not in _read_head(path):  # FFmpeg would draw a .txt file as ANSI art
        raise InputError(f"{name}: this file is text, not a video", parameter="source")
    source = VideoSource(name, str(path.absolute()), fps)  # FFmpeg would take "a:b.mp4" for an address
    if source.times_note:
        logger.info(f"{name}: {source.times_note}")
    return source


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise InputError(f"{path}: the file is empty")
    return head


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
        broken = 0
        for number, file in enumerate(files):
            try:
                yield Frame(images.read_image(file), number, number / self.fps, file.name)
            except ImageError as error:
                broken += 1
                if broken <= MAX_NAMED_FILES:
                    logger.warning(str(error))
        if broken > MAX_NAMED_FILES:
            logger.warning(f"{self.name}: {broken - MAX_NAMED_FILES} more frames are broken; {len(files)} in all")

    def __iter__(self) -> Iterator[Frame]:
        while frame := self._first or next(self._frames, None):
            self._first = None
            yield frame

    def close(self) -> None:
        self._first, self._frames = None, iter(())


def _number_order(file: Path) -> list[tuple[int, str]]:
    """Sort key that places frame2 before frame10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", str(file))]
