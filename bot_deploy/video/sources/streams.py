"""Live sources, cameras and streams: the newest frame, even when the reader is slow or the connection breaks."""

from __future__ import annotations

import math
import os
import re
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.errors import InputError
from bot_deploy.video.opencv import READ_TIMEOUT_S

from .base import Frame, Source
from .capture import DEFAULT_FPS, frame_rate, open_capture, read_pixels, release, to_rgb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bot_deploy.images import Pixels

    from .capture import Capture

OPEN_TIMEOUT_S = 10.0  # for a camera to open; a read that takes 2 * READ_TIMEOUT_S hangs
FIRST_RETRY_WAIT_S, MAX_RETRY_WAIT_S = 0.5, 30.0  # between tries to open it again; doubled from try to try
FAILED_READ_WAIT_S = 0.05  # after a read that fails
REPEAT_FRAME_S = 0.5  # between two frames that only repeat the last picture with a problem
EARLY_SHARE = 0.1  # of that time, by which a wait may end early
EMPTY_PICTURE, EMPTY_GREY = (360, 640, 3), 60  # shape and grey value of the picture of a camera that has given none
JOIN_TIMEOUT_S = 1.0  # for the reader's thread to end

MAX_FAILED_READS = 10  # in a row, before the camera is opened again
MAX_READERS = 4  # threads, with those that hang

SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp")
CAMERA = re.compile(r"(?:/dev/video)?([0-9]+)")


def open_camera(
    address: str, name: str, fps: float | None, make_capture: Callable[[str], Capture] | None
) -> Source | None:
    """The camera with a number; None for another address."""
    del name
    camera = CAMERA.fullmatch(address)
    if camera is None:
        return None
    number = camera[1]
    return StreamSource(
        f"camera {number}",
        lambda: (make_capture or _open_camera_capture)(number),
        lambda: _camera_remedy(Path(f"/dev/video{number}")),
        fps,
    )


def open_stream(
    address: str, name: str, fps: float | None, make_capture: Callable[[str], Capture] | None
) -> Source | None:
    """The stream at an address such as rtsp://host/stream; None without a scheme.

    Raises:
        InputError: no such kind of address.
    """
    if "://" not in address:
        return None
    if address.partition("://")[0].lower() not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise InputError(f"{name}: not a known kind of address; known: {known}", parameter="source")
    return StreamSource(name, lambda: (make_capture or open_stream_capture)(address), _stream_remedy, fps)


def _open_camera_capture(number: str) -> Capture:
    import cv2

    camera = cv2.VideoCapture(int(number))
    camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # some drivers ignore it
    return camera


def open_stream_capture(address: str) -> Capture:
    """OpenCV's capture for an address, with timeouts."""
    import cv2

    open_timeout = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(1000 * OPEN_TIMEOUT_S)]
    read_timeout = [cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(1000 * READ_TIMEOUT_S)]
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, open_timeout + read_timeout)


def _camera_remedy(device: Path) -> str:
    others = sorted(Path("/dev").glob("video[0-9]*"), key=lambda path: (len(path.name), path.name))
    numbers = ", ".join(path.name.removeprefix("video") for path in others)
    if not sys.platform.startswith("linux"):
        return "is it plugged in, allowed in the privacy settings, and not used by another program?"
    if not others:
        return (
            "there is no camera (no /dev/video*); plug one in, or give a video or an address such as rtsp://host/stream"
        )
    if device not in others:
        return f"cameras of this machine: {numbers}"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"your user may not read {device}; `sudo usermod -aG video $USER` and log in again"
    return f"another program may be using {device}, or it is not a camera; devices of this machine: {numbers}"


def _stream_remedy() -> str:
    return (
        "check host, port, path, user and password, for instance in VLC; "
        "OPENCV_FFMPEG_LOGLEVEL=24 in the environment shows FFmpeg's messages"
    )


