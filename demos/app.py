"""The loop of the live demo: `bot demo`, which is also python -m bot_deploy.demos.webcam."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy.errors import BotError, InputError, RunError

from .overlay import draw
from .recorder import snapshot
from .window import HELP, Keyboard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bot_deploy.images import Pixels
    from bot_deploy.matching.identify import Candidate
    from bot_deploy.video.sources import Frame, Source

    from .recognition import Event, Live, Sighting
    from .recorder import Recorder
    from .window import Window

logger = logging.getLogger(__name__)

REMEMBERED = 64  # people, of whom the strip beside the picture shows the last few
SMOOTH = 0.9  # of the frame rate shown: how much of it is what it was


@dataclass
class Summary:
    """What a run has done."""

    frames: int = 0
    seconds: float = 0.0
    dropped: int = 0
    recognised: Counter[str] = field(default_factory=Counter)  # how often a track got a name
    enrolled: list[str] = field(default_factory=list)  # names
    stages: dict[str, float] = field(default_factory=dict)  # seconds spent in each

    @property
    def fps(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0


def run(
    source: Source,
    live: Live,
    recorder: Recorder,
    window: Window | None = None,
    *,
    max_frames: int = 0,
    snapshots: Path = Path(),
) -> Summary:
    """Shows and records who is on the frames of `source`, until it ends or is told to: by a key, or by Ctrl-C.

    Args:
        source: where the frames come from.
        live: who knows the people.
        recorder: what is kept.
        window: where the pictures are shown, if anywhere.
        max_frames: stop after so many; 0 for all.
        snapshots: the folder for those that the key `s` takes.
    """
    loop = _Loop(source, live, recorder, window, snapshots)
    started = time.perf_counter()
    try:
        for frame in _timed(source, live.seconds):
            if not loop.step(frame) or loop.summary.frames == max_frames:
                break
    except KeyboardInterrupt:
        logger.info("stopped")
    loop.summary.seconds = time.perf_counter() - started
    loop.summary.dropped = source.dropped
    loop.summary.stages = dict(live.seconds)
    return loop.summary


class _Loop:
    def __init__(self, source: Source, live: Live, recorder: Recorder, window: Window | None, snapshots: Path) -> None:
        self.source, self.live, self.recorder, self.window, self.snapshots = source, live, recorder, window, snapshots
        self.summary = Summary()
        self.known: dict[str, Candidate] = {}  # who was recognised, the last at the end
        self.sightings: list[Sighting] = []
        self.keyboard = Keyboard()
        self.chosen: int | None = None  # the track that was clicked
        self.message = ""
        self.paused = False
        self.fps = 0.0
        self.last = time.perf_counter()
        self.trouble = ""

    def step(self, frame: Frame) -> bool:
        """Whether to go on after `frame`."""
        if not frame.trouble:
            frame = replace(frame, trouble=self._look(frame))
        if frame.trouble and not self.trouble:
            logger.warning(frame.trouble)
        started = time.perf_counter()
        picture = self._draw(frame)
        drawn = time.perf_counter()
        if not (frame.trouble and self.trouble):  # hours without a picture are not recorded
            self.recorder.write(picture, frame.time)
        self.trouble = frame.trouble
        self.live.seconds["draw"] += drawn - started
        self.live.seconds["record"] += time.perf_counter() - drawn
        passed = time.perf_counter() - self.last
        self.fps = 1 / passed if not self.fps else SMOOTH * self.fps + (1 - SMOOTH) / passed
        # A file is shown no faster than it was taken.
        due = 0.0 if self.source.live else max(0.0, 1 / self.source.fps - passed)
        going = self.window is None or self._serve(self.window, frame, picture, due)
        self.last = time.perf_counter() if self.window is None or self.source.live else self.last + passed + due
        return going

    def _look(self, frame: Frame) -> str:
        """Finds who is on `frame`; what has gone wrong where there will be other frames, in words."""
        self.summary.frames += 1
        try:
            self.sightings = self.live.look(frame)
        except RunError as error:  # the gallery's server starts anew, say
            if not self.source.live:
                raise
            self.sightings = []
            return str(error)
        for event in self.live.events:
            self._happened(frame, event)
        return ""

    @property
    def _held(self) -> bool:
        """The picture stands still, also while a name is typed: OpenCV keeps only the last key between two pictures."""
        return self.paused or self.keyboard.typed is not None

    def _serve(self, window: Window, frame: Frame, picture: Pixels, wait: float) -> bool:
        """Shows `picture`, for as long as it takes; whether to go on."""
        until = time.perf_counter() + wait
        while True:
            window.show(picture)
            key = window.key(0.05 if self._held else max(0.0, until - time.perf_counter()))
            if window.closed:
                return False
            if window.clicked is not None:
                self._choose(*window.clicked)
                window.clicked = None
            wish = self.keyboard.press(key) if key is not None else None
            if wish:
                self.message = ""
                if wish.kind == "quit":
                    return False
                self.paused = self.paused != (wish.kind == "pause")
                if wish.kind == "snapshot":
                    self._snapshot(picture, frame.time)
                elif wish.kind == "enrol":
                    self._enrol(wish.text)
            if not self._held and time.perf_counter() >= until:
                return True
            picture = self._draw(frame)

    def _choose(self, x: int, y: int) -> None:
        """The click at (x, y): the smallest box around it is meant."""
        around = [
            ((right - left) * (bottom - top), sighting.track)
            for sighting in self.sightings
            for left, top, right, bottom in [sighting.corners]
            if left <= x <= right and top <= y <= bottom
        ]
        self.chosen = min(around)[1] if around else None

    def _enrol(self, name: str) -> None:
        if self.chosen is None and len(self.sightings) == 1:
            self.chosen = self.sightings[0].track
        try:
            if self.chosen is None:
                raise InputError("click the box of the person first")
            self.message = f"enrolled {self.live.enrol(self.chosen, name or None)}"
        except BotError as error:
            self.message = str(error)

    def _snapshot(self, picture: Pixels, time: float) -> None:
        try:
            self.message = f"saved {snapshot(picture, self.snapshots, time)}"
        except BotError as error:
            self.message = str(error)

    def _happened(self, frame: Frame, event: Event) -> None:
        sighting = event.sighting
        assert sighting.who is not None
        if event.kind == "enrolled":
            self.summary.enrolled.append(sighting.who.name)
        else:
            self.summary.recognised[sighting.who.name] += 1
        logger.info(
            f"{frame.time:8.1f} s  track {sighting.track}  {event.kind}  {sighting.who.name}  {sighting.who.score:.3f}"
        )
        self.known.pop(sighting.who.name, None)
        self.known[sighting.who.name] = sighting.who
        if len(self.known) > REMEMBERED:
            del self.known[next(iter(self.known))]
        self.recorder.event(
            {
                "time": round(frame.time, 3),
                **({"clock": datetime.now(UTC).isoformat(timespec="milliseconds")} if self.source.live else {}),
                "frame": frame.number,
                **({"file": frame.name} if frame.name else {}),
                "event": event.kind,
                "track": sighting.track,
                "name": sighting.who.name,
                "score": round(sighting.who.score, 4),
                "box": [round(corner) for corner in sighting.corners],
            }
        )

    def _draw(self, frame: Frame) -> Pixels:
        for sighting in self.sightings:
            if sighting.name in self.known and sighting.who is not None:
                self.known[sighting.name] = sighting.who
        status = f"{self.fps:.0f} frames/s   {frame.name}"
        if self.keyboard.typed is not None:
            status = f"name, then Enter (an automatic one if empty): {self.keyboard.typed}_"
        elif self.message or self.window:
            status = f"{status}   {self.message or HELP}{'   paused' if self.paused else ''}"
        recent = list(reversed(self.known.values()))
        return draw(frame.pixels, self.sightings, recent, status=status, trouble=frame.trouble, chosen=self.chosen)


def _timed(frames: Source, seconds: dict[str, float]) -> Iterator[Frame]:
    """The frames, and the time spent waiting for them."""
    started = time.perf_counter()
    for frame in frames:
        seconds["read"] += time.perf_counter() - started
        yield frame
        started = time.perf_counter()


if __name__ == "__main__":
    from bot_deploy.cli import main

    main(["demo", *sys.argv[1:]])
