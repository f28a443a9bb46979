"""Where frames come from: files, and a camera that hiccups, hangs, ends and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_camera import BLUE, GREEN, RED, scene
from PIL import Image

from bot_deploy.demos.recorder import Recorder
from bot_deploy.errors import BotError, InputError
from bot_deploy.video.sources import Frame, Source, masked, open_source, streams
from bot_deploy.video.sources.base import DEFAULT_FPS, frame_rate, rgb
from bot_deploy.video.sources.files import FOLDER_FPS
from bot_deploy.video.sources.streams import longer


class Camera:
    """Plays a script: a number is the red of a grey-free picture, None a failed read, a function is called."""

    def __init__(self, script: list[int | Callable[[], object] | None], *, opens: bool = True, fps: float = 10) -> None:
        self.script, self.opens, self.fps = list(script), opens, fps
        self.released = False

    def isOpened(self) -> bool:  # noqa: N802 - as OpenCV has it
        return self.opens

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.005)
        word = self.script.pop(0) if self.script else None
        if callable(word):
            word()
            return self.read()
        if word is None:
            return False, None
        return True, np.full((4, 6, 3), (0, 0, word), np.uint8)

    def get(self, prop: int, /) -> float:
        assert prop
        return self.fps

    def release(self) -> None:
        self.released = True


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same waits, a hundred times shorter."""
    for name in ("OPENING", "PATIENCE", "FIRST_WAIT", "LONGEST_WAIT", "HICCUP", "REPEAT"):
        monkeypatch.setattr(streams, name, getattr(streams, name) / (10 if name == "PATIENCE" else 50))


def camera(*cameras: Camera) -> Source:
    """A source that opens `cameras` one after the other, and then only ones that do not open."""
    line = iter(cameras)
    return open_source("0", capture=lambda _: next(line, Camera([], opens=False)))


def reds(frames: Iterator[Frame], count: int) -> list[int]:
    return [int(next(frames).pixels[0, 0, 0]) for _ in range(count)]


@pytest.mark.usefixtures("hurried")
def test_the_newest_frame_is_given_and_the_others_are_dropped() -> None:
    shown = threading.Event()
    with camera(Camera([1, 2, 3, 4, shown.set, lambda: time.sleep(60)])) as source:
        assert shown.wait(10)
        frame = next(iter(source))
        assert (frame.pixels[0, 0, 0], frame.number, source.dropped) == (4, 3, 3)
        assert frame.pixels.dtype == np.uint8
        assert (frame.trouble, source.live, source.fps) == ("", True, 10)


@pytest.mark.usefixtures("hurried")
def test_a_hiccup_is_no_trouble() -> None:
    taken = threading.Semaphore(0)
    script: list[int | Callable[[], object] | None] = [1, lambda: taken.acquire(timeout=10), None, None, 2]
    with camera(Camera([*script, lambda: time.sleep(60)])) as source:
        frames = iter(source)
        assert reds(frames, 1) == [1]
        taken.release()
        frame = next(frames)
        assert (frame.pixels[0, 0, 0], frame.number, frame.trouble) == (2, 1, "")


@pytest.mark.usefixtures("hurried")
def test_a_camera_that_stops_is_opened_again_and_that_is_said() -> None:
    taken = threading.Semaphore(0)
    first = Camera([7, lambda: taken.acquire(timeout=10)])  # then nothing but failed reads
    second = Camera([9, lambda: time.sleep(60)])
    with camera(first, Camera([], opens=False), Camera([], opens=False), second) as source:
        frames = iter(source)
        assert reds(frames, 1) == [7]
        taken.release()
        said = []
        for frame in frames:
            if not frame.trouble:
                break
            said.append(frame)
        assert (frame.pixels[0, 0, 0], frame.number) == (9, 1)
        assert first.released
        assert all(one.pixels[0, 0, 0] == 7 and one.number == 0 for one in said)
        assert said
        assert "camera 0 gives no picture; trying again" in said[0].trouble


@pytest.mark.usefixtures("hurried")
def test_a_read_that_hangs_is_given_up() -> None:
    with camera(Camera([7, lambda: time.sleep(60)]), Camera([9, lambda: time.sleep(60)])) as source:
        frames = iter(source)
        assert reds(frames, 1) == [7]
        frame = next(frame for frame in frames if not frame.trouble)
        assert frame.pixels[0, 0, 0] == 9


@pytest.mark.usefixtures("hurried")
def test_closing_ends_the_iteration_from_another_thread() -> None:
    source = camera(Camera([1, lambda: time.sleep(60)]))
    threading.Timer(0.2, source.close).start()
    assert len(list(source)) >= 1
    source.close()


def test_waits_between_tries_double_up_to_half_a_minute() -> None:
    waits = [0.0]
    while len(waits) < 10:
        waits.append(longer(waits[-1]))
    assert waits == [0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("one", "said"), [(Camera([], opens=False), "cannot be opened"), (Camera([]), "opens, but gives no picture")]
)
def test_no_camera_is_one_line(one: Camera, said: str) -> None:
    with pytest.raises(InputError, match=rf"^camera 0: {said}; .*"):
        camera(one)


