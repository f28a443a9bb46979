"""Short playable clips of appearances: WebM with VP8, which every browser plays."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import TYPE_CHECKING

from bot_deploy import images
from bot_deploy.errors import InputError
from bot_deploy.video.sources.video_file import VideoSource

from .videos import fingerprint

if TYPE_CHECKING:
    from .lookup import Appearance

MARGIN_S = 0.5  # before and after the appearance
MAX_CLIP_S = 8.0  # a longer appearance is cut
MAX_FPS = 12.5
MAX_HEIGHT = 288  # pixels
TIME_BASE = Fraction(1, 1000)
# Fast rather than small: eight seconds of 768x432 take half a second, and about 120 kB.
ENCODER_OPTIONS = {"deadline": "realtime", "cpu-used": "-8", "crf": "24"}  # negative: the same on a busy machine
BITS_PER_SECOND = 400_000


def cut_clip(appearance: Appearance) -> bytes:
    """The clip of `appearance`, cut from its video.

    Raises:
        InputError: the video is gone, is another one by now, or cannot be read.
    """
    video = appearance.video
    if not video.is_file():
        raise InputError(f"{video}: the video is gone, so no clip can be cut from it")
    if appearance.fingerprint and fingerprint(video) != appearance.fingerprint:
        raise InputError(f"{video}: another video than the one that was indexed, so no clip can be cut from it")
    begin = max(0.0, appearance.video_start - MARGIN_S)
    end = min(appearance.video_end + MARGIN_S, begin + MAX_CLIP_S)
    with VideoSource(str(video), str(video)) as source:
        source.seek(begin)
        return _encode(source, begin, end)


def _encode(source: VideoSource, begin: float, end: float) -> bytes:
    import av

    file = io.BytesIO()
    stream = None
    due = begin
    with av.open(file, "w", format="webm", options={"fflags": "+bitexact"}) as container:  # no random identifiers
        for picture in source.pictures():
            if picture.time > end:
                break
            if picture.time < due:
                continue
            due = max(due, picture.time - 1 / MAX_FPS) + 1 / MAX_FPS
            pixels = picture.pixels()
            if stream is None:
                scale = min(1.0, MAX_HEIGHT / pixels.shape[0])
                stream = container.add_stream("libvpx", rate=Fraction(25, 2), options=ENCODER_OPTIONS)
                stream.height, stream.width = (max(2, round(scale * side) // 2 * 2) for side in pixels.shape[:2])
                stream.pix_fmt, stream.bit_rate = "yuv420p", BITS_PER_SECOND
                stream.codec_context.time_base = TIME_BASE
                stream.codec_context.thread_count = 1  # for so small pictures, more threads took 20 times the work
            small = images.resize(pixels, (stream.height, stream.width))
            frame = av.VideoFrame.from_ndarray(small, "rgb24")
            frame.pts, frame.time_base = round(1000 * (picture.time - begin)), TIME_BASE
            container.mux(stream.encode(frame))
        if stream is None:
            raise InputError(f"{source.name}: no pictures from {begin:.1f} to {end:.1f} seconds")
        container.mux(stream.encode(None))
    return file.getvalue()
