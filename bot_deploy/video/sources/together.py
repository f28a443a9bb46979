"""Several sources at once: recordings in step, cameras and streams by their newest frames."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from bot_deploy.errors import InputError

from . import make_source
from .streams import StreamSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .base import Frame, Source
    from .capture import Capture

logger = logging.getLogger(__name__)

POLL_WAIT_S = 0.005  # while no camera has a new frame
STEP_SHARE = 0.5  # of the time from frame to frame, within which frames of several recordings are of one moment


@contextmanager
def open_sources(
    addresses: Sequence[str], *, fps: float | None = None, make_capture: Callable[[str], Capture] | None = None
) -> Iterator[list[Source]]:
    """Opens several sources; a camera or stream that gives no picture is tried again while the others run.

    Args:
        addresses: as of `open_source`.
        fps: frames per second of each; default: as each reports.
        make_capture: as of `open_source`.

    Raises:
        InputError: one is no source, a recording cannot be read, or not one gives a picture.
    """
    with ExitStack() as stack:
        sources = [
            stack.enter_context(make_source(address, fps=fps, make_capture=make_capture)) for address in addresses
        ]
        with ThreadPoolExecutor(len(sources), "open") as pool:  # one that is away is waited for only once
            problems = [problem for problem in pool.map(_connect, sources) if problem]
        if len(problems) == len(sources):
            raise problems[0]
        for problem in problems:
            logger.warning(f"{problem}; it is tried again")
        yield sources


def _connect(source: Source) -> InputError | None:
    """Why `source` gives no picture; None if it does."""
    try:
        source.connect()
    except InputError as error:
        return error
    return None


def read_together(sources: Sequence[Source]) -> Iterator[dict[int, Frame]]:
    """The next frames of `sources`, by their number from 0, until all have ended.

    Recordings begin together and go on in step: the frames of one moment come together, each exactly once. A camera or
    stream gives its newest frame, if there is a new one.
    """
    if len(sources) == 1:
        for frame in sources[0]:
            yield {0: frame}
        return
    live = {number: source for number, source in enumerate(sources) if isinstance(source, StreamSource)}
    recorded = {number: iter(source) for number, source in enumerate(sources) if number not in live}
    next_frames = {number: first for number, frames in recorded.items() if (first := next(frames, None))}
    step = STEP_SHARE / max((sources[number].fps for number in recorded), default=1.0)
    while next_frames or any(not source.is_closed for source in live.values()):
        taken = {number: newest for number, source in live.items() if (newest := source.take(0.0))}
        moment = min((frame.time for frame in next_frames.values()), default=0.0) + step
        for number in [number for number, frame in next_frames.items() if frame.time <= moment]:
            taken[number] = next_frames.pop(number)
            following = next(recorded[number], None)
            if following is not None:
                next_frames[number] = following
        if taken:
            yield dict(sorted(taken.items()))
        else:
            time.sleep(POLL_WAIT_S)
