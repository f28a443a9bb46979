"""Queries and a gallery to ranked matches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy import images
from bot_deploy.choices import TOP_MATCHES
from bot_deploy.datasets.names import CropInfo, parse_name
from bot_deploy.errors import InputError
from bot_deploy.evaluation.rerank import k_reciprocal
from bot_deploy.progress import show_progress

from .verdict import Verdict, decide

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Unpack

    from bot_deploy.artifacts.contract import Calibration
    from bot_deploy.embedder import Embedder, Vectors
    from bot_deploy.errors import ImageError
    from bot_deploy.gallery import Filters, Gallery, SearchHit

RERANKED = 1000  # the best by cosine, which re-ranking puts in another order
NON_IDENTITIES = {"-1", "0000"}  # Market-1501's junk and distractors: no person that a query could look for
NO_INFO = CropInfo()
JUNK = "-1"  # which shows a person badly, or in part: neither right nor wrong


@dataclass(frozen=True)
class Match:
    """One gallery image; `score` is the cosine with the query, -1 to 1."""

    path: Path
    score: float
    rank: int  # from 1
    identity: str | None = None
    camera: int | None = None
    time: float | None = None  # see `gallery.GalleryItem`


@dataclass(frozen=True)
class Ranking:
    """The best matches of one query, best first."""

    query: Path
    matches: tuple[Match, ...]
    verdict: Verdict
    info: CropInfo = NO_INFO  # of the query, as far as known
    images: tuple[Path, ...] = ()  # of the one person, where `query` is their folder

    def is_correct(self, match: Match) -> bool | None:
        """Whether `match` is of the query's identity; None where that is not known or does not count."""
        wanted, found = self.info.identity, match.identity
        if wanted is None or found is None or wanted in NON_IDENTITIES or found == JUNK:
            return None
        return found == wanted


@dataclass(frozen=True, eq=False)
class Query:
    """Whom to look for."""

    path: Path  # a picture, or the folder of `images`
    vector: Vectors  # [D], unit length
    info: CropInfo = NO_INFO  # as the file's name says; its identity is one only if the gallery has that
    folder: str | None = None  # its folder's name: an identity if the gallery has one of that name
    cameras: tuple[int, ...] = ()  # that saw it
    images: tuple[Path, ...] = ()


def read_queries(source: Path, embedder: Embedder) -> tuple[list[Query], dict[Path, ImageError]]:
    """A query for the picture `source` or for each one below the folder `source`, and what is broken in there.

    Raises:
        ImageError: `source` is neither a picture nor a folder.
        InputError: a folder without one usable picture.
    """
    if not source.is_dir():
        return [_query(source, embedder.embed([images.read_image(source)])[0])], {}
    paths = images.find_images(source)
    vectors, errors = embedder.embed_files(paths)
    broken = {path: error for path, error in zip(paths, errors, strict=True) if error}
    queries = [_query(path, vector) for path, vector in zip(paths, vectors, strict=True) if path not in broken]
    if not queries:
        ends = ", ".join(sorted(images.SUFFIXES))
        raise InputError(f"{source}: {len(paths)} image files, none usable as a query; pictures end in {ends}")
    return queries, broken


def _query(path: Path, vector: Vectors) -> Query:
    # A folder may be called anything; where a name says who it shows (Market-1501), `parse_name` prefers that.
    whole, name = parse_name(path.absolute().as_posix()), parse_name(path.name)
    folder = whole.identity if whole.identity != name.identity else None
    return Query(path, vector, whole._replace(identity=name.identity), folder, _known(whole.camera))


def _known(camera: int | None) -> tuple[int, ...]:
    return () if camera is None else (camera,)


def merge_queries(folder: Path, shots: Sequence[Query]) -> Query:
    """One query for the person on all `shots`, which lie below `folder`: the mean of their vectors.

    It is of the identity that they agree on, and seen by all their cameras.
    """
    mean = np.mean([shot.vector for shot in shots], axis=0)
    length = max(float(np.linalg.norm(mean)), float(np.finfo(np.float32).tiny))
    identities, folders = {shot.info.identity for shot in shots}, {shot.folder for shot in shots}
    return Query(
        folder,
        np.asarray(mean / length, np.float32),
        CropInfo(identities.pop() if len(identities) == 1 else None),
        folders.pop() if len(folders) == 1 else None,
        tuple(sorted({camera for shot in shots for camera in shot.cameras})),
        tuple(shot.path for shot in shots),
    )


