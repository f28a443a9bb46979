"""A search for appearances: a gallery of footage has several crops of each, and the answer names each once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.gallery import SearchHit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from bot_deploy.embedder import Vectors
    from bot_deploy.footage import Footage
    from bot_deploy.gallery import Filters, Gallery

# Appearances are found by their best crop and ranked by the mean of their crops. So more are looked at than returned.
CANDIDATES_PER_MATCH, MIN_CANDIDATES = 3, 100
CROPS_PER_APPEARANCE = 5  # of the first search
SEARCH_GROWTH = 4  # factor to the next one, while too few appearances are among the crops
MAX_SEARCH = 16_000  # crops; Milvus returns no more at once


def search_appearances(
    gallery: Gallery, footage: Footage, query: Vectors, top: int, **filters: Unpack[Filters]
) -> list[SearchHit]:
    """The `top` appearances most similar to `query` [D], best first; each by its most similar crop.

    The score is the cosine with the mean of all crops of the appearance. A crop that is from no video is a hit of its
    own. A span of time leaves the appearances that are in view at some time of it.
    """
    begin, end = _limits(**filters)
    selection = footage.select(**filters)
    filters = {**filters, "since": selection.since, "until": selection.until}
    wanted = max(CANDIDATES_PER_MATCH * top, MIN_CANDIDATES)
    size = min(CROPS_PER_APPEARANCE * wanted, MAX_SEARCH)
    while True:
        hits = gallery.search(query, size, **filters)
        groups: dict[str, SearchHit] = {}
        for hit in hits:
            appearance = footage.find(hit.item.path)
            first, last = (appearance.start, appearance.end) if appearance else (hit.item.time, hit.item.time)
            if first is None or last is None or (last >= begin and first <= end):
                groups.setdefault(appearance.key if appearance else hit.item.path, hit)
        if len(groups) >= wanted or len(hits) < size or size >= MAX_SEARCH:
            break
        size = min(SEARCH_GROWTH * size, MAX_SEARCH)
    found = {key: footage.find(hit.item.path) for key, hit in groups.items()}
    with_crops = {key: appearance.crops for key, appearance in found.items() if appearance}
    means = dict(zip(with_crops, mean_vectors(gallery, list(with_crops.values())), strict=True))
    scored = [
        SearchHit(hit.item, float(np.clip(means[key] @ query, -1, 1)) if key in means else hit.score)
        for key, hit in groups.items()
    ]
    return sorted(scored, key=lambda hit: (-hit.score, hit.item.path))[:top]


def count_results(gallery: Gallery, footage: Footage, **filters: Unpack[Filters]) -> int:
    """The number of appearances, and of crops from no video, that `filters` leave."""
    selection = footage.select(**filters)
    return selection.appearances + max(0, gallery.count(**filters) - selection.crops)


def _limits(**filters: Unpack[Filters]) -> tuple[float, float]:
    since, until = filters.get("since"), filters.get("until")
    return -math.inf if since is None else since, math.inf if until is None else until


def mean_vectors(gallery: Gallery, groups: Sequence[Sequence[str]]) -> Vectors:
    """The mean of the vectors of each group of crops, by their paths, as unit vectors [N, D].

    Raises:
        RunError: a crop was removed.
    """
    vectors = gallery.vectors([path for group in groups for path in group])
    if not groups:
        return vectors
    starts = np.cumsum([0, *map(len, groups)])[:-1]
    sums = np.add.reduceat(vectors, starts, axis=0)
    return np.asarray(sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9), np.float32)
