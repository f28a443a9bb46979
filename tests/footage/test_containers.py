"""Every kind of video file that a name stands for is written and read back, also those without times."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.fake_camera import BLUE, RED

from bot_deploy.choices import VIDEO_SUFFIXES
from bot_deploy.footage.moments import Moment, read_moment
from bot_deploy.video.sources import open_source
from bot_deploy.video.sources.video_file import VideoSource

FPS, COUNT = 25, 24  # 12 red pictures, then 12 blue ones
H264, MPEG2 = "libx264", "mpeg2video"
# suffix -> FFmpeg's muxer and codec
KINDS = {
    ".3g2": ("3g2", "h263"),
    ".3gp": ("3gp", "h263"),
    ".asf": ("asf", "wmv2"),
    ".avi": ("avi", "mpeg4"),
    ".divx": ("avi", "mpeg4"),
    ".dv": ("dv", "dvvideo"),
    ".f4v": ("f4v", H264),
    ".flv": ("flv", "flv"),
    ".ivf": ("ivf", "libvpx"),
    ".m2t": ("mpegts", MPEG2),
    ".m2ts": ("mpegts", H264),
    ".m4v": ("ipod", H264),
    ".mk3d": ("matroska", H264),
    ".mkv": ("matroska", H264),
    ".mov": ("mov", H264),
    ".mp4": ("mp4", H264),
    ".mpe": ("mpeg", "mpeg1video"),
    ".mpeg": ("mpeg", MPEG2),
    ".mpg": ("mpeg", "mpeg1video"),
    ".mts": ("mpegts", H264),
    ".mxf": ("mxf", MPEG2),
    ".nut": ("nut", "ffv1"),
    ".ogm": ("ogg", "libvpx"),
    ".ogv": ("ogg", "libvpx"),
    ".qt": ("mov", "mpeg4"),
    ".rm": ("rm", "rv20"),
    ".rmvb": ("rm", "rv20"),
    ".tod": ("mpeg", MPEG2),
    ".ts": ("mpegts", H264),
    ".vob": ("vob", MPEG2),
    ".webm": ("webm", "libvpx"),
    ".wmv": ("asf", "wmv2"),
    ".wtv": ("wtv", MPEG2),
    ".xvid": ("avi", "mpeg4"),
    ".y4m": ("yuv4mpegpipe", "rawvideo"),
}
STREAMS = {  # without a container
    ".264": ("h264", H264),
    ".265": ("hevc", "libx265"),
    ".avc": ("h264", H264),
    ".h264": ("h264", H264),
    ".h265": ("hevc", "libx265"),
    ".hevc": ("hevc", "libx265"),
    ".m1v": ("mpeg1video", "mpeg1video"),
    ".m2v": ("mpeg2video", MPEG2),
    ".mjpeg": ("mjpeg", "mjpeg"),
    ".mjpg": ("mjpeg", "mjpeg"),
    ".mpv": ("mpeg2video", MPEG2),
}
UNWRITABLE = {".dav"}  # FFmpeg reads the files of Dahua's recorders, and writes none


def write(path: Path, muxer: str, codec: str, fps: int = FPS, **options: str) -> Path:
    """Writes a video by FFmpeg's `muxer` and `codec`; skips the test where PyAV was built without them."""
    try:
        av.Codec(codec, "w")
        av.ContainerFormat(muxer, "w")
    except ValueError:
        pytest.skip(f"this PyAV does not write {muxer} with {codec}")
    if codec == "libx265":
        options["x265-params"] = ":".join(filter(None, ("log-level=none", options.get("x265-params"))))
    with av.open(str(path), "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height = (720, 576) if codec == "dvvideo" else (352, 288)
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(COUNT):
            pixels = np.full((stream.height, stream.width, 3), RED if number < COUNT // 2 else BLUE, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    return path


def test_every_suffix_is_tested() -> None:
    assert KINDS.keys() | STREAMS.keys() | UNWRITABLE == VIDEO_SUFFIXES


@pytest.mark.parametrize("suffix", [*KINDS, *STREAMS])
def test_a_video_of_each_kind_is_decoded(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"x{suffix}", *(KINDS | STREAMS)[suffix])
    with VideoSource(str(path), str(path)) as source:
        frames = list(source)
        assert bool(source.times_note) == (suffix in STREAMS)
    assert len(frames) == COUNT
    assert frames[0].time == 0
    assert [after.time - before.time for before, after in pairwise(frames)] == pytest.approx(
        [1 / FPS] * (COUNT - 1), abs=2e-3
    )
    for frame in (frames[0], frames[-1]):
        colour = RED if frame.number == 0 else BLUE
        np.testing.assert_allclose(frame.pixels.mean(axis=(0, 1)), colour, atol=30)


@pytest.mark.parametrize(
    ("name", "codec", "options", "fps", "source"),
    [
        ("x.h264", H264, {}, 10, "as the stream says"),
        ("x.m2v", MPEG2, {}, 30, "as the stream says"),
        ("x.h265", "libx265", {"x265-params": "vui-timing-info=0"}, 25, "assumed, because it says no rate"),
        ("x.mjpeg", "mjpeg", {}, 25, "assumed, because it says no rate"),
    ],
)
def test_a_stream_without_times_counts_its_frames(
    name: str, codec: str, options: dict[str, str], fps: int, source: str, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    path = write(tmp_path / name, STREAMS[Path(name).suffix][0], codec, 30 if name == "x.m2v" else 10, **options)
    with open_source(str(path)) as opened:
        assert opened.fps == fps
        times = [frame.time for frame in opened]
    assert times == pytest.approx([number / fps for number in range(COUNT)], abs=1e-9)
    note = f"the file holds no times; its frames count as {fps} a second ({source})"
    assert caplog.messages == [f"{path}: {note}"]
    with open_source(str(path), fps=5) as opened:
        assert [frame.time for frame in opened] == pytest.approx([number / 5 for number in range(COUNT)], abs=1e-9)
    assert caplog.messages[1].endswith("its frames count as 5 a second (as given)")
    # A moment is found by counting, and a run that was stopped goes on at the same frame.
    blue = read_moment(Moment(path, 12.5 / fps), (0, 0, 352, 288), lambda: pytest.fail("no detector is needed"))
    np.testing.assert_allclose(blue.mean(axis=(0, 1)), BLUE, atol=30)
    with VideoSource(name, str(path)) as again:
        again.skip_to(13, times[13])
        assert [(picture.number, picture.time) for picture in again.pictures()] == list(enumerate(times))[13:]
