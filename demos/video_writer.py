"""Writes videos that can be played up to about their last second, even if the process that writes them is killed."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bot_deploy.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bot_deploy.images import Pixels


class VideoFormat(NamedTuple):
    """FFmpeg's names and options for one kind of file."""

    codec: str
    pixel_format: str
    max_bits_per_pixel: float  # of the encoded video
    codec_options: dict[str, str]
    container_options: dict[str, str]


_MPEG4 = ("mpeg4", "yuv420p", 1.0, {"qmin": "3"})
_CLUSTERS = {"cluster_time_limit": "1000"}  # milliseconds; only complete clusters are in the file
# MPEG-4 is fast and plays everywhere but in browsers; VP8 plays in browsers too and takes ten times as long.
FORMATS = {
    # Fragmented while it is written, and an ordinary file after `close`.
    ".mp4": VideoFormat(*_MPEG4, {"movflags": "+frag_keyframe+hybrid_fragmented"}),
    ".mkv": VideoFormat(*_MPEG4, _CLUSTERS),
    ".avi": VideoFormat("mjpeg", "yuvj420p", 3.0, {"qmin": "3"}, {}),
    ".webm": VideoFormat(
        "libvpx", "yuv420p", 1.0, {"deadline": "realtime", "cpu-used": "4", "lag-in-frames": "0"}, _CLUSTERS
    ),
}
FPS_DECIMALS = 2  # MPEG-4 counts time in steps of 1/65535 of a second or more
MAX_BITS_PER_SECOND = 100_000_000
MAX_KEYFRAME_DISTANCE = 250  # frames; the frames between two keyframes are differences


class VideoWriter:
    """Writes one video, frame after frame."""

    def __init__(self, path: Path, shape: tuple[int, int], fps: float) -> None:
        """Opens the file.

        Args:
            path: ends with a key of `FORMATS`.
            shape: height and width of the frames, even numbers.
            fps: frames per second.

        Raises:
            RunError: the file cannot be written, or not with such frames.
        """
        import av

        video, (height, width) = FORMATS[path.suffix.lower()], shape
        self._path = path
        self._rate = Fraction(round(fps, FPS_DECIMALS) or fps).limit_denominator(10**FPS_DECIMALS)
        self._written = 0  # frames
        with self._convert_errors(f"FFmpeg cannot write {width}x{height} pixels at {fps:g} frames/s"):
            # "flush_packets": whatever the container has finished is in the file at once.
            options = {"flush_packets": "1", **video.container_options}
            self._container = av.open(str(path.absolute()), "w", options=options)
            stream = self._container.add_stream(video.codec, self._rate, options=dict(video.codec_options))
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = width, height, video.pixel_format
            stream.bit_rate = round(min(video.max_bits_per_pixel * height * width * fps, MAX_BITS_PER_SECOND)) or 1
            # An .mp4 is written in pieces from keyframe to keyframe: of one second.
            stream.gop_size = max(1, min(MAX_KEYFRAME_DISTANCE, round(fps)))
        self._stream = stream

    def write(self, pixels: Pixels, copies: int = 1) -> None:
        """Adds `copies` frames that show `pixels`, uint8 RGB [H, W, 3].

        Raises:
            RunError: the file cannot be written, for instance on a full disk.
        """
        from av import VideoFrame

        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(format=self._stream.pix_fmt)
        with self._convert_errors("the video cannot be written"):
            for _ in range(copies):
                frame.pts, frame.time_base = self._written, 1 / self._rate
                self._container.mux(self._stream.encode(frame))
                self._written += 1

    def close(self) -> None:
        """Completes the file.

        Raises:
            RunError: it cannot be completed; what was written before can still be played.
        """
        with self._convert_errors("the video cannot be completed"):
            try:
                if self._written:
                    self._container.mux(self._stream.encode(None))
            finally:
                self._container.close()

    @contextlib.contextmanager
    def _convert_errors(self, problem: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # FFmpeg's errors are one of both
            reason = getattr(error, "strerror", None) or error
            raise RunError(f"{self._path}: {problem} ({reason})", parameter="output") from None
