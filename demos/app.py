"""The loop of the live demo: `bot demo`, also `python -m bot_deploy.demos.app`."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy.errors import BotError, InputError, RunError, require_range

from .overlay import draw
from .recorder import save_snapshot
from .window import KEY_HELP, Keyboard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bot_deploy.images import Pixels
    from bot_deploy.matching.identify import Candidate
    from bot_deploy.video.sources import Frame, Source

    from .recognition import LiveRecognizer, RecognitionEvent, TrackedPerson
    from .recorder import Recorder
    from .window import Window

logger = logging.getLogger(__name__)

MAX_RECENT_PEOPLE = 64  # kept for the strip beside the picture, which shows the last few
FPS_SMOOTHING = 0.9  # weight of the previous value in the shown frame rate
PAUSED_KEY_WAIT_S = 0.05  # between two pictures while the picture stands still


@dataclass
class Summary:
    """The result of a run."""

    frames: int = 0
    seconds: float = 0.0
    dropped: int = 0  # frames
    recognised: Counter[str] = field(default_factory=Counter)  # name -> how often a track got it
    enrolled: list[str] = field(default_factory=list)  # names
    stages: dict[str, float] = field(default_factory=dict)  # stage -> seconds

    @property
    def fps(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0


def run(
    source: Source,
    recognizer: LiveRecognizer,
    recorder: Recorder,
    window: Window | None = None,
    *,
    max_frames: int = 0,
    snapshots: Path = Path(),
) -> Summary:
    """Recognises, records and shows the people on the frames of `source`, until it ends or the user quits.

    Args:
        source: the frames.
        recognizer: recognises the people.
        recorder: writes the video and the events.
        window: shows the pictures; None for no window.
        max_frames: number of frames after which the run stops; 0 for no limit.
        snapshots: folder for the snapshots of the key `s`.
    """
    require_range("max_frames", max_frames, 0, 1e9)
    loop = _Loop(source, recognizer, recorder, window, snapshots)
    started = time.perf_counter()
    try:
        for frame in _time_reads(source, recognizer.timer.seconds):
            if not loop.process(frame) or loop.summary.frames == max_frames:
                break
    except KeyboardInterrupt:
        logger.info("stopped")
    loop.summary.seconds = time.perf_counter() - started
    loop.summary.dropped = source.dropped
    loop.summary.stages = dict(recognizer.timer.seconds)
    return loop.summary


class _Pace:
    """Measures the frame rate, and how long to wait so that a file is not shown faster than it was filmed."""

    def __init__(self, frame_seconds: float) -> None:
        """`frame_seconds` is the time from frame to frame; 0 for no wait."""
        self.fps = 0.0
        self._frame_seconds = frame_seconds
        self._due = time.perf_counter()  # when the frame before this one was due

    def wait_seconds(self) -> float:
        """The seconds until the next frame is due; called once for each frame."""
        passed = time.perf_counter() - self._due
        self.fps = 1 / passed if not self.fps else FPS_SMOOTHING * self.fps + (1 - FPS_SMOOTHING) / passed
        wait = max(0.0, self._frame_seconds - passed)
        self._due += passed + wait
        return wait

    def end_frame(self) -> None:
        if not self._frame_seconds:
            self._due = time.perf_counter()


class _RecentPeople:
    """The people who were recognised or enrolled last."""

    def __init__(self) -> None:
        self._candidates: dict[str, Candidate] = {}  # by name, the last one at the end

    def add(self, candidate: Candidate) -> None:
        self._candidates.pop(candidate.name, None)
        self._candidates[candidate.name] = candidate
        if len(self._candidates) > MAX_RECENT_PEOPLE:
            del self._candidates[next(iter(self._candidates))]

    def update_scores(self, persons: list[TrackedPerson]) -> None:
        for person in persons:
            if person.name in self._candidates and person.candidate is not None:
                self._candidates[person.name] = person.candidate

    def newest_first(self) -> list[Candidate]:
        return list(reversed(self._candidates.values()))


class _Loop:
    """One run: recognise, draw, record and show each frame, and handle the keys."""

    def __init__(
        self, source: Source, recognizer: LiveRecognizer, recorder: Recorder, window: Window | None, snapshots: Path
    ) -> None:
        self.source, self.recognizer, self.recorder = source, recognizer, recorder
        self.window, self.snapshots = window, snapshots
        self.summary = Summary()
        self.recent = _RecentPeople()
        self.persons: list[TrackedPerson] = []  # on the present frame
        self.keyboard = Keyboard()
        self.selected: int | None = None  # id of the track that was clicked
        self.message = ""
        self.is_paused = False
        self.last_problem = ""  # of the frame before
        limits_rate = window is not None and not source.is_live
        self.pace = _Pace(1 / source.fps if limits_rate else 0.0)

    def process(self, frame: Frame) -> bool:
        """Processes one frame; returns False when the user quits."""
        if not frame.problem:
            frame = replace(frame, problem=self._recognize(frame))
        if frame.problem and not self.last_problem:
            logger.warning(frame.problem)
        with self.recognizer.timer.measure("draw"):
            picture = self._draw(frame)
        with self.recognizer.timer.measure("record"):
            if not (frame.problem and self.last_problem):  # hours without a picture are not recorded
                self.recorder.write(picture, frame.time)
        self.last_problem = frame.problem
        wait_seconds = self.pace.wait_seconds()
        continues = self.window is None or self._show(self.window, frame, picture, wait_seconds)
        self.pace.end_frame()
        return continues

    def _recognize(self, frame: Frame) -> str:
        """Finds the people on `frame`; returns the problem if a live source has to go on without the gallery."""
        self.summary.frames += 1
        try:
            self.persons, events = self.recognizer.process_frame(frame)
        except RunError as error:  # the server of the gallery restarts, for instance
            if not self.source.is_live:
                raise
            self.persons = []
            return str(error)
        for event in events:
            self._report(frame, event)
        return ""

    def _report(self, frame: Frame, event: RecognitionEvent) -> None:
        """Counts, logs and writes one event."""
        person, candidate = event.person, event.person.candidate
        assert candidate is not None
        if event.kind == "enrolled":
            self.summary.enrolled.append(candidate.name)
        else:
            self.summary.recognised[candidate.name] += 1
        logger.info(
            f"{frame.time:8.1f} s  track {person.track_id}  {event.kind}  {candidate.name}  {candidate.score:.3f}"
        )
        self.recent.add(candidate)
        self.recorder.write_event(
            {
                "time": round(frame.time, 3),
                **({"clock": datetime.now(UTC).isoformat(timespec="milliseconds")} if self.source.is_live else {}),
                "frame": frame.number,
                **({"file": frame.file_name} if frame.file_name else {}),
                "event": event.kind,
                "track": person.track_id,
                "name": candidate.name,
                "score": round(candidate.score, 4),
                "box": [round(corner) for corner in person.xyxy],
            }
        )

    def _draw(self, frame: Frame) -> Pixels:
        self.recent.update_scores(self.persons)
        return draw(
            frame.pixels,
            self.persons,
            self.recent.newest_first(),
            status=self._status(frame),
            problem=frame.problem,
            selected=self.selected,
        )

    def _status(self, frame: Frame) -> str:
        if self.keyboard.typed_name is not None:
            return f"name, then Enter (an automatic one if empty): {self.keyboard.typed_name}_"
        status = f"{self.pace.fps:.0f} frames/s   {frame.file_name}"
        if self.message or self.window:
            status += f"   {self.message or KEY_HELP}{'   paused' if self.is_paused else ''}"
        return status

    @property
    def _is_frozen(self) -> bool:
        """Also while a name is typed: OpenCV keeps only the last key between two pictures."""
        return self.is_paused or self.keyboard.typed_name is not None

    def _show(self, window: Window, frame: Frame, picture: Pixels, wait_seconds: float) -> bool:
        """Shows `picture` until the next frame is due, and handles keys; returns False when the user quits."""
        end = time.perf_counter() + wait_seconds
        while True:
            window.show(picture)
            key = window.wait_key(PAUSED_KEY_WAIT_S if self._is_frozen else max(0.0, end - time.perf_counter()))
            if window.is_closed:
                return False
            click = window.take_click()
            if click is not None:
                self.selected = smallest_box_at(click, self.persons)
            if key is not None and not self._handle_key(key, picture, frame.time):
                return False
            if not self._is_frozen and time.perf_counter() >= end:
                return True
            picture = self._draw(frame)

    def _handle_key(self, key: int, picture: Pixels, frame_time: float) -> bool:
        """Handles a key; returns False when the user quits."""
        command = self.keyboard.press(key)
        if command is None:
            return True
        self.message = ""
        if command.kind == "pause":
            self.is_paused = not self.is_paused
        elif command.kind == "snapshot":
            self._save_snapshot(picture, frame_time)
        elif command.kind == "enrol":
            self._enrol(command.name)
        return command.kind != "quit"

    def _enrol(self, name: str) -> None:
        if self.selected is None and len(self.persons) == 1:
            self.selected = self.persons[0].track_id
        try:
            if self.selected is None:
                raise InputError("click the box of the person first")
            self.message = f"enrolled {self.recognizer.enrol(self.selected, name or None)}"
        except BotError as error:
            self.message = str(error)

    def _save_snapshot(self, picture: Pixels, frame_time: float) -> None:
        try:
            self.message = f"saved {save_snapshot(picture, self.snapshots, frame_time)}"
        except BotError as error:
            self.message = str(error)


def smallest_box_at(point: tuple[int, int], persons: list[TrackedPerson]) -> int | None:
    """The id of the track with the smallest box around `point` (x, y); None if there is no such box."""
    x, y = point
    boxes = [
        ((right - left) * (bottom - top), person.track_id)
        for person in persons
        for left, top, right, bottom in [person.xyxy]
        if left <= x <= right and top <= y <= bottom
    ]
    return min(boxes)[1] if boxes else None


def _time_reads(frames: Source, seconds: dict[str, float]) -> Iterator[Frame]:
    """Yields the frames, and adds the time to read them to the stage "read"."""
    started = time.perf_counter()
    for frame in frames:
        seconds["read"] += time.perf_counter() - started
        yield frame
        started = time.perf_counter()


if __name__ == "__main__":
    from bot_deploy.cli import main

    sys.argv.insert(1, "demo")
    main()
