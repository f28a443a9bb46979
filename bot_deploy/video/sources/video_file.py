"""Video files: every frame is delivered, in order, upright, with its own presentation time. Decoded by PyAV."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from bot_deploy.errors import InputError

from .base import Frame, Source
from .capture import DEFAULT_FPS, MAX_REPORTED_FPS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from av import Packet, VideoFrame, VideoStream
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter

    from bot_deploy.images import Pixels

logger = logging.getLogger(__name__)

RATE_PACKETS = 64  # at the start of a video, from which the frame rate is measured
MAX_FAILED_READS = 100  # packets in a row, after damage in a video
MIN_COMPLETE_SHARE = 0.95  # of the frames or seconds that a video promises; with less it is reported as damaged
OPEN_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 5.0  # of a video at a web address
NOT_A_VIDEO = (
    "not a video, or none that FFmpeg can decode; convert it: ffmpeg -i FILE -c:v libx264 -pix_fmt yuv420p OUT.mp4"
)

SAME_TIME_S = 1e-4  # two frames are farther apart
GREY_SIDE = 96  # pixels of the longer side of `Picture.grey`


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture. Most of its cost is the conversion to pixels, which happens when they are asked for."""

    number: int  # from 0
    time: float  # seconds since the first picture
    decoded: VideoFrame
    reformatter: VideoReformatter  # of the source: a new one for each picture would be slow

    def pixels(self) -> Pixels:
        """uint8 RGB [H, W, 3], upright."""
        return _upright(self.decoded)

    def grey(self) -> Pixels:
        """The brightness, uint8 [h, w], with a longer side of `GREY_SIDE`: each pixel is the mean of a block."""
        scale = GREY_SIDE / max(self.decoded.width, self.decoded.height)
        height, width = (max(1, round(scale * side)) for side in (self.decoded.height, self.decoded.width))
        small = self.reformatter.reformat(self.decoded, width, height, "gray", interpolation="AREA")
        return np.asarray(small.to_ndarray(), np.uint8)


