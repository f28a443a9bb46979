"""The time left that a progress bar shows."""

from __future__ import annotations

import io
import re
import sys
import time

import pytest

from bot_deploy import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("done", [0, 3600])
def test_what_an_earlier_run_did_does_not_count_for_the_time_left(done: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, terminal = [1e9], Terminal()
    monkeypatch.setattr(time, "time", lambda: clock[0])
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_bars_shown", True)
    with progress.progress_counter("x.mp4", done) as report:
        report(done, 7200)
        for finished in range(done + 10, done + 401, 10):  # ten in a second
            clock[0] += 1
            report(finished, 7200, "10.0 x real time")
    lines = re.findall(r"(\d+)/7200  (\d\d):(\d\d):(\d\d)  10.0 x real time", terminal.getvalue())
    left = {int(line[0]): 3600 * int(line[1]) + 60 * int(line[2]) + int(line[3]) for line in lines}
    assert len(left) > 30
    for finished, seconds in left.items():
        assert seconds == pytest.approx((7200 - finished) / 10, abs=1.01)
