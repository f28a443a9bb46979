"""The recorder: videos, events and snapshots."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from bot_deploy.demos import recorder
from bot_deploy.demos.recorder import Recorder, save_snapshot
from bot_deploy.demos.video_writer import FORMATS
from bot_deploy.errors import InputError, RunError

# A process that records 60 frames, each brighter than the one before, and then kills itself.
KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from bot_deploy.demos.recorder import Recorder
with Recorder(Path(sys.argv[1]), Path(sys.argv[2]), 10) as recorder:
    for number in range(60):
        recorder.write(np.full((240, 320, 3), 4 * number, np.uint8))
        recorder.write_event({"frame": number})
    os.kill(os.getpid(), signal.SIGKILL)
"""
# A process that records noise and events of 20,000 characters until somebody kills it.
RECORDING = """
import sys
from itertools import count
from pathlib import Path
import numpy as np
from bot_deploy.demos.recorder import Recorder
pictures = np.random.default_rng(0).integers(0, 256, (8, 120, 160, 3), np.uint8)
with Recorder(Path(sys.argv[1]), Path(sys.argv[2]), 10) as recorder:
    for number in count():
        recorder.write(pictures[number % 8])
        recorder.write_event({"frame": number, "name": 20_000 * "x"})
"""

# A process that may write only so many bytes to a file.
LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from bot_deploy.demos.recorder import Recorder
from bot_deploy.errors import RunError
noise = np.random.default_rng(0).integers(0, 256, (5, 240, 320, 3), np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    with Recorder(Path(sys.argv[1]), None, 10) as recorder:
        for number in range(50):
            recorder.write(noise[number % 5])
except RunError as error:
    print(error)
"""


def picture(grey: int, height: int = 64, width: int = 96) -> np.ndarray:
    return np.full((height, width, 3), grey, np.uint8)


def frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as video:  # OpenCV 4.10 reads two frames of a video that was cut off
        return [frame.to_ndarray(format="bgr24") for frame in video.decode(video=0)]


def test_the_video_gets_its_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.mp4"
    with Recorder(path, None, 10) as recording:
        recording.write(picture(50))
        assert not path.exists()
    assert [round(float(frame.mean()), -1) for frame in frames(path)] == [50]
    assert [file.name for file in path.parent.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_exception_leaves_a_playable_video(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"an older one")

    def run() -> None:
        with Recorder(path, None, 10) as recording:
            for number in range(5):
                recording.write(picture(40 * number))
            raise error

    with pytest.raises(error):
        run()
    assert len(frames(path)) == 5


def test_without_pictures_an_older_video_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"an older one")
    with Recorder(path, None, 10):
        pass
    assert path.read_bytes() == b"an older one"


def test_an_exception_before_the_first_picture_keeps_an_older_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"an older one")

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "_copies_to_write", interrupt)
    with pytest.raises(KeyboardInterrupt), Recorder(path, None, 10) as recording:
        recording.write(picture(50))
    assert path.read_bytes() == b"an older one"
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_a_killed_run_leaves_a_video_without_its_last_second_and_all_events(suffix: str, tmp_path: Path) -> None:
    path, events = tmp_path / f"out{suffix}", tmp_path / "events.jsonl"
    part = path.with_stem("out.part")
    result = subprocess.run([sys.executable, "-c", KILLED, path, events], check=False)
    assert result.returncode == -9
    assert not path.exists()
    greys = [float(frame.mean()) for frame in frames(part)]
    assert 60 - 11 <= len(greys) <= 60
    np.testing.assert_allclose(greys, 4 * np.arange(len(greys)), atol=5)
    assert [json.loads(line)["frame"] for line in events.read_text().splitlines()] == list(range(60))
    with Recorder(path, events, 10) as next_run:
        next_run.write(picture(50))
        next_run.write_event({"frame": 60})
    assert len(frames(part)) == len(greys)  # of the run that was killed
    assert len(frames(path)) == 1
    assert [json.loads(line)["frame"] for line in events.read_text().splitlines()] == list(range(61))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("seed", range(3))
def test_events_are_whole_lines_after_a_kill_at_any_moment(seed: int, tmp_path: Path) -> None:
    path, events = tmp_path / "out.mp4", tmp_path / "events.jsonl"
    process = subprocess.Popen([sys.executable, "-c", RECORDING, path, events])
    deadline = time.monotonic() + 60
    while not (events.exists() and events.stat().st_size > 1_000_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(float(np.random.default_rng(seed).uniform(0, 0.2)))
    process.kill()
    assert process.wait() == -9
    *lines, cut_off = events.read_text().split("\n")
    numbers = [json.loads(line)["frame"] for line in lines]
    assert numbers == list(range(len(numbers)))
    # Linux may end a write of several pages at the end of a page, if the process is killed meanwhile.
    assert json.dumps({"frame": len(numbers), "name": 20_000 * "x"}).startswith(cut_off)
    assert len(frames(tmp_path / "out.part.mp4")) >= len(numbers) - 11


def test_half_a_line_of_a_crash_does_not_spoil_the_next_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"frame": 1}\n{"fra')
    for number in (2, 3):
        with Recorder(None, path, 10) as recording:
            recording.write_event({"frame": number})
    assert path.read_text().splitlines() == ['{"frame": 1}', '{"fra', '{"frame": 2}', '{"frame": 3}']


def test_a_finished_mp4_is_an_ordinary_one(tmp_path: Path) -> None:
    """Players show its length, and can jump in it: the index comes with the number of frames."""
    path = tmp_path / "out.mp4"
    with Recorder(path, None, 10) as recording:
        for number in range(30):
            recording.write(picture(8 * number))
    with av.open(str(path)) as container:
        assert (container.streams.video[0].frames, container.duration) == (30, 3 * av.time_base)


@pytest.mark.skipif(os.name == "nt", reason="Windows limits no file sizes")
@pytest.mark.parametrize("suffix", sorted(FORMATS))
@pytest.mark.parametrize("limit", [0, 1000, 400_000])
def test_a_disk_that_fills_up_gives_one_line(suffix: str, limit: int, tmp_path: Path) -> None:
    """A limit on the file's size stands for the full disk."""
    command = [sys.executable, "-c", LIMITED, tmp_path / f"out{suffix}", str(limit)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1
    assert "File too large" in result.stdout


@pytest.mark.parametrize("size", [(63, 95), (64, 96), (1, 1)])
def test_other_sizes_are_fitted_into_the_first(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "out.avi"
    with Recorder(path, None, 10) as recording:
        recording.write(picture(200, 64, 96))
        recording.write(picture(200, *size))
        recording.write(picture(200, 30, 90))  # three times as wide as high: bars above and below
    first, second, third = frames(path)
    assert first.shape == second.shape == third.shape == (64, 96, 3)
    assert second[32, 48].mean() == pytest.approx(200, abs=4)
    assert third[32].mean() == pytest.approx(200, abs=4)
    assert third[[0, 12, 52, 63]].mean() == pytest.approx(0, abs=8)


def test_the_video_keeps_real_time(tmp_path: Path) -> None:
    """Ten frames a second, of a camera that is slower, then faster, then away for an hour."""
    path = tmp_path / "out.avi"
    with Recorder(path, None, 10) as recording:
        for grey, time in ((0, 7.0), (50, 7.3), (100, 7.31), (150, 7.4), (200, 3607.4), (250, 3607.5)):
            recording.write(picture(grey), time)
    greys = [int(round(float(frame.mean()) / 50) * 50) for frame in frames(path)]
    assert greys == [0, 50, 50, 50, 150, *[200] * round(10 * recorder.MAX_STILL_S), 250]


def test_an_odd_first_picture_is_rounded_up(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with Recorder(path, None, 10) as recording:
        recording.write(picture(200, 63, 95))
    assert frames(path)[0].shape == (64, 96, 3)


def test_events_are_written_at_once_and_in_any_script(tmp_path: Path) -> None:
    path = tmp_path / "new" / "events.jsonl"
    with Recorder(None, path, 10) as recording:
        recording.write_event({"name": "张伟", "time": 1.5})
        assert json.loads(path.read_text(encoding="utf-8")) == {"name": "张伟", "time": 1.5}
        recording.write_event({"name": "\udcff"})  # from a file name that is not text
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2


def test_events_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with Recorder(None, Path("-"), 10) as recording:
        recording.write_event({"name": "Ann"})
    assert json.loads(capsys.readouterr().out) == {"name": "Ann"}
    assert not Path("-").exists()


def test_files_that_cannot_be_written_are_errors_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"ends in \.mp4"):
        Recorder(tmp_path / "out.txt", None, 10)
    with pytest.raises(RunError, match="cannot be written"):
        Recorder(tmp_path / "file" / "out.mp4", None, 10)
    with pytest.raises(RunError, match="cannot be written"):
        Recorder(None, tmp_path / "file" / "events", 10)
    with pytest.raises(RunError, match="cannot be written"):
        Recorder(None, tmp_path, 10)
    monkeypatch.setattr(recorder, "MIN_FREE_BYTES", 1 << 62)
    with pytest.raises(RunError, match="disk is full"), Recorder(tmp_path / "out.mp4", None, 10) as recording:
        recording.write(picture(1))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_an_error_for_events_too() -> None:
    with pytest.raises(RunError, match="No space left"), Recorder(None, Path("/dev/full"), 10) as recording:
        recording.write_event({"name": "Ann"})


def test_snapshots_replace_no_older_ones(tmp_path: Path) -> None:
    first, second = (save_snapshot(picture(grey), tmp_path / "new", 1.25) for grey in (10, 20))
    assert first != second
    for path, grey in ((first, 10), (second, 20)):
        with Image.open(path) as saved:
            np.testing.assert_array_equal(np.asarray(saved), picture(grey))
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="no snapshot"):
        save_snapshot(picture(1), tmp_path / "file", 0)
    assert len(os.listdir(tmp_path / "new")) == 2  # noqa: PTH208
