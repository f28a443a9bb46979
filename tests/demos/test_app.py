"""The live demo: its loop with keys and clicks, and the program `bot demo`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_camera import (
    BLUE,
    DETECTOR,
    GREEN,
    RED,
    embedder,
    enrol,
    enrolled_names,
    frames_of,
    scene,
    write_colour_model,
)

from bot_deploy.demos import app
from bot_deploy.demos.app import Summary
from bot_deploy.demos.cameras import Camera
from bot_deploy.demos.enrolment import open_enrolment_gallery
from bot_deploy.demos.overlay import STRIP_WIDTH
from bot_deploy.demos.recognition import LiveRecognizer
from bot_deploy.demos.recorder import Recorder
from bot_deploy.errors import InputError, RunError
from bot_deploy.gallery import Index
from bot_deploy.matching.identify import Candidate, PersonIdentifier
from bot_deploy.video.sources import Frame, open_source
from bot_deploy.video.tracklets import TrackletBuilder
from bot_deploy.video.tracks import PersonTracker

RED_BOX, BLUE_BOX = (40, 60, 90, 200), (200, 60, 250, 200)
BOTH = scene((RED, RED_BOX), (BLUE, BLUE_BOX))
# A program that runs `bot` and cannot import these packages.
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(("torch", "torchvision", "onnx", "onnxscript")))
from bot_deploy.cli import main
main(sys.argv[1:])
"""

# A program that prints the two numbers that `bot demo` gets from its options.
PRINT_NUMBERS = """
import sys
from bot_deploy.cli import main
from bot_deploy.demos import recognition
from bot_deploy.video import detectors

class Recognizer:
    def __init__(self, *arguments, embed_every, **others):
        print(embed_every)
        sys.exit()

open_detector = detectors.open_detector
detectors.open_detector = lambda *_, min_confidence, **others: print(min_confidence) or open_detector()
recognition.LiveRecognizer = Recognizer
main(["demo", *sys.argv[1:]])
"""


class Film:
    """A source of `frames`; it raises the exceptions among them."""

    name, is_live, fps, dropped = "a film", False, 1000.0, 3

    def __init__(self, *frames: Frame | BaseException) -> None:
        self.frames = frames

    def __iter__(self) -> Iterator[Frame]:
        for frame in self.frames:
            if isinstance(frame, BaseException):
                raise frame
            yield frame


class FakeWindow:
    """A window without a screen: it replays keys and clicks, one each frame, and keeps the pictures."""

    def __init__(self, *actions: str | tuple[int, int] | None) -> None:
        self.actions = list(actions)
        self.click: tuple[int, int] | None = None
        self.is_closed = False
        self.shown: list[np.ndarray] = []

    def show(self, picture: np.ndarray) -> None:
        self.shown.append(picture)

    def wait_key(self, seconds: float) -> int | None:
        assert seconds >= 0
        action = self.actions.pop(0) if self.actions else None
        if action == "close":
            self.is_closed = True
            return None
        if isinstance(action, tuple):
            self.click = action
            return None
        return None if action is None else ord(action)

    def take_click(self) -> tuple[int, int] | None:
        click, self.click = self.click, None
        return click


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Index]:
    opened = open_enrolment_gallery(str(tmp_path / "g"), embedder())
    yield opened
    opened.close()


def run(
    gallery: Index,
    frames: list[Frame | BaseException],
    events: Path,
    window: FakeWindow | None = None,
    **options: object,
) -> Summary:
    recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, 10)
    with Recorder(None, events, 10) as recorder:
        return app.run([Camera(Film(*frames), "film")], recognizer, recorder, window, **options)  # type: ignore[arg-type]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_have_time_name_and_box(gallery: Index, tmp_path: Path) -> None:
    enrol(gallery, Ann=RED)
    summary = run(gallery, list(frames_of([BOTH] * 8)), tmp_path / "events")
    event, left = lines(tmp_path / "events")
    assert event["score"] == pytest.approx(1, abs=2e-3)
    assert {**event, "score": 0, "track": 0} == {
        "time": 0.1,  # the second frame: ByteTrack needs two detections
        "source": "a film",
        "camera_name": "film",
        "frame": 1,
        "event": "recognised",
        "verdict": "match",
        "track": 0,
        "name": "Ann",
        "score": 0,
        "box": list(RED_BOX),
        "from": 0.1,
        "to": 0.1,
    }
    assert left == {**event, "event": "left", "time": 0.7, "frame": 7, "to": 0.7}
    assert (summary.frames, summary.recognised, summary.enrolled, summary.dropped) == (8, {"Ann": 1}, [], 3)
    assert set(summary.stages) == {"read", "detect", "track", "embed", "search", "draw", "record"}
    assert 0 < sum(summary.stages.values()) <= summary.seconds


