"""Where results go: a video of what was shown, events as JSON lines, snapshots."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from bot_deploy import images
from bot_deploy.errors import InputError, RunError
from bot_deploy.files import unused_path
from bot_deploy.video.sources.base import quiet

if TYPE_CHECKING:
    from bot_deploy.images import Pixels

logger = logging.getLogger(__name__)

# What every OpenCV from PyPI can write; none of them has an H.264 encoder, and VP9 takes seven times as long as VP8.
# MPEG-4 is quick and plays everywhere but in browsers; VP8 plays in those too and takes ten times as long.
CODECS = {".mp4": "mp4v", ".mkv": "mp4v", ".avi": "MJPG", ".webm": "VP80"}
STILL = 10.0  # seconds for which a picture stays at most
SPARE = 32_000_000  # bytes that are left free on the disk, so that the recording can be finished
DECIMALS = 2  # of the frames per second: MPEG-4 counts time in at most 65535ths of a second


class Recorder:
    """Writes the video `output` and the file `events`, a JSON document a line; either may be None. A context manager.

    Events are added to what is in the file: a service that is started again loses none. An older video of the name is
    replaced when this is closed, be it by an exception or Ctrl-C. Until then the new one is NAME.part.SUFFIX beside it;
    if the process is killed that is what remains, playable save for .mp4. `events` "-" is stdout.
    """

    def __init__(self, output: Path | None, events: Path | None, fps: float) -> None:
        """Folders are made.

        Raises:
            InputError: `output` is no video's name.
            RunError: one of them cannot be written.
        """
        self._output = output
        self._part = _begun(output) if output else Path()
        self._fps = round(fps, DECIMALS) or fps
        self._shape = (0, 0)  # height and width of the first picture
        self._began: float | None = None  # its time
        self._written = 0  # pictures
        self._writer: Any = None  # cv2.VideoWriter
        self._stdout = events == Path("-")
        self._events_name = str(events)
        self._events = None
        if events and not self._stdout:
            try:
                events.parent.mkdir(parents=True, exist_ok=True)
                self._events = events.open("a", encoding="utf-8", errors="backslashreplace")
            except OSError as error:
                raise RunError(f"{events}: cannot be written ({error.strerror or error})") from None

    def write(self, picture: Pixels, time: float | None = None) -> None:
        """Adds the `picture`, uint8 RGB [H, W, 3]; one of another size than the first is fitted into that.

        The film follows the clock: a picture stays until the `time` in seconds of the next one, where that is given.

        Raises:
            RunError: the disk is full, or a picture of this size cannot be written.
        """
        import cv2

        if self._output is None:
            return
        _check_space(self._output)
        if self._writer is None:
            self._shape = (picture.shape[0], picture.shape[1])
            self._writer = self._opened()
        shown = cv2.cvtColor(_even(_letterboxed(picture, self._shape)), cv2.COLOR_RGB2BGR)
        for _ in range(self._missing(time)):
            self._writer.write(shown)
            self._written += 1

    def _missing(self, time: float | None) -> int:
        """How many pictures the film is behind `time`; none for one of two that are closer together than its own."""
        if time is None:
            return 1
        if self._began is None:
            self._began = time
        behind = 1 + round((time - self._began) * self._fps) - self._written
        longest = round(STILL * self._fps)
        if behind > longest:  # paused, say
            self._began += (behind - longest) / self._fps
        return max(0, min(behind, longest))

    def event(self, event: dict[str, object]) -> None:
        """Adds a line, which is there for a reader at once.

        Raises:
            RunError: the disk is full.
        """
        line = json.dumps(event, ensure_ascii=False)
        if self._stdout:
            print(line, flush=True)  # noqa: T201 - that is what was asked for
        if self._events is None:
            return
        try:
            self._events.write(f"{line}\n")
            self._events.flush()
        except OSError as error:
            raise RunError(f"{self._events_name}: cannot be written ({error.strerror or error})") from None

    def close(self) -> None:
        """Finishes both files; the video takes its name."""
        if self._events is not None:
            with contextlib.suppress(OSError):  # said when it was written
                self._events.close()
            self._events = None
        if self._writer is None or self._output is None:
            return
        self._writer.release()
        self._writer = None
        try:
            self._part.replace(self._output)
        except OSError as error:
            raise RunError(f"{self._output}: cannot be written ({error.strerror or error}); see {self._part}") from None
        logger.info(f"wrote {self._output}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self) -> Any:
        import cv2

        quiet()
        assert self._output is not None
        height, width = (side + side % 2 for side in self._shape)
        codec = cv2.VideoWriter.fourcc(*CODECS[self._output.suffix.lower()])
        writer = cv2.VideoWriter(str(self._part.absolute()), cv2.CAP_FFMPEG, codec, self._fps, (width, height))
        if not writer.isOpened():
            raise RunError(
                f"{self._output}: OpenCV cannot write {width}x{height} pixels at {self._fps:g} frames/s there; "
                f"name one that ends in {' or '.join(CODECS)}"
            )
        return writer


def snapshot(picture: Pixels, folder: Path, time: float) -> Path:
    """Writes `picture`, uint8 RGB [H, W, 3], taken at `time` seconds, to a new file in `folder`; returns its path.

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
        raise RunError(f"{folder}: no snapshot can be saved there ({error.strerror or error})") from None
    return path


def _begun(output: Path) -> Path:
    """The file that is written until `output` is complete."""
    if output.suffix.lower() not in CODECS:
        raise InputError(f"{output}: a video's name ends in {', '.join(CODECS)}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        part = unused_path(output.with_name(f"{output.stem}.part{output.suffix}"))  # of a run that was killed, say
        part.open("wb").close()
        part.unlink()
    except OSError as error:
        raise RunError(f"{output}: cannot be written ({error.strerror or error})") from None
    if output.is_dir():
        raise RunError(f"{output}: is a folder; name a file in it")
    return part


def _check_space(output: Path) -> None:
    if shutil.disk_usage(output.parent).free < SPARE:  # OpenCV would not tell that nothing is written any more
        raise RunError(f"{output}: the disk is full; what there is was recorded")


def _letterboxed(picture: Pixels, shape: tuple[int, int]) -> Pixels:
    """`picture`, shrunk or enlarged and with black bars, as height and width `shape`."""
    if picture.shape[:2] == shape:
        return picture
    scale = min(shape[0] / picture.shape[0], shape[1] / picture.shape[1])
    height, width = (max(1, min(most, round(scale * side))) for side, most in zip(picture.shape, shape, strict=False))
    canvas = np.zeros((*shape, 3), np.uint8)
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    canvas[top : top + height, left : left + width] = images.resize(picture, (height, width))
    return canvas


def _even(picture: Pixels) -> Pixels:
    """With an even number of rows and columns, as codecs want it."""
    height, width = picture.shape[:2]
    if not height % 2 and not width % 2:
        return picture
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
