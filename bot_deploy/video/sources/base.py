"""`Frame` and `Source`: what every source of frames gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bot_deploy.images import Pixels


@dataclass(frozen=True)
class Frame:
    """One picture of a source, with its number and time."""

    pixels: Pixels  # uint8 RGB [H, W, 3]
    number: int  # from 0; dropped frames count
    time: float  # seconds: the position in a video or folder; since the first frame of a live source
    file_name: str = ""  # of the picture, in a folder of frames
    clock: float | None = None  # when it was filmed, in seconds since 1970; None if unknown
    problem: str = ""  # why this is the last picture again; `number` is that picture's, `time` is the present time


class Source(ABC):
    """Frames, one by one; a context manager. A second loop continues where the first one ended."""

    is_live = False  # a camera or stream: frames are dropped when the reader is slow

    def __init__(self, name: str, fps: float) -> None:
        self.name = name  # for messages and titles, without passwords
        self.fps = fps  # frames per second
        self.dropped = 0  # frames of a live source that nobody read

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> None:  # noqa: B027 - only a live source has to wait
        """Waits for the first picture.

        Raises:
            InputError: there is none.
        """

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...

    @abstractmethod
    def close(self) -> None:
        """Releases camera, file and threads, and ends the iteration; may be called again."""
