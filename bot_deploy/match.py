"""A query and a gallery to ranked matches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bot_deploy import images
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.embedder import Embedder
    from bot_deploy.gallery import Gallery

UNCALIBRATED = "uncalibrated: scores rank the gallery, but do not yet say whether the person is in it"


@dataclass(frozen=True)
class Match:
    """One gallery image; `score` is the cosine with the query, -1 to 1."""

    path: Path
    score: float
    rank: int  # from 1


@dataclass(frozen=True)
class Ranking:
    """The best matches of one query, best first."""

    query: Path
    matches: tuple[Match, ...]
    verdict: str


def match(query: Path, gallery: Gallery, embedder: Embedder, top: int = 10) -> Ranking:
    """Ranks `gallery` by cosine similarity to the person on the picture `query`.

    Raises:
        ImageError: `query` is no image.
        InputError: `top` is not positive.
    """
    if top < 1:
        raise InputError(f"--top {top}: ask for at least one match")
    vector = embedder.embed([images.load(query)])[0]
    found = gallery.search(vector, top)
    matches = tuple(Match(path, score, rank) for rank, (path, score) in enumerate(found, start=1))
    return Ranking(query, matches, UNCALIBRATED)
