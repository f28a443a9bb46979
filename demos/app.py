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

import numpy as np

from bot_deploy.errors import BotError, InputError, RunError, require_range
from bot_deploy.matching.verdict import UNCERTAIN
from bot_deploy.video.sources.together import read_together

from .overlay import View, draw, find_point
from .recognition import LEFT
from .recorder import save_snapshot
from .window import KEY_HELP, Keyboard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bot_deploy.images import Pixels
    from bot_deploy.matching.identify import Candidate
    from bot_deploy.video.sources import Frame

    from .cameras import Camera
    from .recognition import LiveRecognizer, RecognitionEvent, TrackedPerson
    from .recorder import Recorder
    from .window import Window

logger = logging.getLogger(__name__)

MAX_RECENT_PEOPLE = 64  # kept for the strip beside the picture, which shows the last few
FPS_SMOOTHING = 0.9  # weight of the previous value in the shown frame rate
PAUSED_KEY_WAIT_S = 0.05  # between two pictures while the picture stands still
NO_PICTURE = np.full((360, 640, 3), 60, np.uint8)  # of a camera, before its first frame


@dataclass
class Summary:
    """The result of a run."""

    frames: int = 0  # of all cameras
    seconds: float = 0.0
    dropped: int = 0  # frames
    cameras: Counter[str] = field(default_factory=Counter)  # name -> frames
    recognised: Counter[str] = field(default_factory=Counter)  # name -> how often a track got it
    enrolled: list[str] = field(default_factory=list)  # names
    stages: dict[str, float] = field(default_factory=dict)  # stage -> seconds

    @property
    def fps(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0


def run(
    cameras: Sequence[Camera],
    recognizer: LiveRecognizer,
    recorder: Recorder,
    window: Window | None = None,
    *,
    max_frames: int = 0,
    snapshots: Path = Path(),
) -> Summary:
    """Recognises, records and shows the people on the frames of `cameras`, until all end or the user quits.

    Args:
        cameras: where the frames come from.
        recognizer: recognises the people; it was made for the frame rates of these cameras.
        recorder: writes the video and the events.
        window: shows the pictures; None for no window.
        max_frames: number of frames of a camera after which the run stops; 0 for no limit.
        snapshots: folder for the snapshots of the key `s`.
    """
    require_range("max_frames", max_frames, 0, 1e9)
    loop = _Loop(cameras, recognizer, recorder, window, snapshots)
    started = time.perf_counter()
    try:
        for frames in _time_reads(read_together([camera.source for camera in cameras]), recognizer.timer.seconds):
            if not loop.process(frames) or (max_frames and max(loop.summary.cameras.values(), default=0) >= max_frames):
                break
    except KeyboardInterrupt:
        logger.info("stopped")
    loop.finish()
    loop.summary.seconds = time.perf_counter() - started
    loop.summary.dropped = sum(camera.source.dropped for camera in cameras)
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

    def update_scores(self, persons: Iterable[TrackedPerson]) -> None:
        for person in persons:
            if person.name in self._candidates and person.candidate is not None:
                self._candidates[person.name] = person.candidate

    def newest_first(self) -> list[Candidate]:
        return list(reversed(self._candidates.values()))


class _Screen:
    """What is shown of one camera."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.frame: Frame | None = None  # the present one
        self.persons: list[TrackedPerson] = []  # on it
        self.last_problem = ""  # of the frame before

    def view(self, selected: int | None) -> View:
        if self.frame is None:
            return View(NO_PICTURE, name=self.name)
        return View(self.frame.pixels, self.persons, self.name, self.frame.problem, selected)


class _Loop:
    """One run: recognise, draw, record and show the frames, and handle the keys."""

    def __init__(
        self,
        cameras: Sequence[Camera],
        recognizer: LiveRecognizer,
        recorder: Recorder,
        window: Window | None,
        snapshots: Path,
    ) -> None:
        self.cameras, self.recognizer, self.recorder = cameras, recognizer, recorder
        self.window, self.snapshots = window, snapshots
        self.summary = Summary()
        self.recent = _RecentPeople()
        self.screens = [_Screen(camera.name) for camera in cameras]
        self.keyboard = Keyboard()
        self.selected: tuple[int, int] | None = None  # camera and id of the track that was clicked
        self.message = ""
        self.is_paused = False
        self.time = 0.0  # of the newest frame
        self.has_live = any(camera.source.is_live for camera in cameras)
        limits_rate = window is not None and not self.has_live
        self.pace = _Pace(1 / max(camera.source.fps for camera in cameras) if limits_rate else 0.0)

    def process(self, frames: dict[int, Frame]) -> bool:
        """Processes one frame of some of the cameras; returns False when the user quits."""
        frames = {number: self.cameras[number].dated(frame) for number, frame in frames.items()}
        failure = self._recognize({number: frame for number, frame in frames.items() if not frame.problem})
        is_new = False  # whether there is a picture, or the first one with a problem
        for number, frame in frames.items():
            screen, problem = self.screens[number], frame.problem or failure
            if problem and not screen.last_problem:
                logger.warning(problem)
            is_new |= not (problem and screen.last_problem)
            screen.frame, screen.last_problem = replace(frame, problem=problem), problem
        self.time = max(self.time, *(frame.time for frame in frames.values()))
        with self.recognizer.timer.measure("draw"):
            picture = self._draw() if self.window or self.recorder.has_video else NO_PICTURE
        with self.recognizer.timer.measure("record"):
            if is_new:  # hours without a picture are not recorded
                self.recorder.write(picture, self.time)
        wait_seconds = self.pace.wait_seconds()
        continues = self.window is None or self._show(self.window, picture, wait_seconds)
        self.pace.end_frame()
        return continues

    def _recognize(self, frames: dict[int, Frame]) -> str:
        """Finds the people on `frames`; returns the problem if a live source has to go on without the gallery."""
        if not frames:
            return ""
        self.summary.frames += len(frames)
        self.summary.cameras.update(self.cameras[number].name for number in frames)
        try:
            results = self.recognizer.process_frames(frames)
        except RunError as error:  # the server of the gallery restarts, for instance
            if not self.has_live:
                raise
            for number in frames:
                self.screens[number].persons = []
            return str(error)
        for number, result in results.items():
            self.screens[number].persons = result.persons
            self._report(number, result.events, frames[number].file_name)
        return ""

    def finish(self) -> None:
        """Writes the ends of the appearances that have not ended."""
        for number, events in self.recognizer.finish().items():
            self._report(number, events)

    def _report(self, number: int, events: Iterable[RecognitionEvent], file_name: str = "") -> None:
        """Counts, logs and writes the events of camera `number`."""
        camera = self.cameras[number]
        place = f"{camera.name}  " if len(self.cameras) > 1 else ""
        for event in events:
            person, candidate = event.person, event.person.candidate
            if event.kind == "enrolled":
                self.summary.enrolled.append(person.name or "")
            elif event.kind == "recognised":
                self.summary.recognised[person.name or ""] += 1
            if candidate and event.kind != LEFT:
                logger.info(
                    f"{event.frame.time:8.1f} s  {place}track {person.track_id}  {event.kind}  {candidate.name}  "
                    f"{candidate.score:.3f}"
                )
            if candidate and event.kind not in {LEFT, UNCERTAIN}:
                self.recent.add(candidate)
            self.recorder.write_event(event_document(camera, event, "" if event.kind == LEFT else file_name))

    def _views(self) -> list[View]:
        camera, track = self.selected or (None, None)
        return [screen.view(track if number == camera else None) for number, screen in enumerate(self.screens)]

    def _draw(self) -> Pixels:
        self.recent.update_scores(person for screen in self.screens for person in screen.persons)
        return draw(self._views(), self.recent.newest_first(), status=self._status())

    def _status(self) -> str:
        if self.keyboard.typed_name is not None:
            return f"name, then Enter (an automatic one if empty): {self.keyboard.typed_name}_"
        frame = self.screens[0].frame
        file_name = frame.file_name if frame and len(self.screens) == 1 else ""
        status = f"{self.pace.fps:.0f} frames/s   {file_name}"
        if self.message or self.window:
            status += f"   {self.message or KEY_HELP}{'   paused' if self.is_paused else ''}"
        return status

    @property
    def _is_frozen(self) -> bool:
        """Also while a name is typed: OpenCV keeps only the last key between two pictures."""
        return self.is_paused or self.keyboard.typed_name is not None

    def _show(self, window: Window, picture: Pixels, wait_seconds: float) -> bool:
        """Shows `picture` until the next frame is due, and handles keys; returns False when the user quits."""
        end = time.perf_counter() + wait_seconds
        while True:
            window.show(picture)
            key = window.wait_key(PAUSED_KEY_WAIT_S if self._is_frozen else max(0.0, end - time.perf_counter()))
            if window.is_closed:
                return False
            click = window.take_click()
            if click is not None:
                self.selected = self._find_person(click)
            if key is not None and not self._handle_key(key, picture):
                return False
            if not self._is_frozen and time.perf_counter() >= end:
                return True
            picture = self._draw()

    def _find_person(self, point: tuple[int, int]) -> tuple[int, int] | None:
        """Camera and track of the smallest box around `point` (x, y) of the picture; None if there is no such box."""
        found = find_point(point, self._views())
        if found is None:
            return None
        camera, place = found
        track = smallest_box_at(place, self.screens[camera].persons)
        return None if track is None else (camera, track)

    def _handle_key(self, key: int, picture: Pixels) -> bool:
        """Handles a key; returns False when the user quits."""
        command = self.keyboard.press(key)
        if command is None:
            return True
        self.message = ""
        if command.kind == "pause":
            self.is_paused = not self.is_paused
        elif command.kind == "snapshot":
            self._save_snapshot(picture)
        elif command.kind == "enrol":
            self._enrol(command.name)
        return command.kind != "quit"

    def _enrol(self, name: str) -> None:
        present = [(number, person.track_id) for number, screen in enumerate(self.screens) for person in screen.persons]
        if self.selected is None and len(present) == 1:
            self.selected = present[0]
        try:
            if self.selected is None:
                raise InputError("click the box of the person first")
            camera, track = self.selected
            self.message = f"enrolled {self.recognizer.enrol(track, name or None, camera)}"
        except BotError as error:
            self.message = str(error)

    def _save_snapshot(self, picture: Pixels) -> None:
        try:
            self.message = f"saved {save_snapshot(picture, self.snapshots, self.time)}"
        except BotError as error:
            self.message = str(error)


def event_document(camera: Camera, event: RecognitionEvent, file_name: str) -> dict[str, object]:
    """The line of an event; times, camera and source are written as `bot match --json` writes those of appearances."""
    person, frame = event.person, event.frame
    offset = 0.0 if frame.clock is None else frame.clock - frame.time
    return {
        "time": round(frame.time, 3),
        **({} if frame.clock is None else {"clock": _iso(frame.clock)}),
        "source": camera.source.name,
        "camera_name": camera.name,
        "frame": frame.number,
        **({"file": file_name} if file_name else {}),
        "event": event.kind,
        "verdict": person.decision,
        "track": person.track_id,
        "name": person.candidate.name if person.candidate else None,
        "score": round(person.candidate.score, 4) if person.candidate else None,
        "box": [round(corner) for corner in person.xyxy],
        "from": round(offset + person.first_seen, 3),
        "to": round(offset + person.last_seen, 3),
    }


def _iso(clock: float) -> str | None:
    try:
        return datetime.fromtimestamp(clock, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):  # no date that a calendar has
        return None


def smallest_box_at(point: tuple[float, float], persons: list[TrackedPerson]) -> int | None:
    """The id of the track with the smallest box around `point` (x, y); None if there is no such box."""
    x, y = point
    boxes = [
        ((right - left) * (bottom - top), person.track_id)
        for person in persons
        for left, top, right, bottom in [person.xyxy]
        if left <= x <= right and top <= y <= bottom
    ]
    return min(boxes)[1] if boxes else None


def _time_reads(steps: Iterator[dict[int, Frame]], seconds: dict[str, float]) -> Iterator[dict[int, Frame]]:
    """Yields the frames, and adds the time to read them to the stage "read"."""
    started = time.perf_counter()
    for frames in steps:
        seconds["read"] += time.perf_counter() - started
        yield frames
        started = time.perf_counter()


if __name__ == "__main__":
    from bot_deploy.cli import main

    sys.argv.insert(1, "demo")
    main()
