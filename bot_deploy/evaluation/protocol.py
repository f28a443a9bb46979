"""A model on a benchmark's query and gallery: embed both, rank, score."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.choices import METRICS
from bot_deploy.errors import InputError

from .metrics import evaluate, evaluate_embeddings
from .rerank import k_reciprocal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bot_deploy.datasets import Crop, Dataset
    from bot_deploy.embedder import Embedder, Vectors


COSINE, EUCLIDEAN = METRICS


@dataclass(frozen=True)
class Scores:
    """Percentages 0-100, and the sizes they were measured on."""

    rank1: float
    rank5: float
    rank10: float
    mAP: float  # noqa: N815 - the field's spelling
    mINP: float  # noqa: N815
    queries: int
    gallery: int
    seconds: float  # embedding and ranking together

    def to_dict(self) -> dict[str, float]:
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}

    def __str__(self) -> str:
        names = {"rank-1": self.rank1, "rank-5": self.rank5, "rank-10": self.rank10, "mAP": self.mAP, "mINP": self.mINP}
        return "  ".join(f"{name} {value:.2f}" for name, value in names.items())


def embed_crops(embedder: Embedder, crops: Sequence[Crop], label: str) -> Vectors:
    """Embeddings [N, D] of `crops`; a crop that is no image is an InputError, since scores would not be comparable."""
    vectors, errors = embedder.embed_files([crop.path for crop in crops], label)
    broken = [str(error) for error in errors if error]
    if broken:
        raise InputError(f"{len(broken)} of {len(crops)} {label} crops cannot be used; first: {broken[0]}")
    return vectors


def evaluate_dataset(
    embedder: Embedder,
    dataset: Dataset,
    metric: str = COSINE,
    *,
    rerank: bool = False,
    camera_filter: bool = True,
    single_shot: bool = False,
    embed: Callable[[Embedder, Sequence[Crop], str], Vectors] = embed_crops,
) -> Scores:
    """Scores `embedder` on the query and gallery parts of `dataset`.

    The default metric fits unit vectors; "euclidean" is for embedders whose vectors have lengths of their own.
    Without `camera_filter` matches by the query's own camera count; a copy of the query's file never does.
    `single_shot` is as in `metrics.evaluate`; `embed` may bring embeddings that were made before.

    Raises:
        InputError: a part is missing, a crop is no image, or nothing can be scored.
    """
    dataset.require_splits("query", "gallery")
    started = time.perf_counter()
    query, gallery = embed(embedder, dataset.query, "query"), embed(embedder, dataset.gallery, "gallery")
    labels = _labels(dataset, camera_filter=camera_filter)
    if rerank:
        distances = k_reciprocal(query, gallery)
        result = evaluate(np.negative(distances, out=distances), *labels, single_shot=single_shot)
    else:
        if metric == EUCLIDEAN:
            query, gallery = euclidean_as_dot(query, gallery)
        result = evaluate_embeddings(query, gallery, *labels, single_shot=single_shot)
    seconds = time.perf_counter() - started
    rank1, rank5, rank10 = (100 * float(result.cmc[min(rank, len(result.cmc)) - 1]) for rank in (1, 5, 10))
    return Scores(
        rank1, rank5, rank10, 100 * result.mAP, 100 * result.mINP, len(dataset.query), len(dataset.gallery), seconds
    )


def euclidean_as_dot(query: Vectors, gallery: Vectors) -> tuple[Vectors, Vectors]:
    """Vectors [Q, D+1] and [G, D+1] whose dot products rank as the Euclidean distances of the given ones do.

    |q - g|^2 = |q|^2 - 2 (q.g - |g|^2 / 2), and |q| is the same for all that one query is compared with.
    """
    halves = -np.square(gallery).sum(1, keepdims=True) / 2
    return np.c_[query, np.ones((len(query), 1), np.float32)], np.c_[gallery, halves]


def _labels(dataset: Dataset, *, camera_filter: bool) -> tuple[list[int], list[int], list[int], list[int]]:
    """Identities of query and gallery, then their cameras."""
    parts = dataset.query, dataset.gallery
    query_ids, gallery_ids = ([crop.identity for crop in part] for part in parts)
    # Each picture as a camera of its own: then what is left out is the picture itself.
    query_cams, gallery_cams = (
        ([crop.camera for crop in part] for part in parts) if camera_filter else _pictures(*parts)
    )
    return query_ids, gallery_ids, query_cams, gallery_cams


def _pictures(query: Sequence[Crop], gallery: Sequence[Crop]) -> tuple[list[int], list[int]]:
    """A number for each crop, the same for files of the same bytes."""
    numbers: dict[bytes, int] = {}
    digests = ([hashlib.sha256(crop.path.read_bytes()).digest() for crop in part] for part in (query, gallery))
    first, second = ([numbers.setdefault(digest, len(numbers)) for digest in part] for part in digests)
    return first, second
