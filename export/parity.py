"""Compares the embeddings of two models on real crops; the crop with the largest difference decides."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bot_deploy import images
from bot_deploy.errors import ImageError, InputError
from bot_deploy.progress import show_progress
from bot_deploy.sampling import evenly_spread

if TYPE_CHECKING:
    from bot_deploy.datasets import Dataset
    from bot_deploy.embedder import Embedder, Vectors
    from bot_deploy.evaluation.protocol import Scores

BATCH_SIZES = (1, 2, 7, 64)  # a graph that works only at the batch size of its tracing is a common defect
PARITY_CROPS = 256
SMALL_BATCH_CROPS = 16  # crops that are embedded at all batch sizes but the largest; the last batch of 7 is not full
MAX_NORM_ERROR = 1e-3
NEAREST_CROPS = 10
TIE = 1e-6  # crops whose cosines in the reference differ by less are equally near: float32 rounds by as much
COLLAPSED_SIMILARITY = 0.99  # mean cosine between different crops; trained networks have less than 0.7


@dataclass(frozen=True)
class Tolerance:
    """The differences that are allowed at a precision."""

    min_cosine: float
    map_change: float | None = None  # percentage points; None: no limit
    min_top1: float = 0.0  # share of crops that keep their nearest other crop


# Where all crops look alike, the cosine with the reference says nothing, but the nearest crops change. Untrained
# networks, with cosines of 0.98 to 0.99 between crops, keep 100 % of them in float32, 99 % in FP16, 76 to 93 % in INT8.
TOLERANCES = {
    "fp32": Tolerance(0.99999, min_top1=0.99),
    "fp16": Tolerance(0.999, min_top1=0.95),
    "int8": Tolerance(0.97, 0.5, min_top1=0.5),
}


@dataclass(frozen=True)
class Parity:
    """The differences between the embeddings of a candidate and of a reference on `crops` real crops."""

    crops: int  # number of crops
    batches: tuple[int, ...]
    max_abs_error: float
    min_cosine: float
    mean_cosine: float
    max_norm_error: float  # of the length of the candidate's vectors from 1
    top1_agreement: float  # share of crops with the same nearest other crop, or one that is as near in the reference
    top10_agreement: float  # mean overlap of the ten nearest other crops
    tolerance: Tolerance
    rank1_change: float | None = None  # percentage points, candidate minus reference; None: not measured
    map_change: float | None = None
    mean_similarity: float | None = None  # mean cosine of the reference between different crops

    @property
    def collapsed(self) -> bool:
        """Whether all crops look alike to the reference, so that it cannot tell people apart."""
        return self.mean_similarity is not None and self.mean_similarity >= COLLAPSED_SIMILARITY

    @property
    def passed(self) -> bool:
        """Whether all differences are within the tolerance; a NaN is not."""
        limit = self.tolerance.map_change
        close_scores = limit is None or self.map_change is None or abs(self.map_change) <= limit
        same_neighbours = self.top1_agreement >= self.tolerance.min_top1
        same_vectors = self.min_cosine >= self.tolerance.min_cosine and self.max_norm_error <= MAX_NORM_ERROR
        return same_vectors and same_neighbours and close_scores

    def to_dict(self) -> dict[str, object]:
        """The figures for JSON; a NaN becomes None."""
        figures = {key: None if value != value else value for key, value in asdict(self).items()}  # noqa: PLR0124 - NaN
        return {**figures, "passed": self.passed}

    def table(self) -> str:
        """The figures as aligned lines."""
        rows = [
            ("crops", f"{self.crops}, in batches of {', '.join(map(str, self.batches))}"),
            ("min cosine", f"{self.min_cosine:.7f}  (at least {self.tolerance.min_cosine:g})"),
            ("mean cosine", f"{self.mean_cosine:.7f}"),
            ("max norm error", f"{self.max_norm_error:.2e}  (at most {MAX_NORM_ERROR:g})"),
            ("max abs error", f"{self.max_abs_error:.2e}"),
            ("top-1 agreement", f"{100 * self.top1_agreement:.2f} %  (at least {100 * self.tolerance.min_top1:g})"),
            ("top-10 agreement", f"{100 * self.top10_agreement:.2f} %"),
        ]
        if self.collapsed:
            rows.append(("mean similarity", f"{self.mean_similarity:.4f}  (collapsed: all crops look alike)"))
        if self.map_change is not None:
            limit = self.tolerance.map_change
            rows.append(("rank-1 change", f"{self.rank1_change:+.2f}"))
            rows.append(("mAP change", f"{self.map_change:+.2f}" + (f"  (at most {limit:g})" if limit else "")))
        rows.append(("parity", "passed" if self.passed else "FAILED"))
        return "\n".join(f"  {name:<17} {value}" for name, value in rows)


def sample_crops(dataset: Dataset, size: tuple[int, int], count: int = PARITY_CROPS) -> images.Pixels:
    """Reads up to `count` crops, evenly spread over `dataset`, as uint8 [N, height, width, 3].

    Raises:
        InputError: fewer than two usable crops.
    """
    crops = [*dataset.query, *dataset.gallery, *dataset.train]
    chosen = evenly_spread(len(crops), count)
    loaded = images.read_many([crops[index].path for index in chosen], size)
    usable = [picture for picture in loaded if not isinstance(picture, ImageError)]
    if len(usable) < 2:  # noqa: PLR2004 - one crop has no nearest crop
        raise InputError(f"{dataset.name}: parity needs at least two crops; give other crops", parameter="data")
    return np.stack(usable)


def compare_embeddings(reference: Embedder, candidate: Embedder, crops: images.Pixels, tolerance: Tolerance) -> Parity:
    """Embeds `crops` uint8 [N, H, W, 3] with both models and compares the embeddings.

    The candidate runs at every size of BATCH_SIZES: at the largest on all crops, at the others on the first
    SMALL_BATCH_CROPS.
    """
    expected = _embed(reference, crops, max(BATCH_SIZES))
    counts = [len(crops) if size == max(BATCH_SIZES) else min(SMALL_BATCH_CROPS, len(crops)) for size in BATCH_SIZES]
    embedded = [
        _embed(candidate, crops[:count], size)
        for size, count in show_progress(list(zip(BATCH_SIZES, counts, strict=True)), "comparing")
    ]
    actual = np.concatenate(embedded).astype(np.float64)
    repeated = np.concatenate([expected[:count] for count in counts])  # row by row as `actual`
    norms = np.linalg.norm(actual, axis=1)
    cosines = (actual * repeated).sum(1) / (norms * np.linalg.norm(repeated, axis=1))
    similarity = _similarities(expected)
    nearest, expected_nearest = _nearest_crops(_similarities(embedded[-1])), _nearest_crops(similarity)
    rows = np.arange(len(crops))
    # How much farther than the nearest crop is, for the reference, the crop that the candidate takes for the nearest.
    farther = similarity[rows, expected_nearest[:, 0]] - similarity[rows, nearest[:, 0]]
    overlap = [len(set(a) & set(b)) / len(b) for a, b in zip(nearest.tolist(), expected_nearest.tolist(), strict=True)]
    return Parity(
        crops=len(crops),
        batches=BATCH_SIZES,
        max_abs_error=float(np.abs(actual - repeated).max()),
        min_cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        max_norm_error=float(np.abs(norms - 1).max()),
        top1_agreement=float((farther <= TIE).mean()),
        top10_agreement=float(np.mean(overlap)),
        tolerance=tolerance,
        mean_similarity=float(similarity[~np.eye(len(crops), dtype=bool)].mean()),
    )


def with_scores(parity: Parity, reference: Scores, candidate: Scores) -> Parity:
    """`parity` with the changes of rank-1 and mAP on a benchmark."""
    rank1, mean_ap = candidate.rank1 - reference.rank1, candidate.mAP - reference.mAP
    return replace(parity, rank1_change=rank1, map_change=mean_ap)


def _embed(embedder: Embedder, crops: images.Pixels, size: int) -> Vectors:
    """The embeddings of `crops` in batches of `size`, unchecked: unusable ones have to fail the comparison."""
    return np.concatenate([embedder.compute(crops[start : start + size]) for start in range(0, len(crops), size)])


def _similarities(vectors: Vectors) -> npt.NDArray[np.float64]:
    """The cosines of all pairs [N, N]; a crop is no neighbour of itself."""
    similarity = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    np.fill_diagonal(similarity, -np.inf)
    return similarity


def _nearest_crops(similarity: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """The indices of the nearest other crops of each crop, int [N, NEAREST_CROPS]."""
    return np.argsort(-similarity, axis=1, kind="stable")[:, : min(NEAREST_CROPS, len(similarity) - 1)]