def match(
    query: Path,
    gallery: Gallery,
    embedder: Embedder,
    top: int = TOP_MATCHES,
    min_score: float = -1,
    **filters: Unpack[Filters],
) -> Ranking:
    """Ranks what `filters` leave of `gallery` by cosine similarity to the person on the picture `query`.

    Raises:
        ImageError: `query` is no image.
        InputError: `top` is not positive.
    """
    one = _query(query, embedder.embed([images.read_image(query)])[0])
    (ranking,) = rank([one], gallery, embedder.contract.calibration, top, min_score, **filters)
    return ranking


def rank(
    queries: Sequence[Query],
    gallery: Gallery,
    calibration: Calibration | None,
    top: int = TOP_MATCHES,
    min_score: float = -1,
    *,
    rerank: bool = False,
    other_cameras: bool = False,
    **filters: Unpack[Filters],
) -> list[Ranking]:
    """A ranking for each of `queries`, which do not depend on each other, of what `filters` leave of `gallery`.

    Args:
        queries: of the gallery's model.
        gallery: to search.
        calibration: of the model, for the verdict; that is about the first match.
        top: matches of each query.
        min_score: the least cosine of a match.
        rerank: put the best RERANKED by cosine in the order of `k_reciprocal`; scores remain cosines.
        other_cameras: leave out what a query's own cameras saw.
        filters: see `gallery.Filters`.

    A query's identity is its folder's name or what its own says, whichever of them the gallery knows.

    Raises:
        InputError: `top` is not positive; with `other_cameras`, a query of which no camera is known.
    """
    if top < 1:
        raise InputError(f"--top {top}: ask for at least one match")
    names = {name for query in queries for name in (query.folder, query.info.identity) if name}
    identities = set(filter(gallery.has_identity, names))
    excluded = tuple(filters.get("exclude_cameras") or ())
    sizes: dict[tuple[int, ...], int] = {}  # of what is searched, by the cameras that are left out for the query's sake
    rankings = []
    # A query's own bar, of one search, would only flicker.
    for query in show_progress(queries, "matching" if len(queries) > 1 else None, len(queries)):
        own = cameras_of(query) if other_cameras else ()
        filters["exclude_cameras"] = (*excluded, *own) or None
        if own not in sizes:
            sizes[own] = gallery.count(**filters) if any(one is not None for one in filters.values()) else len(gallery)
        found = gallery.search(query.vector, max(top, RERANKED) if rerank else top, **filters)
        if rerank and found:
            found = _reranked(query, found, gallery)
        good = [one for one in found if one.score >= min_score][:top]
        matches = tuple(
            Match(gallery.root / row.path, one.score, number, row.identity, row.camera, row.time)
            for number, one in enumerate(good, start=1)
            for row in [one.item]
        )
        verdict = decide(calibration, matches[0].score if matches else None, sizes[own])
        identity = next((name for name in (query.folder, query.info.identity) if name in identities), None)
        seen = query.info._replace(identity=identity)
        rankings.append(Ranking(query.path, matches, verdict, seen, query.images))
    return rankings


def cameras_of(query: Query) -> tuple[int, ...]:
    """The cameras that saw `query`.

    Raises:
        InputError: its name does not say.
    """
    if not query.cameras:
        raise InputError(f"{query.path}: its name does not say which camera saw it; give that with --exclude-camera")
    return query.cameras


def _reranked(query: Query, found: list[SearchHit], gallery: Gallery) -> list[SearchHit]:
    vectors = gallery.vectors([one.item.path for one in found])
    distances = k_reciprocal(query.vector[None], vectors)[0]
    # Stable: equally near ones stay in the order of their cosines.
    return [found[place] for place in np.argsort(distances, kind="stable")]
