"""Videos without loss, so that the fake detector of `fake_camera` finds its colours in them."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
from helpers.fake_camera import Box, scene

Pixels = npt.NDArray[np.uint8]
FPS = 10
COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
# When each person walks from left to right, in seconds; the videos of three tests.
VISITS = (("red", 0.5, 3.0), ("blue", 6.0, 8.5), ("green", 7.0, 9.5), ("red", 12.0, 14.5))
SECONDS = 15  # of a video of these visits


def write_lossless(
    path: Path, pictures: Iterable[Pixels], times: Iterable[float] | None = None, **metadata: str
) -> Path:
    """Writes `pictures` uint8 [H, W, 3] as FFV1, at `FPS` or at `times` in seconds; returns `path`."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    given = iter(times or ())
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata)
        stream = None
        for number, pixels in enumerate(pictures):
            if stream is None:
                stream = container.add_stream("ffv1", rate=FPS)
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "bgr0"
                stream.codec_context.gop_size = FPS
                stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            seconds = number / FPS if times is None else next(given)
            frame.pts, frame.time_base = round(1000 * seconds), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        assert stream is not None
        container.mux(stream.encode(None))
    return path


def walk(seconds: float, visits: Iterable[tuple[str, float, float]] = VISITS) -> Iterable[Pixels]:
    """Pictures of `seconds` on which each person of `visits` walks across; nobody hides another."""
    for number in range(round(seconds * FPS)):
        time = number / FPS
        yield scene(
            *((COLOURS[name], place(name, time - start)) for name, start, end in visits if start <= time <= end)
        )


def place(name: str, seconds: float) -> Box:
    """The box of a person `seconds` after the start of a visit."""
    left, top = 20 + 70 * seconds, 30 + 10 * list(COLOURS).index(name)
    return left, top, left + 40, top + 120
