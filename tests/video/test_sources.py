"""Sources: files, and a camera whose reads fail, hang, end and return."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from helpers.fake_camera import BLUE, GREEN, RED, scene
from helpers.videos import walk, write_lossless
from PIL import Image

from bot_deploy.demos.recorder import Recorder
from bot_deploy.errors import BotError, InputError
from bot_deploy.video.opencv import ENVIRONMENT
from bot_deploy.video.sources import Frame, Source, open_source, streams
from bot_deploy.video.sources.capture import DEFAULT_FPS, frame_rate, to_rgb
from bot_deploy.video.sources.files import FOLDER_FPS
from bot_deploy.video.sources.streams import next_wait
from bot_deploy.video.sources.video_file import VideoSource

SHOW_OPENCV_SETTINGS = """
import os
from bot_deploy.video.opencv import ENVIRONMENT, configure_opencv
configure_opencv()
import cv2
get_log_level = getattr(cv2, "getLogLevel", None) or cv2.utils.logging.getLogLevel
print(get_log_level(), *(os.environ[name] for name in ENVIRONMENT))
"""


class Camera:
    """A capture that plays a script: a number is a picture with this red, None a failed read, a function is called."""

    def __init__(self, script: list[int | Callable[[], object] | None], *, opens: bool = True, fps: float = 10) -> None:
        self.script, self.opens, self.fps = list(script), opens, fps
        self.released = False

    def isOpened(self) -> bool:  # noqa: N802 - as OpenCV has it
        return self.opens

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.005)
        action = self.script.pop(0) if self.script else None
        if callable(action):
            action()
            return self.read()
        if action is None:
            return False, None
        return True, np.full((4, 6, 3), (0, 0, action), np.uint8)

    def get(self, prop: int, /) -> float:
        assert prop
        return self.fps

    def release(self) -> None:
        self.released = True


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes all waits 10 to 50 times shorter."""
    for name in (
        "OPEN_TIMEOUT_S",
        "READ_TIMEOUT_S",
        "FIRST_RETRY_WAIT_S",
        "MAX_RETRY_WAIT_S",
        "FAILED_READ_WAIT_S",
        "REPEAT_FRAME_S",
    ):
        monkeypatch.setattr(streams, name, getattr(streams, name) / (10 if name == "READ_TIMEOUT_S" else 50))


def camera(*cameras: Camera) -> Source:
    """A source that opens `cameras` one after the other, and then only ones that do not open."""
    remaining = iter(cameras)
    return open_source("0", make_capture=lambda _: next(remaining, Camera([], opens=False)))


def reds(frames: Iterator[Frame], count: int) -> list[int]:
    return [int(next(frames).pixels[0, 0, 0]) for _ in range(count)]


@pytest.mark.usefixtures("short_waits")
def test_a_live_source_gives_the_newest_frame_and_drops_older_ones() -> None:
    shown = threading.Event()
    with camera(Camera([1, 2, 3, 4, shown.set, lambda: time.sleep(60)])) as source:
        assert shown.wait(10)
        frame = next(iter(source))
        assert (frame.pixels[0, 0, 0], frame.number, source.dropped) == (4, 3, 3)
        assert frame.pixels.dtype == np.uint8
        assert (frame.problem, source.is_live, source.fps) == ("", True, 10)


@pytest.mark.usefixtures("short_waits")
def test_a_few_failed_reads_are_no_problem() -> None:
    taken = threading.Semaphore(0)
    script: list[int | Callable[[], object] | None] = [1, lambda: taken.acquire(timeout=10), None, None, 2]
    with camera(Camera([*script, lambda: time.sleep(60)])) as source:
        frames = iter(source)
        assert reds(frames, 1) == [1]
        taken.release()
        frame = next(frames)
        assert (frame.pixels[0, 0, 0], frame.number, frame.problem) == (2, 1, "")


@pytest.mark.usefixtures("short_waits")
def test_a_camera_that_stops_is_opened_again_and_frames_carry_the_problem() -> None:
    taken = threading.Semaphore(0)
    first = Camera([7, lambda: taken.acquire(timeout=10)])  # then nothing but failed reads
    second = Camera([9, lambda: time.sleep(60)])
    with camera(first, Camera([], opens=False), Camera([], opens=False), second) as source:
        frames = iter(source)
        assert reds(frames, 1) == [7]
        taken.release()
        repeated = []
        for frame in frames:
            if not frame.problem:
                break
            repeated.append(frame)
        assert (frame.pixels[0, 0, 0], frame.number) == (9, 1)
        assert first.released
        assert all(repeat.pixels[0, 0, 0] == 7 and repeat.number == 0 for repeat in repeated)
        assert repeated
        assert "camera 0 gives no picture; trying again" in repeated[0].problem


