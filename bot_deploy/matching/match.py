"""Matching: a query against a gallery gives a ranking, the best match first."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.camera_means import camera_means_of
from bot_deploy.choices import TOP_MATCHES
from bot_deploy.datasets.names import JUNK_LABEL, SPECIAL_LABELS
from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.errors import InputError, require_range
from bot_deploy.evaluation.rerank import describe_few_pictures, k_reciprocal, pictures_per_person
from bot_deploy.footage import Footage, holds_footage, open_footage_gallery
from bot_deploy.gallery import open_gallery
from bot_deploy.progress import show_progress

from .appearances import count_results, search_appearances
from .centered_gallery import CenteredGallery
from .queries import NO_METADATA, Query, cameras_of, merge_queries, read_query
from .verdict import Verdict, make_verdict

if TYPE_CHECKING:
    from typing import Unpack

    from bot_deploy.artifacts.contract import Calibration
    from bot_deploy.camera_means import CameraMeans
    from bot_deploy.datasets.names import CropMetadata
    from bot_deploy.footage import Appearance
    from bot_deploy.gallery import Filters, Gallery, SearchHit
    from bot_deploy.images import Pixels

logger = logging.getLogger(__name__)

RERANKED_MATCHES = 1000  # best matches by cosine that re-ranking sorts again


@dataclass(frozen=True)
class Match:
    """One image of a rank list, of the same person or not; `score` is its cosine with the query, -1 to 1.

    In a gallery of footage it is an appearance, and `score` the cosine with the mean of its crops.
    """

    path: Path
    score: float
    rank: int  # from 1
    identity: str | None = None  # a name; in `datasets.Crop` it is `identity_name`
    camera: int | None = None
    time: float | None = None  # see `gallery.GalleryItem`
    appearance: Appearance | None = None  # in a video, of which the image is the most similar crop


@dataclass(frozen=True)
class Ranking:
    """The rank list of one query: gallery images, the most similar first, and the verdict on the first."""

    query: Path
    matches: tuple[Match, ...]
    verdict: Verdict
    metadata: CropMetadata = NO_METADATA  # of the query; the identity only if the gallery has it
    shots: tuple[Path, ...] = ()  # images of a multi-shot query
    picture: Pixels | None = None  # of a query that is no file, uint8 RGB [H, W, 3]

    def is_correct(self, match: Match) -> bool | None:
        """Whether `match` shows the query's identity; None if an identity is unknown, or does not count."""
        query_id, match_id = self.metadata.identity, match.identity
        if query_id is None or match_id is None or query_id in SPECIAL_LABELS or match_id == JUNK_LABEL:
            return None
        return match_id == query_id


def match(
    query: str | Path | Pixels | Sequence[str | Path | Pixels],
    gallery: Gallery | str | Path,
    model: Embedder | str | Path | None = None,
    top: int = TOP_MATCHES,
    min_score: float = -1,
    *,
    rerank: bool = False,
    exclude_same_camera: bool = False,
    **filters: Unpack[Filters],
) -> Ranking:
    """Ranks the images of `gallery` by their cosine with the person of `query`.

    Args:
        query: an image file, an array uint8 RGB [H, W, 3], or a list of them that shows one person (a multi-shot
            query: the mean of the embeddings is searched).
        gallery: an open gallery, or where it is opened from: a folder of crops, an index that `bot index` made, a
            Milvus address, a video or a folder of videos, or a single image file to compare with the query.
        model: an embedder, or the file that it is opened from; None for the built-in model.
        top: number of matches.
        min_score: lowest cosine of a listed image, -1 to 1; the verdict keeps its own threshold.
        rerank: sort the best RERANKED_MATCHES by k-reciprocal re-ranking; scores remain cosines.
        exclude_same_camera: leave out the images from the query's own cameras.
        filters: `cameras`, `exclude_cameras`, `since`, `until`: see `gallery.Filters`.

    Raises:
        ImageError: `query` is not a usable image.
        InputError: gallery or model cannot be opened, or they do not fit; an argument is out of range;
            or, with `exclude_same_camera`, the camera of the query is unknown.
    """
    embedder = model if isinstance(model, Embedder) else open_embedder(model)
    if isinstance(query, str) or not isinstance(query, Sequence):
        opened_query = read_query(query, embedder)
    elif query:
        queries = [read_query(image, embedder) for image in query]
        opened_query = merge_queries(queries[0].path, queries)
    else:
        raise InputError("no image in the query; give at least one", parameter="query")
    calibration = embedder.contract.calibration
    opened_gallery = _open_gallery(gallery, embedder) if isinstance(gallery, str | Path) else gallery
    try:
        return rank(
            [opened_query],
            opened_gallery,
            calibration,
            top,
            min_score,
            rerank=rerank,
            exclude_same_camera=exclude_same_camera,
            means=camera_means_of(embedder.contract),
            **filters,
        )[0]
    finally:
        if opened_gallery is not gallery:
            opened_gallery.close()


def _open_gallery(address: str | Path, embedder: Embedder) -> Gallery:
    if holds_footage(Path(address)):
        from bot_deploy.video.detectors import open_detector  # needs OpenCV, which matching crops does not

        return open_footage_gallery(Path(address), embedder, open_detector())[0]
    return open_gallery(address, embedder)