class VideoSource(Source):
    """Frames from a video file, rotated upright as the file's metadata say.

    Attributes:
        times_note: what is to be said if the file holds no times, such as one of H.264 without a container; or "".
    """

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
        from av.format import Flags
        from av.video.reformatter import VideoReformatter

        self._closed = False
        self._reformatter = VideoReformatter()
        try:
            self._container: InputContainer = av.open(
                address,
                options={"protocol_whitelist": protocols},
                timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S),
                **_keep_odd_bytes(av.__version__),
            )
        except (OSError, ValueError):  # FFmpeg's errors are one of both
            raise InputError(f"{name}: {NOT_A_VIDEO}") from None
        if not self._container.streams.video:
            self._container.close()
            raise InputError(f"{name}: {NOT_A_VIDEO}")
        self._stream = stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        packets = _readable(self._container.demux(stream))
        first_packets = list(islice(packets, RATE_PACKETS))
        self._has_times = not self._container.format.flags & Flags.no_timestamps.value  # FFmpeg makes some up
        own_rate = _frame_rate(stream, first_packets) if self._has_times else _raw_frame_rate(stream)
        super().__init__(name, fps or own_rate or DEFAULT_FPS)
        self.times_note = "" if self._has_times else _times_note(self.fps, fps, own_rate)
        self._expected_frames: int = stream.frames  # 0 where the container does not say
        self._expected_seconds = float((self._container.duration or 0) / av.time_base) if self._has_times else 0.0
        self._number = 0  # of the next frame
        self._start: float | None = None  # presentation time of the first frame, in seconds
        self._time = -1 / self.fps  # of the last frame, in seconds
        self._frames = _decode(chain(first_packets, packets))
        self._first = next(self._frames, None)
        if self._first is None:
            self.close()
            raise InputError(f"{name}: {NOT_A_VIDEO}")

    @property
    def seconds(self) -> float:
        """The length that the file promises; 0 where it does not say."""
        return self._expected_seconds

    @property
    def metadata(self) -> dict[str, str]:
        """What the container says about itself, such as `creation_time`."""
        pairs = self._container.metadata.items()
        return {_replace_odd_bytes(key): _replace_odd_bytes(value) for key, value in pairs}

    def __iter__(self) -> Iterator[Frame]:
        for picture in self.pictures():
            yield Frame(picture.pixels(), picture.number, picture.time)

    def pictures(self) -> Iterator[Picture]:
        """The frames as pictures that are not converted yet; a second loop continues where the first one ended."""
        while not self._closed:
            decoded, self._first = self._first or next(self._frames, None), None
            if decoded is None:
                break
            yield self._picture(decoded)
        if not self._closed and self._is_incomplete():
            promised = (
                f"{self._expected_frames} frames" if self._expected_frames else f"{self._expected_seconds:.1f} seconds"
            )
            logger.warning(
                f"{self.name}: ends after {self._number} frames, {self._time:.1f} seconds, of {promised}; "
                "the file is truncated or damaged"
            )

    def seek(self, time: float) -> bool:
        """Goes to a key frame before `time`, in seconds since the first picture; called before any loop.

        Returns False where the file cannot be searched; then it stays at the beginning. The numbers of the pictures
        that follow are estimated from their times.
        """
        first = self._first if self._has_times else None
        if first is None or first.time is None or not self._stream.time_base or time <= 0:
            return False
        try:
            self._container.seek(round((first.time + time) / float(self._stream.time_base)), stream=self._stream)
        except (OSError, ValueError):  # of FFmpeg
            return False
        self._frames = _decode(_readable(self._container.demux(self._stream)))
        self._first = next(self._frames, None)
        if self._first is None or self._first.time is None or self._first.time > first.time + time:
            self._rewind()
            return False
        self._start = first.time
        self._number = round((self._first.time - first.time) * self.fps)
        self._time = self._first.time - first.time - SAME_TIME_S  # `_picture` takes the frame's own
        return True

    def _rewind(self) -> None:
        self._container.seek(0)
        self._frames = _decode(_readable(self._container.demux(self._stream)))
        self._first, self._number, self._start, self._time = next(self._frames, None), 0, None, -1 / self.fps

    def skip_to(self, number: int, time: float) -> None:
        """Goes on with frame `number`, whose time is `time` as a run through the file gave it; called before any loop.

        It seeks, and decodes the whole file up to that frame where there is none of that time.
        """
        if self.seek(time) and not self._find(number, time):
            self._rewind()
        for picture in islice(self.pictures(), number - self._number):
            del picture

    def _find(self, number: int, time: float) -> bool:
        """Decodes up to the frame of `time`, which is frame `number`; returns whether there is one."""
        while (decoded := self._first) is not None and self._start is not None and decoded.time is not None:
            own = decoded.time - self._start
            if own > time + SAME_TIME_S:
                break
            if own > time - SAME_TIME_S:
                self._number, self._time = number, own - SAME_TIME_S
                return True
            self._first = next(self._frames, None)
        return False

    def _picture(self, decoded: VideoFrame) -> Picture:
        time = decoded.time if self._has_times else None
        if time is not None and self._start is not None and time - self._start > self._time:
            self._time = time - self._start
        else:  # the first frame; or the file has no times, or damaged ones
            self._time += 1 / self.fps
        if self._start is None and time is not None:
            self._start = time - self._time
        picture = Picture(self._number, self._time, decoded, self._reformatter)
        self._number += 1
        return picture

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


def _raw_frame_rate(stream: VideoStream) -> float:
    """Frames per second that a stream without a container says; 0 if it says none."""
    fps = float(stream.codec_context.framerate or 0)
    return fps if 0 < fps <= MAX_REPORTED_FPS else 0.0


def _times_note(fps: float, given: float | None, own_rate: float) -> str:
    """What is said of a file without times, whose frames count as `fps` a second."""
    source = "as given" if given else "as the stream says" if own_rate else "assumed, because it says no rate"
    return f"the file holds no times; its frames count as {fps:g} a second ({source})"


def _upright(picture: VideoFrame) -> Pixels:
    """uint8 RGB [H, W, 3], turned as the file's display matrix says."""
    pixels = np.asarray(picture.to_ndarray(format="rgb24"), np.uint8)
    quarter_turns = round(picture.rotation / 90) % 4  # counterclockwise
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns)) if quarter_turns else pixels


def _keep_odd_bytes(version: str) -> dict[str, Any]:
    """The options of PyAV `version` with which metadata that are not UTF-8 are no error; from 19 on, none is needed."""
    return {"metadata_errors": "surrogateescape"} if int(version.partition(".")[0]) < 19 else {}  # noqa: PLR2004


def _replace_odd_bytes(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
