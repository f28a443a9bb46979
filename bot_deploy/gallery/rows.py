"""What every store holds and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypedDict

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path
    from typing import Unpack

    from bot_deploy.embedder import Vectors


class Row(NamedTuple):  # of which there are a million: a dataclass takes three times as long to make
    """One file of a gallery; one with an `error` is no image, has no vector and is never found."""

    path: str  # below the gallery's root, parts joined by "/"
    size: int = 0  # bytes
    mtime: int = 0  # nanoseconds
    digest: bytes = b""  # of the content
    identity: str | None = None
    camera: int | None = None
    time: float | None = None  # seconds since 1970, UTC; the frame number where a name carries only that
    error: str = ""


@dataclass(frozen=True)
class Found:
    """A row that a search found; `score` is the cosine with the query, -1 to 1."""

    row: Row
    score: float


class Filters(TypedDict, total=False):
    """What may be found. An unknown camera is neither in `cameras` nor excluded; an unknown time is in no span."""

    cameras: Collection[int] | None
    exclude_cameras: Collection[int] | None
    since: float | None
    until: float | None


class Gallery(Protocol):
    """Rows and their unit vectors float32 [N, D], kept between runs. Every change is all or nothing."""

    address: str
    root: Path  # of the rows' paths
    space: str  # `Contract.space` of the vectors
    dim: int

    def __len__(self) -> int:
        """How many rows have a vector."""

    def rows(self) -> Iterator[Row]:
        """All of them, in no order."""

    def broken(self) -> list[Row]:
        """Those that are no image, in order of path."""

    def add(self, rows: Sequence[Row], vectors: Vectors) -> None:
        """Adds `rows` with `vectors` [N, D], in place of those with the same paths."""

    def amend(self, rows: Sequence[Row]) -> None:
        """Replaces what is known of the files with these paths; their vectors stay."""

    def remove(self, paths: Sequence[str]) -> None:
        """Removes the rows with these paths."""

    def search(self, query: Vectors, top: int, **filters: Unpack[Filters]) -> list[Found]:
        """The `top` rows most similar to `query` [D], best first; equal ones in order of path."""

    def move(self, root: Path) -> None:
        """From now on the files lie below `root`."""

    def close(self) -> None: ...


def ranked(rows: list[Found], top: int) -> list[Found]:
    """The best `top` of `rows`."""
    return sorted(rows, key=lambda found: (-found.score, found.row.path.split("/")))[:top]