def rank(
    queries: Sequence[Query],
    gallery: Gallery,
    calibration: Calibration | None,
    top: int = TOP_MATCHES,
    min_score: float = -1,
    *,
    rerank: bool = False,
    exclude_same_camera: bool = False,
    means: CameraMeans | None = None,
    **filters: Unpack[Filters],
) -> list[Ranking]:
    """The ranking of `gallery` for each of `queries`. Queries do not influence each other.

    Args:
        queries: embedded by the gallery's model.
        gallery: the images to rank.
        calibration: of the model, for the verdict on the first match; None if it has none.
        top: number of matches for each query.
        min_score: lowest cosine of a listed image, -1 to 1; the verdict keeps its own threshold.
        rerank: sort the best RERANKED_MATCHES by the distance of `k_reciprocal`; scores remain cosines.
        exclude_same_camera: leave out the images from a query's own cameras.
        means: of an adapted model; scores are then cosines without them, see `CenteredGallery`.
        filters: `cameras`, `exclude_cameras`, `since`, `until`: see `gallery.Filters`.

    A query's identity is the name of its folder, or else the one in its file name; but only if the gallery has an
    identity of that name.

    Raises:
        InputError: `top` is not positive, or `min_score` not from -1 to 1; or, with `exclude_same_camera`, no camera
            of a query is known.
    """
    require_range("min_score", min_score, -1, 1)
    if top < 1:
        raise InputError(f"{top} matches for each query: choose at least 1", parameter="top")
    names = {name for query in queries for name in (query.folder, query.metadata.identity) if name}
    gallery_identities = set(filter(gallery.has_identity, names))
    excluded = tuple(filters.get("exclude_cameras") or ())
    # Numbers of images or appearances that the filters leave, by the query's own cameras; the verdict depends on them.
    sizes: dict[tuple[int, ...], int] = {}
    footage = Footage(gallery)
    few_pictures = _few_pictures(gallery) if rerank else ""
    if few_pictures:
        logger.warning(few_pictures)
    if means:
        gallery = CenteredGallery(gallery, means)
        queries = [
            replace(query, vector=means.center_one(query.vector, query.shot_cameras or query.cameras))
            for query in queries
        ]
    rankings = []
    # No progress bar for a single search: it would only flicker.
    for query in show_progress(queries, "matching" if len(queries) > 1 else None, len(queries)):
        own_cameras = cameras_of(query) if exclude_same_camera else ()
        filters["exclude_cameras"] = (*excluded, *own_cameras) or None
        if own_cameras not in sizes:
            filtered = any(value is not None for value in filters.values())
            if footage:
                sizes[own_cameras] = count_results(gallery, footage, **filters)
            else:
                sizes[own_cameras] = gallery.count(**filters) if filtered else len(gallery)
        # Re-ranking looks at more images than are returned: a true match may stand far down by its cosine.
        searched = max(top, RERANKED_MATCHES) if rerank else top
        if footage:
            hits = search_appearances(gallery, footage, query.vector, searched, **filters)
        else:
            hits = gallery.search(query.vector, searched, **filters)
        if rerank and hits:
            hits = _rerank(query, hits, gallery)
        # Only now: `min_score` must not change the neighbourhoods that re-ranking compares.
        hits = [hit for hit in hits if hit.score >= min_score][:top]
        matches = tuple(_match(hit, number, gallery.root, footage) for number, hit in enumerate(hits, start=1))
        unit = "appearance" if footage else "image"
        best = matches[0] if matches else None
        pair = (*query.cameras, best.camera) if best else ()
        verdict = make_verdict(calibration, best.score if best else None, sizes[own_cameras], unit, pair)
        if few_pictures and best:
            verdict = replace(verdict, explanation=f"{verdict.explanation}; {few_pictures}")
        identity = next((name for name in (query.folder, query.metadata.identity) if name in gallery_identities), None)
        metadata = query.metadata._replace(identity=identity)
        rankings.append(Ranking(query.path, matches, verdict, metadata, query.shots, query.picture))
    return rankings


def _match(hit: SearchHit, rank: int, root: Path, footage: Footage) -> Match:
    item = hit.item
    appearance = footage.find(item.path)
    return Match(root / item.path, hit.score, rank, item.identity, item.camera, item.time, appearance)


def _few_pictures(gallery: Gallery) -> str:
    """Why `gallery` should not be re-ranked; "" for no reason, or if it names nobody."""
    names = (item.identity for item in gallery.items() if not item.error)
    return describe_few_pictures(pictures_per_person(name for name in names if name and name not in SPECIAL_LABELS))


def _rerank(query: Query, hits: list[SearchHit], gallery: Gallery) -> list[SearchHit]:
    """`hits` sorted by their k-reciprocal distance from `query`."""
    vectors = gallery.vectors([hit.item.path for hit in hits])
    distances = k_reciprocal(query.vector[None], vectors)[0]
    # A stable sort: hits at equal distance stay in the order of their cosines.
    return [hits[place] for place in np.argsort(distances, kind="stable")]
