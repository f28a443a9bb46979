"""Distillation: the student follows the embeddings of a teacher, which are computed once.

The teacher embeds the crops as they are, the student gets them augmented. Unlabelled crops, whose people are unknown,
are a part of each batch; they have no part in the losses of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from bot_deploy.artifacts.contract import weights_fingerprint
from bot_deploy.datasets import crops_fingerprint
from bot_deploy.embedder import open_embedder
from bot_deploy.errors import InputError
from bot_deploy.evaluation.embeddings import embed_or_reuse
from bot_deploy.models.cache import find_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from bot_deploy.datasets import Crop
    from bot_deploy.embedder import Vectors


@dataclass(frozen=True)
class TeacherTargets:
    """The targets of distillation: a teacher's embeddings of the labelled and the unlabelled crops."""

    teacher: str  # path of its file
    description: str  # its backbone and embedding space
    labeled_embeddings: Tensor  # unit vectors of the training crops [N, D]
    unlabeled_embeddings: Tensor  # unit vectors of the unlabelled crops [M, D]
    unlabeled_crops: tuple[Crop, ...]
    unlabeled_sources: tuple[str, ...]  # folders and .zip files of these crops

    @property
    def dim(self) -> int:
        """The length of the teacher's vectors."""
        return self.labeled_embeddings.shape[1]

    @property
    def unlabeled_names(self) -> tuple[str, ...]:
        """The names of the unlabelled data without their folders, for contracts."""
        return tuple(Path(source).name for source in self.unlabeled_sources)

    @property
    def fingerprint(self) -> str:
        """Changes when the teacher or the unlabelled crops change."""
        parts = (self.description, crops_fingerprint(self.unlabeled_crops))
        return weights_fingerprint([(str(number), part.encode()) for number, part in enumerate(parts)])


def embed_with_teacher(
    teacher: str | Path, labelled: Sequence[Crop], unlabelled: Sequence[Crop], sources: Sequence[str]
) -> TeacherTargets:
    """The embeddings of the crops by the model in `teacher`; they are kept in the embedding cache.

    Raises:
        InputError: not a model, or a crop that is not a usable image.
        RunError: its runtime is not installed.
    """
    embedder = open_embedder(teacher)
    contract = embedder.contract

    def embed(crops: Sequence[Crop], label: str) -> Tensor:
        if not crops:
            return torch.zeros(0, contract.dim)
        vectors: Vectors = embed_or_reuse(embedder, crops, label, model=find_model(teacher))
        return torch.from_numpy(vectors)

    return TeacherTargets(
        teacher=str(teacher),
        description=f"{contract.arch} {contract.embedding_space}",
        labeled_embeddings=embed(labelled, "training"),
        unlabeled_embeddings=embed(unlabelled, "unlabelled"),
        unlabeled_crops=tuple(unlabelled),
        unlabeled_sources=tuple(map(str, sources)),
    )


def check_teacher(teacher: str | Path | None, unlabelled: Sequence[str | Path]) -> None:
    """Raises an InputError for unlabelled data without a teacher, which could teach nothing."""
    if unlabelled and not teacher:
        raise InputError(
            "beside labelled data, unlabelled ones need a teacher; alone, their people are found by clustering",
            parameter="teacher",
        )


def draw_unlabeled(count: int, batches: int, size: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Indices [batches, size] below `count`: one random order of all crops after the other."""
    needed = batches * size
    orders = [rng.permutation(count) for _ in range(-(-needed // count))] if count and needed else []
    return (
        np.concatenate([*orders, np.zeros(0, np.int64)])[:needed]
        .reshape(batches, size if count else 0)
        .astype(np.int64)
    )


def relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference between the cosines of all pairs of a batch, student against teacher.

    L = 1 / (N (N - 1)) * sum over i != j of (cos(s_i, s_j) - cos(t_i, t_j))^2: relational knowledge distillation (Park
    et al., CVPR 2019, Eq. 3) with the cosine as the relation of a pair, because cosines rank a gallery. Tung and Mori
    (ICCV 2019) compare the same pairs. The two vectors may have different lengths.

    Args:
        student: embeddings [N, D], N of at least 2.
        teacher: embeddings [N, E].
    """
    count = len(student)
    s, t = nn.functional.normalize(student, dim=1), nn.functional.normalize(teacher, dim=1)
    difference = s @ s.T - t @ t.T
    # All but the diagonal, in the order of the rows. A mask would make the CPU wait for the GPU to count its elements.
    others = difference.flatten()[1:].view(count - 1, count + 1)[:, :-1]
    return others.reshape(-1).square().mean()


def direction_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """The mean of 1 - cos(W s_i, t_i): the direction of each projected embedding against the teacher's.

    W is a linear projection to the teacher's dimension that only training uses (as the regressor of FitNets, Romero et
    al., ICLR 2015, Eq. 3, with the cosine instead of the squared distance). Compatible training has no
    projection, because the spaces must be the same.

    Args:
        projected: W s, [N, E].
        teacher: embeddings [N, E].
    """
    return (1 - nn.functional.cosine_similarity(projected, teacher, dim=1)).mean()
