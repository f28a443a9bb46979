"""A gallery of a single image, in memory: to compare two images without an index."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.datasets.names import parse_name
from bot_deploy.images import read_image

from .interface import GalleryItem, SearchHit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Unpack

    from bot_deploy.embedder import Embedder, Vectors

    from .interface import Filters


class ImageGallery:
    """One image as a gallery. Its identity and time are those in its file name, and its camera also in its folders."""

    def __init__(self, path: Path, embedder: Embedder) -> None:
        """Embeds the image `path`; raises ImageError if it is not usable."""
        self.root = path.parent
        metadata = parse_name(path.name)._replace(camera=parse_name(path.absolute().as_posix()).camera)
        self._item = GalleryItem(path.name, **metadata._asdict())
        self._vectors = embedder.embed([read_image(path)])  # [1, D]

    def __len__(self) -> int:
        return 1

    def count(self, **filters: Unpack[Filters]) -> int:
        return int(_passes(self._item, filters))

    def items(self) -> Iterator[GalleryItem]:
        yield self._item

    def broken(self) -> list[GalleryItem]:
        return []

    def search(self, query: Vectors, top: int, **filters: Unpack[Filters]) -> list[SearchHit]:
        score = float(np.clip(self._vectors[0] @ query, -1, 1))
        return [SearchHit(self._item, score)][:top] if _passes(self._item, filters) else []

    def vectors(self, paths: Sequence[str]) -> Vectors:
        return self._vectors[[0] * len(paths)]

    def has_identity(self, identity: str) -> bool:
        return identity == self._item.identity

    def close(self) -> None: ...


def _passes(item: GalleryItem, filters: Filters) -> bool:
    """Whether `filters` leave `item`; see `Filters` for unknown cameras and times."""
    cameras, since, until = filters.get("cameras"), filters.get("since"), filters.get("until")
    return (
        (cameras is None or item.camera in cameras)
        and item.camera not in (filters.get("exclude_cameras") or ())
        and (since is None or (item.time is not None and item.time >= since))
        and (until is None or (item.time is not None and item.time <= until))
    )
