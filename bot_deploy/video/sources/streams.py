"""Frames from cameras and streams: the newest one, however slow the reader and however bad the line."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from bot_deploy.errors import InputError

from .base import DEFAULT_FPS, Frame, Source, frame_rate, opened, read, release, rgb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bot_deploy.images import Pixels

    from .base import Capture

# All in seconds.
OPENING = 10.0  # for a camera to open
PATIENCE = 5.0  # for a frame to come; a read that blocks for twice that long is given up for lost
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # between tries to open it again
HICCUP = 0.05  # between reads that fail
REPEAT = 0.5  # between pictures that only tell of trouble
FAREWELL = 1.0  # for a reader to end

HICCUPS = 10  # reads in a row that may fail
MOST_READERS = 4  # with those that hang


class Live(Source):
    """A camera or stream. A thread reads it as fast as it comes; iterating gives the newest frame not yet given.

    When it fails, hangs or ends it is opened again and again; until that succeeds, iterating gives the last picture
    twice a second, with `trouble`.
    """

    live = True

    def __init__(self, name: str, make: Callable[[], Capture], remedy: Callable[[], str]) -> None:
        """Waits for the first frame; `remedy` is asked for advice when none comes."""
        super().__init__(name, DEFAULT_FPS)
        self._make = make
        self._changed = threading.Condition()  # guards what follows
        self._closed = False
        self._fresh: Pixels | None = None  # as OpenCV has it, until somebody takes it
        self._number = -1  # of the newest frame
        self._began = self._arrived = 0.0  # when the first and the newest came
        self._last: Frame | None = None  # that was given
        self._readers: list[Reader] = []
        try:
            self._await_first(self._start(0), remedy)
        except BaseException:  # Ctrl-C too
            self.close()
            raise

    def _start(self, wait: float) -> Reader:
        reader = Reader(self._make, self._take, wait)
        with self._changed:
            if not self._closed:
                self._readers = [*(one for one in self._readers if one.is_alive()), reader]
                reader.start()
        return reader

    def _await_first(self, reader: Reader, remedy: Callable[[], str]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._fresh is not None or reader.wait, OPENING + 2 * PATIENCE)
            if self._fresh is None:
                what = "opens, but gives no picture" if reader.opened else "cannot be opened"
                raise InputError(f"{self.name}: {what}; {remedy()}")
        self.fps = reader.fps

    def _take(self, reader: Reader, pixels: Pixels | None) -> None:
        """What `reader` has: a picture, or the news that it failed."""
        with self._changed:
            if self._closed or reader is not self._readers[-1]:
                return
            if pixels is not None:
                self._arrived = time.monotonic()
                self._number += 1
                self._began = self._began or self._arrived
                self.dropped += self._fresh is not None
                self._fresh = pixels
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._fresh is not None, REPEAT)
                if self._closed:
                    return
                pixels, self._fresh = self._fresh, None
                number, moment = self._number, self._arrived - self._began
            if pixels is not None:
                self._last = Frame(rgb(pixels), number, moment)
                yield self._last
            elif self._last and (trouble := self._trouble()):
                yield replace(self._last, time=time.monotonic() - self._began, trouble=trouble)

    def _trouble(self) -> str:
        """What to say about there being no picture; looks after a reader that hangs."""
        now, reader = time.monotonic(), self._readers[-1]
        if now > reader.due and sum(one.is_alive() for one in self._readers) < MOST_READERS:
            reader.stop()  # when its call returns, if ever, it releases what it holds; nobody else safely can
            reader = self._start(longer(reader.wait))
        if not reader.wait and now - self._arrived <= PATIENCE:
            return ""
        seconds = math.ceil(reader.retry - now)
        return f"{self.name} gives no picture; trying again" + (f" in {seconds} s" if seconds > 0 else "")

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for reader in self._readers:
            reader.stop()
        if self._readers and self._readers[-1].is_alive():
            self._readers[-1].join(FAREWELL)


class Reader(threading.Thread):
    """Opens, reads, and opens again, until it is stopped. Whatever blocks, blocks here."""

    def __init__(self, make: Callable[[], Capture], take: Callable[[Reader, Pixels | None], None], wait: float) -> None:
        """Begins after `wait` seconds; `take` is given every picture, and None when a try has failed."""
        super().__init__(name="camera", daemon=True)
        self._make, self._take = make, take
        self._over = threading.Event()
        self.fps = DEFAULT_FPS
        self.opened = False  # ever
        self.wait = wait  # seconds between tries; 0 while frames come
        self.retry = 0.0  # when the next try begins
        self.due = math.inf  # when something has to have happened

    def stop(self) -> None:
        self._over.set()

    def run(self) -> None:
        while not self._over.is_set():
            self.retry = time.monotonic() + self.wait
            self.due = self.retry + OPENING + PATIENCE
            if self._over.wait(self.wait):
                return
            self._try()
            self.wait = longer(self.wait)
            self._take(self, None)

    def _try(self) -> None:
        capture = opened(self._make)
        if capture is None:
            return
        try:
            self.opened, self.fps = True, frame_rate(capture)
            self._read(capture)
        finally:
            release(capture)

    def _read(self, capture: Capture) -> None:
        failed, last = 0, time.monotonic()
        while failed <= HICCUPS and time.monotonic() - last <= PATIENCE and not self._over.is_set():
            self.due = time.monotonic() + 2 * PATIENCE
            pixels = read(capture)
            if pixels is None:
                failed += 1
                self._over.wait(HICCUP)
            else:
                failed, last, self.wait = 0, time.monotonic(), 0.0
                self._take(self, pixels)


def longer(wait: float) -> float:
    """Seconds to wait before the try after one that came `wait` seconds after its own predecessor."""
    return min(max(FIRST_WAIT, 2 * wait), LONGEST_WAIT)
