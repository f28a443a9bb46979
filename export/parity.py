"""Whether two models give the same embeddings, judged on real crops by the worst of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bot_deploy import images
from bot_deploy.errors import ImageError, InputError
from bot_deploy.progress import show_progress

if TYPE_CHECKING:
    from bot_deploy.datasets import Dataset
    from bot_deploy.embedder import Embedder, Vectors
    from bot_deploy.evaluation.protocol import Scores

BATCHES = (1, 2, 7, 64)  # a batch that only works at the size it was traced with is a common defect
CROPS = 256
FEW = 64  # of them, in all batches but the largest
NORM_TOLERANCE = 1e-3
TOP = 10


@dataclass(frozen=True)
class Tolerance:
    """What an artifact of some precision may differ by."""

    min_cosine: float
    map_change: float | None = None  # percentage points; None: reported only


TOLERANCES = {"fp32": Tolerance(0.99999), "fp16": Tolerance(0.999), "int8": Tolerance(0.97, 0.5)}


@dataclass(frozen=True)
class Parity:
    """How far a candidate's embeddings are from the reference's over `crops` real crops."""

    crops: int
    batches: tuple[int, ...]
    max_abs_error: float
    min_cosine: float
    mean_cosine: float
    max_norm_error: float  # of the candidate's vectors from length 1
    top1_agreement: float  # share of crops whose nearest other crop is the same
    top10_agreement: float  # mean overlap of the ten nearest
    tolerance: Tolerance
    rank1_change: float | None = None  # percentage points, candidate minus reference; None: not measured
    map_change: float | None = None

    @property
    def passed(self) -> bool:
        # Written so that a NaN fails.
        limit = self.tolerance.map_change
        scores = limit is None or self.map_change is None or abs(self.map_change) <= limit
        return self.min_cosine >= self.tolerance.min_cosine and self.max_norm_error <= NORM_TOLERANCE and scores

    def to_dict(self) -> dict[str, object]:
        figures = {key: None if value != value else value for key, value in asdict(self).items()}  # noqa: PLR0124 - NaN
        return {**figures, "passed": self.passed}

    def table(self) -> str:
        """The figures as aligned lines."""
        rows = [
            ("crops", f"{self.crops}, in batches of {', '.join(map(str, self.batches))}"),
            ("min cosine", f"{self.min_cosine:.7f}  (at least {self.tolerance.min_cosine:g})"),
            ("mean cosine", f"{self.mean_cosine:.7f}"),
            ("max norm error", f"{self.max_norm_error:.2e}  (at most {NORM_TOLERANCE:g})"),
            ("max abs error", f"{self.max_abs_error:.2e}"),
            ("top-1 agreement", f"{100 * self.top1_agreement:.2f} %"),
            ("top-10 agreement", f"{100 * self.top10_agreement:.2f} %"),
        ]
        if self.map_change is not None:
            limit = self.tolerance.map_change
            rows.append(("rank-1 change", f"{self.rank1_change:+.2f}"))
            rows.append(("mAP change", f"{self.map_change:+.2f}" + (f"  (at most {limit:g})" if limit else "")))
        rows.append(("parity", "passed" if self.passed else "FAILED"))
        return "\n".join(f"  {name:<17} {value}" for name, value in rows)


def sample(dataset: Dataset, size: tuple[int, int], count: int = CROPS) -> images.Pixels:
    """Up to `count` crops spread evenly over `dataset`, uint8 [N, height, width, 3].

    Raises:
        InputError: fewer than two usable crops.
    """
    crops = [*dataset.query, *dataset.gallery, *dataset.train]
    chosen = np.unique(np.linspace(0, max(len(crops) - 1, 0), min(count, len(crops))).astype(int))
    loaded = images.read_many([crops[index].path for index in chosen], size)
    usable = [picture for picture in loaded if not isinstance(picture, ImageError)]
    if len(usable) < 2:  # noqa: PLR2004 - one crop has no ranking
        raise InputError(f"{dataset.name}: parity needs at least two crops; name a folder of yours with --data")
    return np.stack(usable)


def compare(reference: Embedder, candidate: Embedder, crops: images.Pixels, tolerance: Tolerance) -> Parity:
    """Embeds `crops` uint8 [N, H, W, 3] with both, the candidate at every size of BATCHES, and compares.

    The largest size takes all crops, the others FEW of them.
    """
    expected = _embed(reference, crops, max(BATCHES))
    counts = [len(crops) if size == max(BATCHES) else min(FEW, len(crops)) for size in BATCHES]
    embedded = [
        _embed(candidate, crops[:n], size)
        for size, n in show_progress(list(zip(BATCHES, counts, strict=True)), "comparing")
    ]
    got = np.concatenate(embedded).astype(np.float64)
    same = np.concatenate([expected[:count] for count in counts])
    norms = np.linalg.norm(got, axis=1)
    cosines = (got * same).sum(1) / (norms * np.linalg.norm(same, axis=1))
    nearest, wanted = _nearest(embedded[-1]), _nearest(expected)
    overlap = [len(set(a) & set(b)) / len(b) for a, b in zip(nearest.tolist(), wanted.tolist(), strict=True)]
    return Parity(
        crops=len(crops),
        batches=BATCHES,
        max_abs_error=float(np.abs(got - same).max()),
        min_cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        max_norm_error=float(np.abs(norms - 1).max()),
        top1_agreement=float((nearest[:, 0] == wanted[:, 0]).mean()),
        top10_agreement=float(np.mean(overlap)),
        tolerance=tolerance,
    )


def with_scores(parity: Parity, reference: Scores, candidate: Scores) -> Parity:
    """`parity` with what the candidate gains and loses on a benchmark."""
    rank1, mean_ap = candidate.rank1 - reference.rank1, candidate.mAP - reference.mAP
    return replace(parity, rank1_change=rank1, map_change=mean_ap)


def _embed(embedder: Embedder, crops: images.Pixels, size: int) -> Vectors:
    return np.concatenate([embedder.run(crops[start : start + size]) for start in range(0, len(crops), size)])


def _nearest(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.intp]:
    """The nearest other crops of each, int [N, TOP]."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argsort(-similarity, axis=1, kind="stable")[:, : min(TOP, len(vectors) - 1)]
