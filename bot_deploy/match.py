"""A query and a gallery to ranked matches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bot_deploy import images
from bot_deploy.errors import InputError
from bot_deploy.verdict import Verdict, judge

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Unpack

    from bot_deploy.embedder import Embedder
    from bot_deploy.gallery import Filters, Gallery


@dataclass(frozen=True)
class Match:
    """One gallery image; `score` is the cosine with the query, -1 to 1."""

    path: Path
    score: float
    rank: int  # from 1
    identity: str | None = None
    camera: int | None = None
    time: float | None = None  # see `gallery.Row`


@dataclass(frozen=True)
class Ranking:
    """The best matches of one query, best first."""

    query: Path
    matches: tuple[Match, ...]
    verdict: Verdict


def match(
    query: Path,
    gallery: Gallery,
    embedder: Embedder,
    top: int = 10,
    min_score: float = -1,
    **filters: Unpack[Filters],
) -> Ranking:
    """Ranks what `filters` leave of `gallery` by cosine similarity to the person on the picture `query`.

    Raises:
        ImageError: `query` is no image.
        InputError: `top` is not positive.
    """
    if top < 1:
        raise InputError(f"--top {top}: ask for at least one match")
    vector = embedder.embed([images.load(query)])[0]
    matches = tuple(
        Match(gallery.root / row.path, found.score, rank, row.identity, row.camera, row.time)
        for rank, found in enumerate(gallery.search(vector, top, **filters), start=1)
        if found.score >= min_score
        for row in [found.row]
    )
    best = matches[0].score if matches else None
    return Ranking(query, matches, judge(embedder.contract.calibration, best, len(gallery)))