@pytest.mark.usefixtures("short_waits")
def test_a_read_that_hangs_is_replaced() -> None:
    with camera(Camera([7, lambda: time.sleep(60)]), Camera([9, lambda: time.sleep(60)])) as source:
        frames = iter(source)
        assert reds(frames, 1) == [7]
        frame = next(frame for frame in frames if not frame.problem)
        assert frame.pixels[0, 0, 0] == 9


@pytest.mark.usefixtures("short_waits")
def test_closing_ends_the_iteration_from_another_thread() -> None:
    source = camera(Camera([1, lambda: time.sleep(60)]))
    threading.Timer(0.2, source.close).start()
    assert len(list(source)) >= 1
    source.close()


def test_waits_between_tries_double_up_to_half_a_minute() -> None:
    waits = [0.0]
    while len(waits) < 10:
        waits.append(next_wait(waits[-1]))
    assert waits == [0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize(
    ("broken", "message"), [(Camera([], opens=False), "cannot be opened"), (Camera([]), "opens, but gives no picture")]
)
def test_a_camera_without_pictures_gives_one_line(broken: Camera, message: str) -> None:
    with pytest.raises(InputError, match=rf"^camera 0: {message}; .*"):
        camera(broken)


def test_a_driver_that_raises_gives_no_traceback() -> None:
    def broken(_: str) -> Camera:
        raise OSError("no driver")

    with pytest.raises(InputError, match="cannot be opened"):
        open_source("0", make_capture=broken)


def test_a_folder_gives_frames_in_order_and_logs_broken_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, colour in (("b.png", GREEN), ("a.png", RED), ("d.jpg", BLUE)):
        Image.fromarray(scene((colour, (0, 0, 320, 240)))).save(tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no frame")
    (tmp_path / "query").mkdir()
    Image.fromarray(scene()).save(tmp_path / "query" / "crop.png")  # a crop, not a frame
    with open_source(str(tmp_path)) as source:
        frames = list(source)
        assert list(source) == []
    assert [(frame.file_name, frame.number, frame.time) for frame in frames] == [
        ("a.png", 0, 0.0),
        ("b.png", 1, 1 / FOLDER_FPS),
        ("d.jpg", 3, 3 / FOLDER_FPS),
    ]
    assert tuple(frames[0].pixels[9, 9]) == RED
    assert "c.png" in caplog.text
    with open_source(str(tmp_path / "a.png")) as source:
        assert [frame.file_name for frame in source] == ["a.png"]
    (tmp_path / "all" / "monday").mkdir(parents=True)
    Image.fromarray(scene()).save(tmp_path / "all" / "monday" / "e.png")
    with open_source(str(tmp_path / "all")) as source:
        assert [frame.file_name for frame in source] == ["e.png"]


def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        Image.fromarray(scene()).save(tmp_path / f"frame{number}.png")
    with open_source(str(tmp_path), fps=10.0) as source:
        assert [(frame.file_name, frame.time) for frame in source] == [
            ("frame1.png", 0.0),
            ("frame2.png", 0.1),
            ("frame10.png", 0.2),
        ]


def write_film(path: Path, count: int) -> Path:
    """Writes a video; the grey of a frame is ten times its number."""
    with Recorder(path, None, 10) as recorder:
        for number in range(count):
            recorder.write(np.full((64, 96, 3), 10 * number, np.uint8))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".webm"])
def test_a_video_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    with open_source(str(write_film(tmp_path / f"film{suffix}", 12))) as source:
        assert (source.fps, source.is_live) == (pytest.approx(10), False)
        frames = list(source)
    assert [frame.number for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(12) / 10, atol=0.011)
    greys = [frame.pixels.mean() for frame in frames]
    np.testing.assert_allclose(greys, 10 * np.arange(12), atol=6)
    assert frames[0].pixels.shape == (64, 96, 3)


