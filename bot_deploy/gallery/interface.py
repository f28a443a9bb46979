"""The interfaces of a gallery, which is searched, and of an index, which keeps one: items, filters, hits, methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict

import numpy as np

from bot_deploy.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path
    from typing import Unpack

    import numpy.typing as npt

    from bot_deploy.embedder import Vectors


class GalleryItem(NamedTuple):  # a gallery may have a million; a dataclass takes three times as long to make
    """One file of a gallery. A file with an `error` is no usable image, has no vector and is never found."""

    path: str  # below the gallery's root, parts joined by "/"
    size: int = 0  # bytes
    stamp: int = 0  # of the file's times and inode, see `scan.file_stamp`; 0: the content must be read again
    digest: bytes = b""  # of the content
    identity: str | None = None  # a name; in `datasets.Crop` it is `identity_name`
    camera: int | None = None
    time: float | None = None  # seconds since 1970, UTC; the frame number where a name holds only that
    error: str = ""


# The names of an item's fields in indexes. Older versions kept the modification time alone, which equals no stamp: such
# an item is read again once, and older versions do the same with a stamp.
STORED_NAMES = tuple("mtime" if name == "stamp" else name for name in GalleryItem._fields)


@dataclass(frozen=True)
class SearchHit:
    """An item in the result of a search; `score` is its cosine similarity to the query, -1 to 1."""

    item: GalleryItem
    score: float


class Filters(TypedDict, total=False):
    """Limits on the items to search.

    An unknown camera is neither in `cameras` nor excluded; an unknown time is in no span.
    """

    cameras: Collection[int] | None
    exclude_cameras: Collection[int] | None
    since: float | None  # earliest time, inclusive; unit as `GalleryItem.time`
    until: float | None  # latest time, inclusive


class Gallery(Protocol):
    """A gallery, which is searched: items and their unit vectors float32 [N, D]."""

    root: Path  # of the items' paths

    def __len__(self) -> int:
        """The number of items with a vector."""

    def count(self, **filters: Unpack[Filters]) -> int:
        """The number of items with a vector that `filters` leave."""

    def items(self) -> Iterator[GalleryItem]:
        """All items, in no order."""

    def broken(self) -> list[GalleryItem]:
        """The items whose files are no usable images, in the order of their paths."""

    def search(self, query: Vectors, top: int, **filters: Unpack[Filters]) -> list[SearchHit]:
        """The `top` items most similar to `query` [D], best first; equal ones in the order of their paths."""

    def vectors(self, paths: Sequence[str]) -> Vectors:
        """Unit vectors float32 [N, D] of the items with these paths, in their order.

        Raises:
            RunError: an item was removed, or has no vector any more.
        """

    def has_identity(self, identity: str) -> bool:
        """Whether some item has this identity."""

    def close(self) -> None: ...


class Index(Gallery, Protocol):
    """A gallery that is kept between runs and can change. Every change is complete or absent."""

    address: str  # as messages show it, without user and password
    embedding_space: str  # `Contract.embedding_space` of the vectors
    dim: int  # length of a vector

    def count_identity(self, identity: str) -> int:
        """The number of items with a vector and this identity, with all that other processes have added."""

    def add(self, items: Sequence[GalleryItem], vectors: Vectors) -> None:
        """Adds `items` with `vectors` [N, D], in place of those with the same paths."""

    def update_metadata(self, items: Sequence[GalleryItem]) -> None:
        """Replaces identity, camera and time of the items with these paths; their vectors stay."""

    def remove(self, paths: Sequence[str]) -> None:
        """Removes the items with these paths."""

    def set_embedding_space(self, space: str) -> None:
        """Makes this an index of another model with comparable vectors; those that it holds are outdated then.

        Raises:
            InputError: this kind of index cannot hold vectors of two models.
        """

    def outdated(self) -> list[str]:
        """The paths of the items whose vectors are of an earlier model, in their order."""

    def replace_outdated(self, paths: Sequence[str], vectors: Vectors) -> int:
        """Gives the outdated ones of the items with these `paths` their new `vectors` [N, D]; returns their number."""

    def set_root(self, root: Path) -> None:
        """Sets the folder that the items' paths are relative to."""


def unit_length(vectors: npt.NDArray[np.floating[Any]]) -> Vectors:
    """Stored `vectors` [N, D], which rounding made slightly longer or shorter, as float32 of unit length."""
    floats = vectors.astype(np.float32)
    return np.asarray(floats / np.linalg.norm(floats, axis=1, keepdims=True), np.float32)


def removed_error(address: str, path: str) -> RunError:
    """The error of an item that was found, and then removed by another process."""
    return RunError(f"{address}: {path} was removed while it was searched; try again when `bot index` is done")


def best_hits(hits: list[SearchHit], top: int) -> list[SearchHit]:
    """The best `top` of `hits`, best first; equal scores in the order of their paths."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.item.path.split("/")))[:top]
