"""Video files: every frame is delivered, in order, upright, with its own presentation time. Decoded by PyAV."""

from __future__ import annotations

import logging
from itertools import chain, islice, pairwise
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.errors import InputError

from .base import Frame, Source
from .capture import DEFAULT_FPS, MAX_REPORTED_FPS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from av import Packet, VideoFrame, VideoStream

    from bot_deploy.images import Pixels

logger = logging.getLogger(__name__)

RATE_PACKETS = 64  # at the start of a video, from which the frame rate is measured
MAX_FAILED_READS = 100  # packets in a row, after damage in a video
MIN_COMPLETE_SHARE = 0.95  # of the frames or seconds that a video promises; with less it is reported as damaged
OPEN_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 5.0  # of a video at a web address
NOT_A_VIDEO = (
    "not a video, or none that FFmpeg can decode; convert it: ffmpeg -i FILE -c:v libx264 -pix_fmt yuv420p OUT.mp4"
)


class VideoSource(Source):
    """Frames from a video file, rotated upright as the file's metadata say."""

    def __init__(self, name: str, address: str, fps: float | None = None, protocols: str = "file") -> None:
        """Reads the first frame; `fps` None means the rate that the video reports or, with pauses, usually has.

        Args:
            name: the video in messages.
            address: path or web address.
            fps: frames per second.
            protocols: FFmpeg's names of the protocols that may be used, separated by commas.

        Raises:
            InputError: no frame can be read.
        """
        import av

        self._closed = False
        try:
            self._container = av.open(
                address,
                options={"protocol_whitelist": protocols},
                timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S),
                metadata_errors="replace",
            )
        except (OSError, ValueError):  # FFmpeg's errors are one of both
            raise InputError(f"{name}: {NOT_A_VIDEO}") from None
        if not self._container.streams.video:
            self._container.close()
            raise InputError(f"{name}: {NOT_A_VIDEO}")
        stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        packets = _readable(self._container.demux(stream))
        first_packets = list(islice(packets, RATE_PACKETS))
        super().__init__(name, fps or _frame_rate(stream, first_packets))
        self._expected_frames = stream.frames  # 0 where the container does not say
        self._expected_seconds = float((self._container.duration or 0) / av.time_base)
        self._number = 0  # of the next frame
        self._start: float | None = None  # presentation time of the first frame, in seconds
        self._time = 0.0  # of the last frame, in seconds
        self._frames = _decode(chain(first_packets, packets))
        self._first = next(self._frames, None)
        if self._first is None:
            self.close()
            raise InputError(f"{name}: {NOT_A_VIDEO}")

    def __iter__(self) -> Iterator[Frame]:
        while not self._closed:
            frame, self._first = self._first or next(self._frames, None), None
            if frame is None:
                break
            yield self._frame(frame)
        if not self._closed and self._is_incomplete():
            promised = (
                f"{self._expected_frames} frames" if self._expected_frames else f"{self._expected_seconds:.1f} seconds"
            )
            logger.warning(
                f"{self.name}: ends after {self._number} frames, {self._time:.1f} seconds, of {promised}; "
                "the file is truncated or damaged"
            )

    def _frame(self, picture: VideoFrame) -> Frame:
        time = picture.time
        if self._start is None:
            self._start = time
        elif time is not None and time - self._start > self._time:
            self._time = time - self._start
        else:  # the file has no times, or damaged ones
            self._time += 1 / self.fps
        frame = Frame(_upright(picture), self._number, self._time)
        self._number += 1
        return frame

    def _is_incomplete(self) -> bool:
        if self._expected_frames:
            return self._number < MIN_COMPLETE_SHARE * self._expected_frames - 2
        return self._time < MIN_COMPLETE_SHARE * self._expected_seconds - 2 / self.fps

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._frames = iter(())
            self._container.close()


def _readable(packets: Iterator[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
    """`packets` until the end, or until the file cannot be read further."""
    try:
        yield from packets
    except (OSError, ValueError):  # of FFmpeg: a truncated file, a broken connection
        return


def _decode(packets: Iterable[Packet[VideoStream]]) -> Iterator[VideoFrame]:
    """The pictures of `packets`, past damaged ones."""
    failed_reads = 0
    for packet in packets:
        try:
            frames = packet.decode()
        except (OSError, ValueError):  # of FFmpeg
            failed_reads += 1
            if failed_reads >= MAX_FAILED_READS:
                return
            continue
        for frame in frames:
            failed_reads = 0
            yield frame


def _frame_rate(stream: VideoStream, packets: list[Packet[VideoStream]]) -> float:
    """Frames per second: as the stream reports them, unless the times of its first `packets` say otherwise.

    A motion recorder's file has pauses. The stream reports the mean rate, which counts them; the usual one does not.
    """
    times = sorted(float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None)
    gaps = [after - before for before, after in pairwise(times) if after > before]
    usual = 1 / median(gaps) if gaps else 0.0
    reported = float(stream.average_rate or stream.guessed_rate or 0)
    fps = reported if usual / 2 <= reported <= 2 * usual or not usual else usual
    return fps if 0 < fps <= MAX_REPORTED_FPS else DEFAULT_FPS


def _upright(picture: VideoFrame) -> Pixels:
    """uint8 RGB [H, W, 3], turned as the file's display matrix says."""
    pixels = np.asarray(picture.to_ndarray(format="rgb24"), np.uint8)
    quarter_turns = round(picture.rotation / 90) % 4  # counterclockwise
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns)) if quarter_turns else pixels