def test_max_frames_ends_the_run(gallery: Index, tmp_path: Path) -> None:
    assert run(gallery, list(frames_of([BOTH] * 8)), tmp_path / "events", max_frames=3).frames == 3


def test_ctrl_c_ends_the_run(gallery: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    summary = run(gallery, [*frames_of([BOTH] * 4), KeyboardInterrupt(), *frames_of([BOTH])], tmp_path / "events")
    assert summary.frames == 4
    assert "stopped" in caplog.text


def test_a_problem_is_logged_once(gallery: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = list(frames_of([BOTH] * 4))
    bad = [Frame(BOTH, 3, 0.5, problem="camera 0 gives no picture"), Frame(BOTH, 3, 0.6, problem="camera 0 gives none")]
    window = FakeWindow()
    summary = run(gallery, [*good, *bad, *frames_of([BOTH] * 2, first=4)], tmp_path / "events", window)
    assert summary.frames == 6
    assert caplog.text.count("camera 0") == 1
    plain, with_problem = window.shown[3], window.shown[4]
    assert (plain[:20, :300] != with_problem[:20, :300]).any()


def test_a_click_and_a_name_enrol_a_person(gallery: Index, tmp_path: Path) -> None:
    window = FakeWindow(None, None, (225, 100), "e", *"Bob", "\r")
    summary = run(gallery, list(frames_of([BOTH] * 12)), tmp_path / "events", window)
    assert (summary.enrolled, len(enrolled_names(gallery))) == (["Bob"], 1)
    event, _ = lines(tmp_path / "events")
    assert (event["event"], event["name"], event["box"]) == ("enrolled", "Bob", list(BLUE_BOX))
    assert summary.frames == 12  # no frame passed while the name was typed
    assert (window.shown[-1][:150, 320:] == BLUE).all(2).any()
    assert window.shown[-1].shape == (240, 320 + STRIP_WIDTH, 3)


def test_a_bad_name_or_no_selected_box_enrols_no_one(gallery: Index, tmp_path: Path) -> None:
    window = FakeWindow(None, None, "e", "x", "\r", (225, 100), "e", *"a/b", "\r", None)
    summary = run(gallery, list(frames_of([BOTH] * 12)), tmp_path / "events", window)
    assert (summary.frames, summary.enrolled, len(enrolled_names(gallery))) == (12, [], 0)


def test_a_single_person_needs_no_click(gallery: Index, tmp_path: Path) -> None:
    alone = scene((GREEN, RED_BOX))
    summary = run(gallery, list(frames_of([alone] * 8)), tmp_path / "events", FakeWindow(None, None, "e", "\r"))
    assert summary.enrolled == ["person-1"]


def test_space_pauses_and_q_quits(gallery: Index, tmp_path: Path) -> None:
    window = FakeWindow(None, " ", None, None, " ", None, "q")
    assert run(gallery, list(frames_of([BOTH] * 8)), tmp_path / "events", window).frames == 4


def test_closing_the_window_while_a_name_is_typed_ends_the_run(gallery: Index, tmp_path: Path) -> None:
    window = FakeWindow(None, (225, 100), "e", "B", "close", "o", "b", "\r")
    summary = run(gallery, list(frames_of([BOTH] * 8)), tmp_path / "events", window)
    assert (summary.frames, summary.enrolled) == (3, [])


@pytest.mark.parametrize("is_live", [True, False])
def test_a_live_source_survives_a_gallery_that_fails_once(
    is_live: bool, gallery: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Film, "is_live", is_live)
    original, calls = PersonIdentifier.candidates, iter(range(99))

    def candidates(self: PersonIdentifier, embedding: np.ndarray, camera: int | None) -> list[Candidate]:
        if next(calls) == 2:
            raise RunError("the server is away")
        return original(self, embedding, camera)

    monkeypatch.setattr(PersonIdentifier, "candidates", candidates)
    if not is_live:  # a film has no later frames to recover with
        with pytest.raises(RunError, match="the server is away"):
            run(gallery, list(frames_of([BOTH] * 8)), tmp_path / "events")
        return
    assert run(gallery, list(frames_of([BOTH] * 8)), tmp_path / "events").frames == 8
    assert caplog.text.count("the server is away") == 1


def test_a_snapshot_is_the_shown_picture(gallery: Index, tmp_path: Path) -> None:
    from PIL import Image

    window = FakeWindow(None, "s")
    run(gallery, list(frames_of([BOTH] * 3)), tmp_path / "events", window, snapshots=tmp_path / "snapshots")
    (snapshot,) = (tmp_path / "snapshots").iterdir()
    with Image.open(snapshot) as saved:
        np.testing.assert_array_equal(np.asarray(saved), window.shown[1])


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


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colour_model(tmp_path_factory.mktemp("model") / "model.onnx")


def demo(*options: object, start: tuple[str, ...] = ("-m", "bot_deploy", "demo")) -> list[str]:
    return [sys.executable, *start, *map(str, options)]


def run_in(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_headless_and_without_torch(model: Path, video: Path, tmp_path: Path) -> None:
    options = ["--source", video, "--model", model, "--headless", "--output", "out.mp4", "--events", "e.jsonl"]
    result = run_in(demo("demo", *options, "--json", "--auto-enrol", start=("-c", WITHOUT)), tmp_path)
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["frames"] == 10
    assert document["stages"].keys() >= {"read", "detect", "track", "embed"}
    assert (tmp_path / "e.jsonl").read_text() == "" or lines(tmp_path / "e.jsonl")
    with open_source(str(tmp_path / "out.mp4")) as source:
        shown = list(source)
    assert (len(shown), shown[0].pixels.shape) == (10, (240, 320 + STRIP_WIDTH, 3))
    assert (tmp_path / "people.gallery").is_dir()


def test_the_module_runs_the_same_program(model: Path, video: Path, tmp_path: Path) -> None:
    options = ["--source", video, "--model", model, "--headless", "--max-frames", 4]
    result = run_in(demo(*options, start=("-m", "bot_deploy.demos.app")), tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("4 frames in ")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_playable_files(model: Path, tmp_path: Path, how: signal.Signals) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    from PIL import Image

    for number in range(600):
        Image.fromarray(BOTH).save(frames / f"{number:04d}.bmp")
    options = ["--source", frames, "--model", model, "--headless", "--output", "out.mp4", "--events", "e.jsonl"]
    process = subprocess.Popen(
        demo(*options, "--json"), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    part, end = tmp_path / "out.part.mp4", time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(1)  # for the first pictures
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
    ("options", "message"),
    [
        (["--source", "none.mp4"], "none.mp4: no such file or folder"),
        (["--source", "VIDEO", "--detector", "none.onnx"], "none.onnx: no such detector"),
        (["--source", "VIDEO", "--output", "out.txt"], "out.txt: a video's name ends in .mp4"),
        (["--source", "VIDEO", "--events", "-", "--json"], "both write to stdout"),
        (["--source", "VIDEO", "--gallery", "VIDEO"], "holds something else"),
    ],
)
def test_bad_input_gives_one_line(options: list[str], message: str, model: Path, video: Path, tmp_path: Path) -> None:
    given = [str(video) if option == "VIDEO" else option for option in options]
    result = run_in(demo(*given, "--model", model, "--headless"), tmp_path)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "options", [("--detector-score", 0.4, "--every", 3), ("--min-confidence", 0.4, "--embed-every", 3)]
)
def test_former_option_names_still_work(options: tuple[object, ...], model: Path, video: Path, tmp_path: Path) -> None:
    result = run_in(demo("--source", video, "--model", model, *options, start=("-c", PRINT_NUMBERS)), tmp_path)
    assert result.stdout.splitlines() == ["0.4", "3"], result.stderr


def test_without_a_display_the_message_names_headless(model: Path, video: Path, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("only on Linux is there no display where no variable names one")
    bare = {name: value for name, value in os.environ.items() if name not in {"DISPLAY", "WAYLAND_DISPLAY"}}
    command = demo("--source", video, "--model", model)
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=bare)
    assert result.returncode == 1
    assert "--headless" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    "make",
    [
        lambda: PersonTracker(NAN),
        lambda: PersonTracker(INFINITY),
        lambda: PersonTracker(0),
        lambda: PersonTracker(-25),
        lambda: Recorder(None, None, NAN),
        lambda: Recorder(None, None, INFINITY),
        lambda: Recorder(None, None, 0),
        lambda: TrackletBuilder(DETECTOR, embedder(), 10, NAN),
        lambda: TrackletBuilder(DETECTOR, embedder(), 10, 0.5, embed_every=0),
        lambda: TrackletBuilder(DETECTOR, embedder(), INFINITY, 0.5),
        lambda: app.run([], None, None, max_frames=-1),  # type: ignore[arg-type]
    ],
)
def test_numbers_outside_their_ranges_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InputError, match="is not a number from"):
        make()
