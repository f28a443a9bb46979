"""A gallery as an adapted model sees it: without the camera means.

Indexes keep embeddings as they are. So a better mean needs no new embedding, and every kind of gallery can be searched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot_deploy.gallery.interface import SearchHit, best_hits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Unpack

    from bot_deploy.camera_means import CameraMeans
    from bot_deploy.embedder import Vectors
    from bot_deploy.gallery import Filters, Gallery, GalleryItem

SCORED_AGAIN = 1000  # best hits of the gallery that are scored again without the means


class CenteredGallery:
    """`gallery` with vectors and scores without the camera means; queries must be without them, too."""

    def __init__(self, gallery: Gallery, means: CameraMeans) -> None:
        self.root = gallery.root
        self._gallery = gallery
        self._means = means
        self._cameras: dict[str, int | None] = {}  # by the path of an item

    def __len__(self) -> int:
        return len(self._gallery)

    def count(self, **filters: Unpack[Filters]) -> int:
        return self._gallery.count(**filters)

    def items(self) -> Iterator[GalleryItem]:
        return self._gallery.items()

    def broken(self) -> list[GalleryItem]:
        return self._gallery.broken()

    def search(self, query: Vectors, top: int, **filters: Unpack[Filters]) -> list[SearchHit]:
        """As `Gallery.search`, among the SCORED_AGAIN best items of the gallery as it is, or more if `top` is."""
        hits = self._gallery.search(self._means.direction(query), max(top, SCORED_AGAIN), **filters)
        if not hits:
            return []
        self._cameras |= {hit.item.path: hit.item.camera for hit in hits}
        scores = (self.vectors([hit.item.path for hit in hits]) @ query).clip(-1, 1).tolist()
        return best_hits([SearchHit(hit.item, score) for hit, score in zip(hits, scores, strict=True)], top)

    def vectors(self, paths: Sequence[str]) -> Vectors:
        vectors = self._gallery.vectors(paths)
        if any(path not in self._cameras for path in paths):  # items that no search has found
            self._cameras = {item.path: item.camera for item in self._gallery.items()}
        return self._means.center(vectors, [self._cameras.get(path) for path in paths])

    def has_identity(self, identity: str) -> bool:
        return self._gallery.has_identity(identity)

    def close(self) -> None:
        self._gallery.close()
