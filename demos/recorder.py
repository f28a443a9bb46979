"""The output of the live demo: a video of the shown pictures, events as JSON lines, and snapshots."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from PIL import Image

from bot_deploy import images
from bot_deploy.choices import MAX_FPS, MIN_FPS
from bot_deploy.console import mask_document, show_json_line
from bot_deploy.errors import InputError, RunError, require_range
from bot_deploy.escaping import json_line
from bot_deploy.files import unused_path

from .video_writer import FORMATS, FPS_DECIMALS, VideoWriter

if TYPE_CHECKING:
    from bot_deploy.images import Pixels

logger = logging.getLogger(__name__)

MAX_STILL_S = 10.0  # seconds for which one picture stays in the video
MIN_FREE_BYTES = 32_000_000  # on the disk, to finish the recording


class Recorder:
    """Writes a video and a file of events, one JSON document a line; either may be None. A context manager.

    Events are appended to the file, so a service that restarts loses none; "-" means stdout. An older video of the same
    name is replaced at `close`, also after an exception or Ctrl-C. Until then the new video is NAME.part.SUFFIX beside
    it. If the process is killed, that file remains and can be played; about its last second is missing.
    """

    def __init__(self, output: Path | None, events: Path | None, fps: float) -> None:
        """Opens both files and makes their folders; `fps` is the frame rate of the video.

        Raises:
            InputError: `output` does not end like a video, or `fps` is not a number in its range.
            RunError: a file cannot be written.
        """
        require_range("fps", fps, MIN_FPS, MAX_FPS)
        self._output = output
        self._part = _part_path(output) if output else Path()
        self._fps = round(fps, FPS_DECIMALS) or fps
        self._shape = (0, 0)  # height and width of the first picture
        self._start_time: float | None = None  # of the first picture, moved by pauses
        self._written = 0  # pictures
        self._writer: VideoWriter | None = None
        self._to_stdout = events == Path("-")
        self._events_name = str(events)
        self._events = None
        if events and not self._to_stdout:
            try:
                events.parent.mkdir(parents=True, exist_ok=True)
                self._events = _open_lines(events)
            except OSError as error:
                raise RunError(f"{events}: cannot be written ({error.strerror or error})") from None

    @property
    def has_video(self) -> bool:
        """Whether `write` writes anything."""
        return self._output is not None

    def write(self, picture: Pixels, time: float | None = None) -> None:
        """Adds `picture`, uint8 RGB [H, W, 3], to the video; pictures of other sizes are fitted into the first one's.

        With `time` in seconds, the video keeps real time: a picture stays until the time of the next one.

        Raises:
            RunError: the disk is full, or a picture of this size cannot be written.
        """
        if self._output is None:
            return
        _check_free_space(self._output)
        if self._writer is None:
            self._shape = (picture.shape[0], picture.shape[1])
            height, width = (side + side % 2 for side in self._shape)
            self._writer = VideoWriter(self._part, (height, width), self._fps)
        copies = self._copies_to_write(time)
        if copies:
            self._writer.write(_pad_to_even(images.letterbox(picture, self._shape)), copies)
            self._written += copies

    def _copies_to_write(self, time: float | None) -> int:
        """How often to write a picture of `time`: 0 if it comes too soon, several times after a gap."""
        if time is None:
            return 1
        if self._start_time is None:
            self._start_time = time
        missing = 1 + round((time - self._start_time) * self._fps) - self._written
        max_copies = round(MAX_STILL_S * self._fps)
        if missing > max_copies:  # a pause, for instance
            self._start_time += (missing - max_copies) / self._fps
        return max(0, min(missing, max_copies))

    def write_event(self, event: dict[str, object]) -> None:
        """Adds a line to the events; readers of the file see it at once.

        Raises:
            RunError: the disk is full.
        """
        if self._to_stdout:
            show_json_line(event)
        if self._events is None:
            return
        try:
            _append_line(self._events, json_line(mask_document(event)))
        except OSError as error:
            raise RunError(f"{self._events_name}: cannot be written ({error.strerror or error})") from None

    def close(self) -> None:
        """Finishes both files and gives the video its name.

        Raises:
            RunError: the video cannot get its name.
        """
        if self._events is not None:
            with contextlib.suppress(OSError):  # `write_event` has raised it
                self._events.close()
            self._events = None
        if self._writer is None or self._output is None:
            return
        writer, self._writer = self._writer, None
        writer.close()
        if not self._written:  # Ctrl-C came before the first picture
            self._part.unlink(missing_ok=True)
            return
        try:
            self._part.replace(self._output)
        except OSError as error:
            raise RunError(f"{self._output}: cannot be written ({error.strerror or error}); see {self._part}") from None
        logger.info(f"wrote {self._output}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def save_snapshot(picture: Pixels, folder: Path, time: float) -> Path:
    """Writes `picture`, uint8 RGB [H, W, 3], to a new PNG file in `folder`; returns its path.

    The file's name contains `time`, in seconds.

    Raises:
        RunError: it cannot be written.
    """
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = unused_path(folder / f"snapshot-{time:08.2f}.png")
        path.write_bytes(file.getvalue())
    except OSError as error:
        raise RunError(f"{folder}: no snapshot can be written there ({error.strerror or error})") from None
    return path


def _part_path(output: Path) -> Path:
    """The file to write until `output` is complete."""
    if output.suffix.lower() not in FORMATS:
        raise InputError(f"{output}: a video's name ends in {', '.join(FORMATS)}", parameter="output")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        part = unused_path(output.with_name(f"{output.stem}.part{output.suffix}"))  # a killed run leaves its own
        part.open("wb").close()
        part.unlink()
    except OSError as error:
        raise RunError(f"{output}: cannot be written ({error.strerror or error})") from None
    if output.is_dir():
        raise RunError(f"{output}: is a folder; give a file in it", parameter="output")
    return part


def _open_lines(path: Path) -> io.FileIO:
    """Opens a file of lines to append to; half a line that a full disk or a crash has left gets its end."""
    file = io.FileIO(path, "a+")
    try:
        if file.seekable() and (size := file.seek(0, io.SEEK_END)):
            file.seek(size - 1)
            if file.read(1) != b"\n":
                file.write(b"\n")
    except BaseException:
        file.close()
        raise
    return file


def _append_line(file: io.FileIO, line: str) -> None:
    """Writes `line` with one call of the system: a killed process may only cut it off at a page of memory (4 KiB)."""
    rest = memoryview(f"{line}\n".encode(errors="backslashreplace"))
    while rest:
        rest = rest[file.write(rest) or 0 :]


def _check_free_space(output: Path) -> None:
    if shutil.disk_usage(output.parent).free < MIN_FREE_BYTES:
        raise RunError(f"{output}: the disk is full; the video ends here")


def _pad_to_even(picture: Pixels) -> Pixels:
    """`picture` with an even number of rows and columns, which codecs need."""
    height, width = picture.shape[:2]
    if not height % 2 and not width % 2:
        return picture
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
