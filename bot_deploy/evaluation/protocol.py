"""Scores of a model on a data set: embed query and gallery, rank the gallery for each query, score the rankings."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.camera_means import camera_means_of
from bot_deploy.choices import METRICS
from bot_deploy.datasets import DISTRACTOR, Dataset, open_dataset
from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.errors import InputError

from .metrics import DotProducts, evaluate
from .rerank import describe_few_pictures, k_reciprocal, pictures_per_person

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bot_deploy.datasets import Crop
    from bot_deploy.embedder import Vectors


logger = logging.getLogger(__name__)

COSINE, EUCLIDEAN = METRICS


@dataclass(frozen=True)
class Scores:
    """The scores of a model on a data set, as percentages from 0 to 100, and the numbers of crops."""

    rank1: float
    rank5: float
    rank10: float
    mAP: float  # noqa: N815 - the field's spelling
    mINP: float  # noqa: N815
    queries: int  # number of all query crops, also those without a true match; rank-1, mAP and so on leave these out
    gallery: int  # number of all gallery crops
    seconds: float  # for embedding and ranking

    def to_dict(self) -> dict[str, float]:
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}

    def __str__(self) -> str:
        names = {"rank-1": self.rank1, "rank-5": self.rank5, "rank-10": self.rank10, "mAP": self.mAP, "mINP": self.mINP}
        return "  ".join(f"{name} {value:.2f}" for name, value in names.items())


def embed_crops(embedder: Embedder, crops: Sequence[Crop], crops_name: str) -> Vectors:
    """The embeddings [N, D] of `crops`; `crops_name` names them on the progress bar.

    Raises:
        InputError: a crop is not a usable image. Scores without it would not be comparable.
    """
    vectors, errors = embedder.embed_files([crop.path for crop in crops], crops_name)
    broken = [str(error) for error in errors if error]
    if broken:
        raise InputError(f"{len(broken)} of {len(crops)} {crops_name} crops cannot be used; first: {broken[0]}")
    return vectors


def evaluate_dataset(
    model: Embedder | str | Path,
    data: Dataset | str | Path,
    metric: str = COSINE,
    *,
    rerank: bool = False,
    camera_filter: bool = True,
    single_shot: bool = False,
    embed: Callable[[Embedder, Sequence[Crop], str], Vectors] = embed_crops,
    gallery_model: Embedder | str | Path | None = None,
) -> Scores:
    """Scores `model` on the query and gallery crops of `data`.

    Args:
        model: an embedder, or the file that it is opened from.
        data: a data set with query and gallery, or the path that it is opened from.
        metric: "cosine" for unit vectors; "euclidean" for embedders whose vectors differ in length.
        rerank: rank by `k_reciprocal` distances.
        camera_filter: ignore the gallery crops of a query's own identity and camera, as the protocol does. Without
            it only copies of the query's own file are ignored.
        single_shot: as in `metrics.evaluate`.
        embed: a function with the parameters of `embed_crops`; `embed_or_reuse` reads the embedding cache.
        gallery_model: the model that embeds the gallery, an earlier one for instance; None: `model` itself.

    Raises:
        InputError: query or gallery is missing, a crop is not a usable image, or nothing can be scored; model or data
            cannot be opened, or the two models have embeddings of different length.
    """
    embedder = model if isinstance(model, Embedder) else open_embedder(model)
    dataset = data if isinstance(data, Dataset) else open_dataset(data)
    dataset.require_splits("query", "gallery")
    other = embedder if gallery_model is None else gallery_model
    gallery_embedder = other if isinstance(other, Embedder) else open_embedder(other)
    if gallery_embedder.contract.dim != embedder.contract.dim:
        raise InputError(
            f"embeddings of {embedder.contract.dim} and of {gallery_embedder.contract.dim} numbers cannot be compared",
            parameter="gallery_model",
        )
    started = time.perf_counter()
    query = _center(embed(embedder, dataset.query, "query"), dataset.query, embedder)
    gallery = _center(embed(gallery_embedder, dataset.gallery, "gallery"), dataset.gallery, gallery_embedder)
    labels = _labels(dataset, camera_filter=camera_filter)
    if rerank:
        crops = (*dataset.query, *dataset.gallery)  # queries are neighbours of each other
        note = describe_few_pictures(pictures_per_person(one.identity for one in crops if one.identity > DISTRACTOR))
        if note:
            logger.warning(f"{dataset.name}: {note}")
        distances = k_reciprocal(query, gallery)
        result = evaluate(np.negative(distances, out=distances), *labels, single_shot=single_shot)
    else:
        if metric == EUCLIDEAN:
            query, gallery = euclidean_as_dot(query, gallery)
        result = evaluate(DotProducts(query, gallery), *labels, single_shot=single_shot)
    seconds = time.perf_counter() - started
    rank1, rank5, rank10 = (100 * float(result.cmc[min(rank, len(result.cmc)) - 1]) for rank in (1, 5, 10))
    return Scores(
        rank1, rank5, rank10, 100 * result.mAP, 100 * result.mINP, len(dataset.query), len(dataset.gallery), seconds
    )


def _center(vectors: Vectors, crops: Sequence[Crop], embedder: Embedder) -> Vectors:
    """`vectors` [N, D] of `crops`, minus the camera means if the model was adapted."""
    means = camera_means_of(embedder.contract)
    return means.center(vectors, [crop.known_camera for crop in crops]) if means else vectors


def euclidean_as_dot(query: Vectors, gallery: Vectors) -> tuple[Vectors, Vectors]:
    """Vectors [Q, D+1] and [G, D+1] whose dot products rank the gallery as Euclidean distances do.

    |q - g|^2 = |q|^2 - 2 (q.g - |g|^2 / 2), and |q| is the same for all gallery vectors of a query.
    """
    halves = -np.square(gallery).sum(1, keepdims=True) / 2
    return np.c_[query, np.ones((len(query), 1), np.float32)], np.c_[gallery, halves]


def _labels(dataset: Dataset, *, camera_filter: bool) -> tuple[list[int], list[int], list[int], list[int]]:
    """The identities of query and gallery, then their cameras."""
    query, gallery = dataset.query, dataset.gallery
    # With each file as a camera of its own, the protocol ignores only copies of the query's file.
    query_cams, gallery_cams = (
        ([crop.camera for crop in query], [crop.camera for crop in gallery])
        if camera_filter
        else _number_files(query, gallery)
    )
    return [crop.identity for crop in query], [crop.identity for crop in gallery], query_cams, gallery_cams


def _number_files(query: Sequence[Crop], gallery: Sequence[Crop]) -> tuple[list[int], list[int]]:
    """A number for each crop; files with the same bytes have the same number."""
    numbers: dict[bytes, int] = {}
    query_digests, gallery_digests = (
        [hashlib.sha256(crop.path.read_bytes()).digest() for crop in crops] for crops in (query, gallery)
    )
    return (
        [numbers.setdefault(digest, len(numbers)) for digest in query_digests],
        [numbers.setdefault(digest, len(numbers)) for digest in gallery_digests],
    )
