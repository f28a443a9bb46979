"""The loop: frames in, pictures and events out; by hand, by Ctrl-C, and as `bot demo`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_camera import BLUE, DETECTOR, GREEN, RED, embedder, film, scene

from bot_deploy.demos import app
from bot_deploy.demos.app import Summary
from bot_deploy.demos.enrolment import People, open_people
from bot_deploy.demos.overlay import STRIP
from bot_deploy.demos.recognition import Live
from bot_deploy.demos.recorder import Recorder
from bot_deploy.errors import RunError
from bot_deploy.video.sources import Frame, open_source

RED_BOX, BLUE_BOX = (40, 60, 90, 200), (200, 60, 250, 200)
BOTH = scene((RED, RED_BOX), (BLUE, BLUE_BOX))
# What runs `bot` where these packages cannot be imported.
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(("torch", "torchvision", "onnx", "onnxscript")))
from bot_deploy.cli import main
main(sys.argv[1:])
"""


class Film:
    """A source of `frames`; an exception among them is raised."""

    name, live, fps, dropped = "a film", False, 1000.0, 3

    def __init__(self, *frames: Frame | BaseException) -> None:
        self.frames = frames

    def __iter__(self) -> Iterator[Frame]:
        for frame in self.frames:
            if isinstance(frame, BaseException):
                raise frame
            yield frame


class Hand:
    """A window in which, frame by frame, somebody presses keys and clicks; nothing is seen of it."""

    def __init__(self, *actions: str | tuple[int, int] | None) -> None:
        self.actions = list(actions)
        self.clicked: tuple[int, int] | None = None
        self.closed = False
        self.shown: list[np.ndarray] = []

    def show(self, picture: np.ndarray) -> None:
        self.shown.append(picture)

    def key(self, seconds: float) -> int | None:
        assert seconds >= 0
        action = self.actions.pop(0) if self.actions else None
        if action == "closes":
            self.closed = True
            return None
        if isinstance(action, tuple):
            self.clicked = action
            return None
        return None if action is None else ord(action)


@pytest.fixture
def known(tmp_path: Path) -> Iterator[People]:
    found = open_people(str(tmp_path / "g"), embedder())
    yield found
    found.gallery.close()


def run(
    known: People, frames: list[Frame | BaseException], events: Path, hand: Hand | None = None, **options: object
) -> Summary:
    live = Live(DETECTOR, embedder(), known, 10)
    with Recorder(None, events, 10) as recorder:
        return app.run(Film(*frames), live, recorder, hand, **options)  # type: ignore[arg-type]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_say_when_who_where(known: People, tmp_path: Path) -> None:
    known.enrol("Ann", scene((RED, (0, 0, 320, 240))), embedder().embed([np.full((9, 9, 3), RED, np.uint8)])[0])
    summary = run(known, list(film([BOTH] * 8)), tmp_path / "events")
    (event,) = lines(tmp_path / "events")
    assert event["score"] == pytest.approx(1, abs=2e-3)
    assert {**event, "score": 0, "track": 0} == {
        "time": 0.1,  # the second frame: what is seen once may be nothing
        "frame": 1,
        "event": "recognised",
        "track": 0,
        "name": "Ann",
        "score": 0,
        "box": list(RED_BOX),
    }
    assert (summary.frames, summary.recognised, summary.enrolled, summary.dropped) == (8, {"Ann": 1}, [], 3)
    assert set(summary.stages) == {"read", "detect", "track", "embed", "search", "draw", "record"}
    assert 0 < sum(summary.stages.values()) <= summary.seconds


def test_it_stops_after_so_many_frames(known: People, tmp_path: Path) -> None:
    assert run(known, list(film([BOTH] * 8)), tmp_path / "events", max_frames=3).frames == 3


