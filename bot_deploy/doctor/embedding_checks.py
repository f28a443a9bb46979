"""Signs in the embeddings that the model is broken, or that the crops have another colour order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .crop_checks import MAX_EXAMPLES, DoctorWarning, format_share
from .similarity import pairwise_cosines, rowwise_cosines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from .similarity import Embeddings

MAX_NORM_ERROR = 1e-3
MIN_BATCH_COSINE = 0.999  # between the embeddings of a crop alone and in a batch
COLLAPSED_COSINE = 0.99
COLLAPSED_SHARE = 0.5  # of the pairs
MIN_CROPS_FOR_COLLAPSE = 8  # fewer crops may all show one person
MIN_SWAP_RATIO, MIN_CROPS_FOR_SWAP = 1.15, 64  # see find_swapped_colours


def find_model_warnings(correct: Embeddings, alone: Embeddings, paths: Sequence[Path]) -> Iterator[DoctorWarning]:
    """Warnings about the model.

    Args:
        correct: embeddings of the crops, preprocessed correctly, [N, D].
        alone: embeddings of the first crops, each embedded in a batch of one, [M, D].
        paths: files of the crops.
    """

    def warning(kind: str, affected: npt.NDArray[np.bool_], message: str) -> DoctorWarning:
        examples = [str(paths[row]) for row in np.flatnonzero(affected)[:MAX_EXAMPLES]]
        return DoctorWarning(kind, int(affected.sum()), message, tuple(examples) if affected.sum() < len(paths) else ())

    not_finite = np.asarray(~np.isfinite(correct).all(1))
    if not_finite.any():
        yield warning(
            "nan",
            not_finite,
            f"{format_share(not_finite)} give vectors that are not numbers; FP16 overflows: use the FP32 export, or "
            "export again",
        )
        return
    norms = np.linalg.norm(correct, axis=1)
    wrong_norm = np.abs(norms - 1) > MAX_NORM_ERROR
    if wrong_norm.any():
        yield warning(
            "norm",
            wrong_norm,
            f"{format_share(wrong_norm)} give vectors of length {norms.min():.3g} to {norms.max():.3g}, not 1: scores "
            "are not cosines; export the model again",
        )
    if not norms.all():
        return  # a vector of length 0 has no direction to compare
    if len(alone):
        cosines = rowwise_cosines(alone, correct[: len(alone)])
        differs = ~(cosines >= MIN_BATCH_COSINE)
        if differs.any():
            yield warning(
                "batch",
                np.append(differs, np.zeros(len(correct) - len(alone), bool)),
                f"{format_share(differs)} give other embeddings alone than in a batch (cosine {cosines.min():.4f}): "
                "the graph mixes a batch; use batches of one image, or export again",
            )
    collapsed = (pairwise_cosines(correct) >= COLLAPSED_COSINE).mean()
    if len(correct) >= MIN_CROPS_FOR_COLLAPSE and collapsed > COLLAPSED_SHARE:
        yield DoctorWarning(
            "collapse",
            len(correct),
            f"{100 * collapsed:.0f} % of all pairs have a cosine of {COLLAPSED_COSINE} or more: the "
            "model is not trained, or the crops are all alike, black or already normalised",
            (),
        )


def find_swapped_colours(
    correct: Embeddings, mirrored: Embeddings, swapped: Embeddings, swapped_mirrored: Embeddings
) -> Iterator[DoctorWarning]:
    """A warning if the model distinguishes the crops better with red and blue exchanged. All arguments are [N, D].

    The measure: by how many standard deviations is a crop closer to its own mirror image than to other crops? On
    clean crops, the exchange multiplies it by 0.78 to 0.98 (two trained models on Market-1501, VIPeR and synthetic
    crops). For an untrained model it changes little (0.98 to 1.04), and with fewer than 64 crops chance changes more.
    """
    if len(correct) < MIN_CROPS_FOR_SWAP:
        return
    ratio = _mirror_separation(swapped, swapped_mirrored) / _mirror_separation(correct, mirrored)
    if ratio >= MIN_SWAP_RATIO:
        yield DoctorWarning(
            "swapped",
            len(correct),
            f"the model distinguishes the crops {ratio:.2f} times as well with red and blue exchanged: are they stored "
            "as BGR? (look at one: are faces blue?)",
            (),
        )


def _mirror_separation(embeddings: Embeddings, mirrored: Embeddings) -> float:
    between_crops = pairwise_cosines(embeddings)
    with_mirror = rowwise_cosines(embeddings, mirrored).mean()
    return float((with_mirror - between_crops.mean()) / max(between_crops.std(), 1e-12))