class StreamSource(Source):
    """A camera or stream. A thread reads every frame; iterating gives the newest frame that was not given yet.

    When the stream fails, hangs or ends, it is opened again and again. Until that succeeds, iterating gives the last
    picture twice a second, with a `problem`.
    """

    is_live = True

    def __init__(
        self, name: str, make_capture: Callable[[], Capture], remedy: Callable[[], str], fps: float | None = None
    ) -> None:
        """Starts to read; `fps` None means the rate that the camera reports.

        `remedy` returns what to do about a camera that cannot be opened.
        """
        super().__init__(name, fps or DEFAULT_FPS)
        self._make_capture, self._remedy, self._given_fps = make_capture, remedy, fps
        self._condition = threading.Condition()  # guards the attributes below
        self.is_closed = False
        self._newest: Pixels | None = None  # as OpenCV gives it; None after it was given
        self._number = -1  # of the newest frame
        self._first_arrival = self._last_arrival = 0.0  # time.monotonic() of the first and the newest frame
        self._last_frame: Frame | None = None  # the one that was given last
        self._next_repeat = 0.0  # time.monotonic() from which the last picture may be given again
        self._readers: list[CaptureReader] = []
        self._start_reader(0)

    def connect(self) -> None:
        """Waits for the first frame; without one, a grey picture stands for it from now on.

        Raises:
            InputError: no frame comes; the message says what to do.
        """
        reader = self._readers[-1]
        with self._condition:
            self._condition.wait_for(
                lambda: self._newest is not None or reader.wait_s, OPEN_TIMEOUT_S + 2 * READ_TIMEOUT_S
            )
            if self._newest is None:
                self._first_arrival = self._last_arrival = time.monotonic()
                self._last_frame = Frame(np.full(EMPTY_PICTURE, EMPTY_GREY, np.uint8), 0, 0.0)
                failure = "opens, but gives no picture" if reader.opened else "cannot be opened"
                raise InputError(f"{self.name}: {failure}; {self._remedy()}")
        self.fps = self._given_fps or reader.fps

    def _start_reader(self, wait_s: float) -> CaptureReader:
        reader = CaptureReader(self._make_capture, self._receive, wait_s)
        with self._condition:
            if not self.is_closed:
                self._readers = [*(earlier for earlier in self._readers if earlier.is_alive()), reader]
                reader.start()
        return reader

    def _receive(self, reader: CaptureReader, pixels: Pixels | None) -> None:
        """Takes a picture from `reader`; None means that a try has failed."""
        with self._condition:
            if self.is_closed or reader is not self._readers[-1]:
                return
            if pixels is not None:
                self._last_arrival = time.monotonic()
                self._number += 1
                self._first_arrival = self._first_arrival or self._last_arrival
                self.dropped += self._newest is not None
                self._newest = pixels
            self._condition.notify_all()

    def __iter__(self) -> Iterator[Frame]:
        while not self.is_closed:
            frame = self.take(REPEAT_FRAME_S)
            if frame is not None:
                yield frame

    def take(self, wait_s: float) -> Frame | None:
        """The newest frame that was not given yet, within `wait_s` seconds; None if there is none.

        While the camera is away, it is the last one again, with a problem, every `REPEAT_FRAME_S`.
        """
        with self._condition:
            self._condition.wait_for(lambda: self.is_closed or self._newest is not None, wait_s)
            if self.is_closed:
                return None
            pixels, self._newest = self._newest, None
            number, seconds = self._number, self._last_arrival - self._first_arrival
        now = time.monotonic()
        if pixels is not None:
            frame = self._last_frame = Frame(to_rgb(pixels), number, seconds)
        elif self._last_frame and now >= self._next_repeat and (problem := self._check_reader()):
            frame = replace(self._last_frame, time=now - self._first_arrival, problem=problem)
        else:
            return None
        self._next_repeat = now + (1 - EARLY_SHARE) * REPEAT_FRAME_S
        return frame

    def _check_reader(self) -> str:
        """Replaces a reader that hangs; returns why there is no picture, or "" while the wait is still normal."""
        now, reader = time.monotonic(), self._readers[-1]
        if now > reader.deadline and sum(earlier.is_alive() for earlier in self._readers) < MAX_READERS:
            reader.stop()  # it releases its capture when its call returns; no other thread can do that safely
            reader = self._start_reader(next_wait(reader.wait_s))
        if not reader.wait_s and now - self._last_arrival <= READ_TIMEOUT_S:
            return ""
        seconds = math.ceil(reader.next_try - now)
        return f"{self.name} gives no picture; trying again" + (f" in {seconds} s" if seconds > 0 else "")

    def close(self) -> None:
        with self._condition:
            self.is_closed = True
            self._condition.notify_all()
        for reader in self._readers:
            reader.stop()
        if self._readers and self._readers[-1].is_alive():
            self._readers[-1].join(JOIN_TIMEOUT_S)


class CaptureReader(threading.Thread):
    """The thread that opens and reads a capture, again and again until `stop`; all blocking calls are here."""

    def __init__(
        self,
        make_capture: Callable[[], Capture],
        receive: Callable[[CaptureReader, Pixels | None], None],
        wait_s: float,
    ) -> None:
        """Starts after `wait_s` seconds; calls `receive` with every picture, and with None after a failed try."""
        super().__init__(name="camera", daemon=True)
        self._make_capture, self._receive = make_capture, receive
        self._stopped = threading.Event()
        self.fps = DEFAULT_FPS
        self.opened = False  # whether a try has opened the capture
        self.wait_s = wait_s  # between tries; 0 while frames come
        self.next_try = 0.0  # time.monotonic() of the next try
        self.deadline = math.inf  # time.monotonic() after which the reader hangs

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        while not self._stopped.is_set():
            self.next_try = time.monotonic() + self.wait_s
            self.deadline = self.next_try + OPEN_TIMEOUT_S + READ_TIMEOUT_S
            if self._stopped.wait(self.wait_s):
                return
            self._open_and_read()
            self.wait_s = next_wait(self.wait_s)
            self._receive(self, None)

    def _open_and_read(self) -> None:
        capture = open_capture(self._make_capture)
        if capture is None:
            return
        try:
            self.opened, self.fps = True, frame_rate(capture)
            self._read_frames(capture)
        finally:
            release(capture)

    def _read_frames(self, capture: Capture) -> None:
        """Reads until too many reads fail, no frame comes for `READ_TIMEOUT_S`, or `stop`."""
        failed_reads, last_frame = 0, time.monotonic()
        while (
            failed_reads <= MAX_FAILED_READS
            and time.monotonic() - last_frame <= READ_TIMEOUT_S
            and not self._stopped.is_set()
        ):
            self.deadline = time.monotonic() + 2 * READ_TIMEOUT_S
            pixels = read_pixels(capture)
            if pixels is None:
                failed_reads += 1
                self._stopped.wait(FAILED_READ_WAIT_S)
            else:
                failed_reads, last_frame, self.wait_s = 0, time.monotonic(), 0.0
                self._receive(self, pixels)


def next_wait(wait_s: float) -> float:
    """Seconds to wait before the next try, when the last one came after a wait of `wait_s` seconds."""
    return min(max(FIRST_RETRY_WAIT_S, 2 * wait_s), MAX_RETRY_WAIT_S)