def test_ctrl_c_is_an_end_and_no_error(known: People, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    summary = run(known, [*film([BOTH] * 4), KeyboardInterrupt(), *film([BOTH])], tmp_path / "events")
    assert summary.frames == 4
    assert "stopped" in caplog.text


def test_trouble_is_said_once_and_is_no_frame(known: People, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = list(film([BOTH] * 4))
    bad = [Frame(BOTH, 3, 0.5, trouble="camera 0 gives no picture"), Frame(BOTH, 3, 0.6, trouble="camera 0 gives none")]
    hand = Hand()
    summary = run(known, [*good, *bad, *film([BOTH] * 2, first=4)], tmp_path / "events", hand)
    assert summary.frames == 6
    assert caplog.text.count("camera 0") == 1
    plain, troubled = hand.shown[3], hand.shown[4]
    assert (plain[:20, :300] != troubled[:20, :300]).any()


def test_a_click_and_a_name_enrol(known: People, tmp_path: Path) -> None:
    hand = Hand(None, None, (225, 100), "e", *"Bob", "\r")
    summary = run(known, list(film([BOTH] * 12)), tmp_path / "events", hand)
    assert (summary.enrolled, len(known)) == (["Bob"], 1)
    (event,) = lines(tmp_path / "events")
    assert (event["event"], event["name"], event["box"]) == ("enrolled", "Bob", list(BLUE_BOX))
    assert summary.frames == 12  # time stood still while the name was typed
    assert (hand.shown[-1][:150, 320:] == BLUE).all(2).any()
    assert hand.shown[-1].shape == (240, 320 + STRIP, 3)


def test_a_bad_name_or_no_box_is_said_on_the_picture(known: People, tmp_path: Path) -> None:
    hand = Hand(None, None, "e", "x", "\r", (225, 100), "e", *"a/b", "\r", None)
    summary = run(known, list(film([BOTH] * 12)), tmp_path / "events", hand)
    assert (summary.frames, summary.enrolled, len(known)) == (12, [], 0)


def test_one_person_alone_needs_no_click(known: People, tmp_path: Path) -> None:
    alone = scene((GREEN, RED_BOX))
    summary = run(known, list(film([alone] * 8)), tmp_path / "events", Hand(None, None, "e", "\r"))
    assert summary.enrolled == ["person-1"]


def test_space_holds_the_picture_and_q_ends(known: People, tmp_path: Path) -> None:
    hand = Hand(None, " ", None, None, " ", None, "q")
    assert run(known, list(film([BOTH] * 8)), tmp_path / "events", hand).frames == 4


def test_a_window_that_is_closed_while_a_name_is_typed_ends_it(known: People, tmp_path: Path) -> None:
    hand = Hand(None, (225, 100), "e", "B", "closes", "o", "b", "\r")
    summary = run(known, list(film([BOTH] * 8)), tmp_path / "events", hand)
    assert (summary.frames, summary.enrolled) == (3, [])


@pytest.mark.parametrize("is_live", [True, False])
def test_a_gallery_that_is_away_for_a_moment(
    is_live: bool, known: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Film, "live", is_live)
    found, calls = known.candidates, iter(range(99))

    def candidates(vector: np.ndarray) -> object:
        if next(calls) == 2:
            raise RunError("the server is away")
        return found(vector)

    monkeypatch.setattr(known, "candidates", candidates)
    if not is_live:  # a film does not come again
        with pytest.raises(RunError, match="the server is away"):
            run(known, list(film([BOTH] * 8)), tmp_path / "events")
        return
    assert run(known, list(film([BOTH] * 8)), tmp_path / "events").frames == 8
    assert caplog.text.count("the server is away") == 1


def test_a_snapshot_is_the_picture(known: People, tmp_path: Path) -> None:
    from PIL import Image

    hand = Hand(None, "s")
    run(known, list(film([BOTH] * 3)), tmp_path / "events", hand, snapshots=tmp_path / "shots")
    (shot,) = (tmp_path / "shots").iterdir()
    with Image.open(shot) as saved:
        np.testing.assert_array_equal(np.asarray(saved), hand.shown[1])


# ---- bot demo ----


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of two coloured rectangles that walk."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with Recorder(path, None, 10) as recorder:
        for step in range(10):
            left, right = (40 + 3 * step, 60, 90 + 3 * step, 200), (200 - 3 * step, 60, 250 - 3 * step, 200)
            recorder.write(scene((RED, left), (BLUE, right)))
    return path


def demo(*words: object, start: tuple[str, ...] = ("-m", "bot_deploy", "demo")) -> list[str]:
    return [sys.executable, *start, *map(str, words)]


def done(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_headless_and_without_torch(onnx_file: Path, video: Path, tmp_path: Path) -> None:
    words = ["--source", video, "--model", onnx_file, "--headless", "--output", "out.mp4", "--events", "e.jsonl"]
    ended = done(demo("demo", *words, "--json", "--auto-enrol", start=("-c", WITHOUT)), tmp_path)
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document["frames"] == 10
    assert document["stages"].keys() >= {"read", "detect", "track", "embed"}
    assert (tmp_path / "e.jsonl").read_text() == "" or lines(tmp_path / "e.jsonl")
    with open_source(str(tmp_path / "out.mp4")) as source:
        shown = list(source)
    assert (len(shown), shown[0].pixels.shape) == (10, (240, 320 + STRIP, 3))
    assert (tmp_path / "people.gallery").is_dir()


def test_the_module_is_the_same_program(onnx_file: Path, video: Path, tmp_path: Path) -> None:
    words = ["--source", video, "--model", onnx_file, "--headless", "--max-frames", 4]
    ended = done(demo(*words, start=("-m", "bot_deploy.demos.app")), tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("4 frames in ")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopped_from_outside_it_leaves_playable_files(onnx_file: Path, tmp_path: Path, how: signal.Signals) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    from PIL import Image

    for number in range(600):
        Image.fromarray(BOTH).save(frames / f"{number:04d}.bmp")
    words = ["--source", frames, "--model", onnx_file, "--headless", "--output", "out.mp4", "--events", "e.jsonl"]
    process = subprocess.Popen(
        demo(*words, "--json"), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    part, end = tmp_path / "out.part.mp4", time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(how)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "stopped" in stderr
    assert "Traceback" not in stderr
    count = json.loads(stdout)["frames"]
    assert 0 < count < 600
    with open_source(str(tmp_path / "out.mp4")) as source:
        assert len(list(source)) == pytest.approx(count, abs=1)
    assert (tmp_path / "e.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--source", "none.mp4"], "none.mp4: no such file or folder"),
        (["--source", "VIDEO", "--detector", "none.onnx"], "none.onnx: no such detector file"),
        (["--source", "VIDEO", "--output", "out.txt"], "out.txt: a video's name ends in .mp4"),
        (["--source", "VIDEO", "--events", "-", "--json"], "both want stdout"),
        (["--source", "VIDEO", "--gallery", "VIDEO"], "holds something else"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, onnx_file: Path, video: Path, tmp_path: Path) -> None:
    given = [str(video) if word == "VIDEO" else word for word in words]
    ended = done(demo(*given, "--model", onnx_file, "--headless"), tmp_path)
    assert ended.returncode == 2
    assert said in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_without_a_window_system_the_message_names_headless(onnx_file: Path, video: Path, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("only on Linux is there no display where no variable names one")
    bare = {name: value for name, value in os.environ.items() if name not in {"DISPLAY", "WAYLAND_DISPLAY"}}
    command = demo("--source", video, "--model", onnx_file)
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=bare)
    assert ended.returncode == 1
    assert "--headless" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