def test_a_driver_that_throws_is_no_traceback() -> None:
    def broken(_: str) -> Camera:
        raise OSError("no driver")

    with pytest.raises(InputError, match="cannot be opened"):
        open_source("0", capture=broken)


def test_a_folder_of_frames_in_order_broken_ones_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, colour in (("b.png", GREEN), ("a.png", RED), ("d.jpg", BLUE)):
        Image.fromarray(scene((colour, (0, 0, 320, 240)))).save(tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no frame")
    (tmp_path / "query").mkdir()
    Image.fromarray(scene()).save(tmp_path / "query" / "crop.png")  # which is beside the frames, but none
    with open_source(str(tmp_path)) as source:
        frames = list(source)
        assert list(source) == []
    assert [(frame.name, frame.number, frame.time) for frame in frames] == [
        ("a.png", 0, 0.0),
        ("b.png", 1, 1 / FOLDER_FPS),
        ("d.jpg", 3, 3 / FOLDER_FPS),
    ]
    assert tuple(frames[0].pixels[9, 9]) == RED
    assert "c.png" in caplog.text
    with open_source(str(tmp_path / "a.png")) as source:
        assert [frame.name for frame in source] == ["a.png"]
    (tmp_path / "all" / "monday").mkdir(parents=True)
    Image.fromarray(scene()).save(tmp_path / "all" / "monday" / "e.png")
    with open_source(str(tmp_path / "all")) as source:
        assert [frame.name for frame in source] == ["e.png"]


def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        Image.fromarray(scene()).save(tmp_path / f"frame{number}.png")
    with open_source(str(tmp_path)) as source:
        source.fps = 10.0
        assert [(frame.name, frame.time) for frame in source] == [
            ("frame1.png", 0.0),
            ("frame2.png", 0.1),
            ("frame10.png", 0.2),
        ]


def film_at(path: Path, count: int) -> Path:
    """Frames whose grey is their number, times ten."""
    with Recorder(path, None, 10) as recorder:
        for number in range(count):
            recorder.write(np.full((64, 96, 3), 10 * number, np.uint8))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".webm"])
def test_a_video_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    with open_source(str(film_at(tmp_path / f"film{suffix}", 12))) as source:
        assert (source.fps, source.live) == (pytest.approx(10), False)
        frames = list(source)
    assert [frame.number for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(12) / 10, atol=0.011)
    greys = [frame.pixels.mean() for frame in frames]
    np.testing.assert_allclose(greys, 10 * np.arange(12), atol=6)
    assert frames[0].pixels.shape == (64, 96, 3)


def test_a_truncated_video_gives_what_it_has_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = film_at(tmp_path / "film.mkv", 25)
    data = whole.read_bytes()
    (tmp_path / "half.mkv").write_bytes(data[: len(data) * 2 // 3])
    with open_source(str(tmp_path / "half.mkv")) as source:
        count = len(list(source))
    assert 0 < count < 25
    if source._count > 0:  # type: ignore[attr-defined] - some containers know their length only at their end
        assert "truncated or damaged" in caplog.text


def test_what_is_no_source_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("words\n" * 99)
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 99)
    (tmp_path / "folder").mkdir()
    for spec, said in (
        (str(tmp_path / "none.mp4"), "no such file or folder"),
        (str(tmp_path / "empty.mp4"), "empty"),
        (str(tmp_path / "text.mp4"), "this is text"),
        (str(tmp_path / "noise.mp4"), "not a video"),
        (str(tmp_path / "folder"), "no pictures in this folder"),
        ("", "an empty name"),
        ("gopher://host/stream", "not an address of a kind known here"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            open_source(spec)
        assert "\n" not in str(caught.value)


def test_passwords_are_not_shown() -> None:
    assert masked("rtsp://me:p@ss@host:554/one?a=1") == "rtsp://***@host:554/one?a=1"
    assert masked("http://host/video?user=me&password=secret&x=1") == "http://host/video?user=me&password=***&x=1"
    with pytest.raises(BotError) as caught:
        open_source("rtsp://me:secret@host/s", capture=lambda _: Camera([], opens=False))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("said", "taken"), [(12.5, 12.5), (0, DEFAULT_FPS), (90000, DEFAULT_FPS), (float("nan"), 25)])
def test_frame_rates_that_make_no_sense_are_not_taken(said: float, taken: float) -> None:
    assert frame_rate(Camera([], fps=said)) == taken


def test_every_kind_of_picture_becomes_rgb() -> None:
    bgr = np.array([[[1, 2, 3]]], np.uint8)
    np.testing.assert_array_equal(rgb(bgr), [[[3, 2, 1]]])
    np.testing.assert_array_equal(rgb(np.array([[[1, 2, 3, 9]]], np.uint8)), [[[3, 2, 1]]])
    np.testing.assert_array_equal(rgb(np.array([[7]], np.uint8)), [[[7, 7, 7]]])
    np.testing.assert_array_equal(rgb(np.array([[[7 << 8]]], np.uint16)), [[[7, 7, 7]]])