def test_a_truncated_video_gives_its_frames_and_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = write_film(tmp_path / "film.mkv", 25)
    data = whole.read_bytes()
    (tmp_path / "half.mkv").write_bytes(data[: len(data) * 2 // 3])
    with open_source(str(tmp_path / "half.mkv")) as source:
        count = len(list(source))
    assert 0 < count < 25
    assert f"ends after {count} frames" in caplog.text
    assert "of 2.5 seconds; the file is truncated or damaged" in caplog.text


def write_video(path: Path, pictures: list[np.ndarray], times: list[float]) -> Path:
    """Writes a video whose pictures have these presentation times, in seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", 1000)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 8_000_000
        for pixels, seconds in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(1000 * seconds), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("pauses", [{}, {30: 30.0}, {1: 5.0, 2: 600.0, 40: 0.7, 59: 3600.0}])
def test_frames_have_their_own_times_and_pauses_do_not_lower_the_rate(
    pauses: dict[int, float], suffix: str, tmp_path: Path
) -> None:
    """As a motion recorder writes them: ten frames a second while something moves."""
    times = [7 + 0.1 * number + sum(gap for at, gap in pauses.items() if at <= number) for number in range(60)]
    pictures = [np.full((64, 96, 3), 4 * number, np.uint8) for number in range(60)]
    with open_source(str(write_video(tmp_path / f"film{suffix}", pictures, times))) as source:
        assert source.fps == pytest.approx(10, rel=0.02)  # a mean rate of 60 frames in 5.9 seconds, without pauses
        frames = list(source)
    np.testing.assert_allclose([frame.time for frame in frames], np.array(times) - 7, atol=0.002)
    np.testing.assert_allclose([frame.pixels.mean() for frame in frames], 4 * np.arange(60), atol=6)


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "h264.ts", "mpeg4.avi", "h264.h264"])
def test_a_run_goes_on_at_any_frame_with_the_same_pictures(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codec = {"h264": "libx264", "mpeg4": "mpeg4"}[name.partition(".")[0]]
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = 12
        for _ in range(60):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(rng.integers(0, 256, (48, 64, 3), np.uint8), "rgb24"))
            )
        container.mux(stream.encode(None))

    def pictures(number: int = 0, time: float = 0.0) -> list[tuple[int, float, bytes, bytes]]:
        with VideoSource(name, str(tmp_path / name)) as source:
            source.skip_to(number, time)
            return [(one.number, one.time, one.pixels().tobytes(), one.grey().tobytes()) for one in source.pictures()]

    whole = pictures()
    assert len(whole) >= 58
    for number in (0, 1, 11, 12, 13, 30, len(whole) - 1):
        assert pictures(*whole[number][:2]) == whole[number:], number


def test_a_seek_ends_at_a_picture_before_the_time(tmp_path: Path) -> None:
    path = write_lossless(tmp_path / "x.mkv", walk(6))
    with VideoSource("x", str(path)) as source:
        assert source.seek(4.55)
        first = next(iter(source.pictures()))
        assert 3 < first.time <= 4.5
        assert first.number == round(10 * first.time)


def test_frames_without_rising_times_get_some(tmp_path: Path) -> None:
    """The second half begins again at 0, as in files that were put together."""
    path = tmp_path / "film.avi"  # .avi has no presentation times of its own
    write_film(path, 6)
    with open_source(str(path)) as source:
        source._start = 0.25  # type: ignore[attr-defined] - so that the first times do not rise
        times = [frame.time for frame in source]
    assert all(after > before for before, after in pairwise(times))


@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
def test_a_video_is_rotated_as_its_metadata_say(quarter_turns: int, tmp_path: Path) -> None:
    """ISO/IEC 14496-12: the matrix of `tkhd` maps (x, y) to (ax + cy, bx + dy), with y downwards."""
    stored = scene((RED, (0, 0, 32, 32)), (GREEN, (64, 0, 96, 32)), (BLUE, (0, 32, 32, 64)), size=(64, 96))
    path = write_video(tmp_path / "phone.mp4", [stored] * 3, [0, 0.1, 0.2])
    data = bytearray(path.read_bytes())
    cosine, sine = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter_turns]  # clockwise
    matrix = [cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30]
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
    with open_source(str(path)) as source:
        first = next(iter(source)).pixels
    expected = np.rot90(stored, -quarter_turns)
    assert first.shape == expected.shape
    assert float(np.abs(first.astype(int) - expected).mean()) < 12


def test_metadata_that_are_no_utf8_are_no_error(tmp_path: Path) -> None:
    path = tmp_path / "x.mkv"
    with av.open(str(path), "w") as video:
        video.metadata["title"] = "front door"
        stream = video.add_stream("mpeg4", rate=10, width=64, height=48, pix_fmt="yuv420p")
        picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        video.mux([*stream.encode(picture), *stream.encode(None)])
    path.write_bytes(path.read_bytes().replace(b"front door", b"front d\xf6\xf6r"))  # Latin-1
    with VideoSource("x", str(path)) as source:
        assert len(list(source)) == 1
        assert {key.lower(): value for key, value in source.metadata.items()}["title"] == "front d\ufffd\ufffdr"


def test_damage_inside_a_video_costs_only_some_frames(tmp_path: Path) -> None:
    whole = write_film(tmp_path / "film.mkv", 25)
    rng, readable = np.random.default_rng(0), 0
    for number in range(20):
        data = bytearray(whole.read_bytes())
        for place in rng.integers(600, len(data), 30):
            data[place] ^= 1 << int(rng.integers(8))
        path = tmp_path / f"{number}.mkv"
        path.write_bytes(data)
        with suppress(InputError), open_source(str(path)) as source:
            times = [frame.time for frame in source]
            assert all(after > before for before, after in pairwise(times))
            assert np.isfinite(times).all()
            readable += 1
    assert readable > 10


def test_a_file_without_pictures_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", 8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))  # type: ignore[union-attr,arg-type]
        container.mux(stream.encode(None))  # type: ignore[union-attr]
    with pytest.raises(InputError, match="not a video"):
        open_source(str(path))


def test_files_that_are_no_source_give_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("words\n" * 99)
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 99)
    (tmp_path / "folder").mkdir()
    for address, message in (
        (str(tmp_path / "none.mp4"), "no such file or folder"),
        (str(tmp_path / "empty.mp4"), "empty"),
        (str(tmp_path / "text.mp4"), "this file is text"),
        (str(tmp_path / "noise.mp4"), "not a video"),
        (str(tmp_path / "folder"), "no pictures in this folder"),
        ("", "an empty name"),
        ("gopher://host/stream", "not a known kind of address"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            open_source(address)
        assert "\n" not in str(caught.value)


def test_a_given_frame_rate_replaces_the_reported_one(tmp_path: Path) -> None:
    with open_source(str(write_film(tmp_path / "film.mp4", 3)), fps=4.0) as source:
        assert source.fps == 4
    with open_source("0", fps=4.0, make_capture=lambda _: Camera([1, 2, 3], fps=12)) as source:
        assert source.fps == 4


def test_opening_a_source_changes_nothing_global(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    get_log_level = getattr(cv2, "getLogLevel", None) or cv2.utils.logging.getLogLevel  # the second from 4.13 on
    environment, level = dict(os.environ), get_log_level()
    with open_source(str(write_film(tmp_path / "film.mp4", 3))) as source:
        assert len(list(source)) == 3
    assert (dict(os.environ), get_log_level()) == (environment, level)


def test_the_command_line_configures_opencv_and_keeps_the_users_variables() -> None:
    user = {"OPENCV_FFMPEG_LOGLEVEL": "24", "OPENCV_LOG_LEVEL": "ERROR"}
    plain = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT.keys() | user.keys()}
    for environment, expected in (
        (plain, "0 -8 rtsp_transport;tcp 5"),
        (plain | user, "2 24 rtsp_transport;tcp 5"),
    ):
        result = subprocess.run(
            [sys.executable, "-c", SHOW_OPENCV_SETTINGS], env=environment, capture_output=True, text=True, check=True
        )
        assert result.stdout.strip() == expected


def test_passwords_are_not_shown() -> None:
    with pytest.raises(BotError) as caught:
        open_source("rtsp://me:secret@host/s", make_capture=lambda _: Camera([], opens=False))
    assert str(caught.value).startswith("rtsp://***@host/s: cannot be opened")
    for wrong in (
        "me:secret@host/s",
        "rtsp:/me:secret@host/s",
        "rtsp://me:secret/@host",
        "gopher://host/secret?secret",
    ):
        with pytest.raises(InputError) as caught:
            open_source(wrong)
        assert "secret" not in str(caught.value).replace("gopher://host/secret?***", "")


def test_a_file_whose_name_looks_like_an_address_keeps_its_name(tmp_path: Path) -> None:
    path = tmp_path / "12:30@door"
    path.mkdir()
    Image.new("RGB", (4, 4)).save(path / "1.png")
    with open_source(str(path)) as source:
        assert source.name == str(path)


def test_of_many_broken_frames_ten_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    for number in range(1, 40):
        (tmp_path / f"{number}.png").write_bytes(b"broken")
    with open_source(str(tmp_path)) as source:
        assert len(list(source)) == 1
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == 11
    assert named[-1] == f"{tmp_path}: 29 more frames are broken; 40 in all"


@pytest.mark.parametrize(
    ("reported", "used"), [(12.5, 12.5), (0, DEFAULT_FPS), (90000, DEFAULT_FPS), (float("nan"), 25)]
)
def test_impossible_frame_rates_are_replaced(reported: float, used: float) -> None:
    assert frame_rate(Camera([], fps=reported)) == used


def test_every_kind_of_picture_becomes_rgb() -> None:
    bgr = np.array([[[1, 2, 3]]], np.uint8)
    np.testing.assert_array_equal(to_rgb(bgr), [[[3, 2, 1]]])
    np.testing.assert_array_equal(to_rgb(np.array([[[1, 2, 3, 9]]], np.uint8)), [[[3, 2, 1]]])
    np.testing.assert_array_equal(to_rgb(np.array([[7]], np.uint8)), [[[7, 7, 7]]])
    np.testing.assert_array_equal(to_rgb(np.array([[[7 << 8]]], np.uint16)), [[[7, 7, 7]]])
