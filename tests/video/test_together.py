"""Several sources at once."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from bot_deploy.errors import InputError
from bot_deploy.video.sources import Frame, Source, streams
from bot_deploy.video.sources.together import open_sources, read_together

PIXELS = np.zeros((4, 6, 3), np.uint8)


class Recording(Source):
    """Frames at the given times."""

    def __init__(self, fps: float, times: list[float]) -> None:
        super().__init__("a recording", fps)
        self.times = iter(times)

    def __iter__(self) -> Iterator[Frame]:
        for number, seconds in enumerate(self.times):
            yield Frame(PIXELS, number, seconds)

    def close(self) -> None:
        self.times = iter(())


class Capture:
    """A camera that shows `red`; without one, it does not open."""

    def __init__(self, red: int | None) -> None:
        self.red = red

    def isOpened(self) -> bool:  # noqa: N802 - as OpenCV has it
        return self.red is not None

    def read(self) -> tuple[bool, np.ndarray]:
        time.sleep(0.002)
        return True, np.full((4, 6, 3), (0, 0, self.red), np.uint8)

    def get(self, prop: int, /) -> float:
        assert prop
        return 10.0

    def release(self) -> None:
        pass


def test_recordings_go_in_step_and_no_frame_is_left_out() -> None:
    fast, slow = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [0.0, 0.21, 0.39, 7.0]
    steps = list(read_together([Recording(10, fast), Recording(5, slow)]))
    assert [{number: frame.time for number, frame in step.items()} for step in steps] == [
        {0: 0.0, 1: 0.0},
        {0: 0.1},
        {0: 0.2, 1: 0.21},
        {0: 0.3},
        {0: 0.4, 1: 0.39},
        {0: 0.5},
        {1: 7.0},
    ]


def test_a_recording_without_further_frames_lets_the_other_go_on() -> None:
    steps = list(read_together([Recording(10, []), Recording(10, [0.0, 0.1])]))
    assert [list(step) for step in steps] == [[1], [1]]


def test_a_camera_that_is_away_stops_no_other_and_is_opened_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(streams, "FIRST_RETRY_WAIT_S", 0.05)
    monkeypatch.setattr(streams, "REPEAT_FRAME_S", 0.01)
    tries: list[str] = []

    def make_capture(address: str) -> Capture:
        tries.append(address)
        return Capture(7 if address == "0" else 9 if tries.count("1") > 2 else None)

    first: dict[str, int] = {}
    with open_sources(["0", "1"], make_capture=make_capture) as sources:
        end = time.monotonic() + 20
        for step, frames in enumerate(read_together(sources)):
            for number, frame in frames.items():
                kind = f"{number} {frame.problem.partition(';')[0] or int(frame.pixels[0, 0, 0])}"
                first.setdefault(kind, step)
            if "1 9" in first or time.monotonic() > end:
                break
    assert list(first) == ["0 7", "1 camera 1 gives no picture", "1 9"]
    assert "camera 1: cannot be opened" in caplog.text
    assert "it is tried again" in caplog.text


def test_cameras_that_are_all_away_are_an_error() -> None:
    with (
        pytest.raises(InputError, match="camera 0: cannot be opened"),
        open_sources(["0", "1"], make_capture=lambda _: Capture(None)),
    ):
        pass
