"""Compatible training: the new model's embeddings can be compared with those of an earlier model.

So the new model can search a gallery of the earlier one before its crops are embedded again (backward-compatible
training; Shen et al., CVPR 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bot_deploy.artifacts.contract import weights_fingerprint
from bot_deploy.embedder import open_embedder
from bot_deploy.errors import InputError
from bot_deploy.evaluation.embeddings import embed_or_reuse
from bot_deploy.models.cache import find_model

from .heads import mean_of_each

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot_deploy.datasets import Crop


@dataclass(frozen=True)
class EarlierTargets:
    """Where an earlier model has the people of the training crops; the new model is drawn there."""

    model: str  # the file of the earlier model, or its name
    spaces: tuple[str, ...]  # embedding spaces that the new model will be compatible with
    directions: Tensor  # of each training crop, the earlier model's mean direction of its identity [N, D]

    @property
    def dim(self) -> int:
        """The length of the earlier model's vectors, which the new ones must have too."""
        return self.directions.shape[1]

    @property
    def fingerprint(self) -> str:
        """Changes when the earlier model changes."""
        return weights_fingerprint([("spaces", " ".join(self.spaces).encode())])


def embed_with_earlier(model: str | Path, crops: Sequence[Crop]) -> EarlierTargets:
    """The targets that the earlier `model` sets for labelled `crops`; its embeddings are kept in the embedding cache.

    Raises:
        InputError: not a model, or a crop that is not a usable image.
        RunError: its runtime is not installed.
    """
    embedder = open_embedder(model)
    contract = embedder.contract
    vectors = torch.from_numpy(embed_or_reuse(embedder, crops, "training", model=find_model(model)))
    return EarlierTargets(
        model=str(model),
        spaces=contract.searchable_spaces,
        directions=mean_directions(vectors, torch.tensor([crop.identity for crop in crops])),
    )


def mean_directions(vectors: Tensor, identities: Tensor) -> Tensor:
    """For each of the unit `vectors` [N, D], the mean of the vectors with its identity, scaled to unit length [N, D].

    These are the weights that Shen et al. (section 3.3) give the earlier classifier for people it has not learnt.
    """
    _, rows = torch.unique(identities, return_inverse=True)
    return nn.functional.normalize(mean_of_each(vectors, rows), dim=1)[rows]


def check_dimension(dim: int, earlier: EarlierTargets, arch: str) -> None:
    """Raises an InputError unless new vectors of length `dim` can be compared with the earlier ones."""
    if dim != earlier.dim:
        raise InputError(
            f"{earlier.model} has {earlier.dim} dimensions, but {arch} has {dim}; vectors of two lengths cannot be "
            "compared: take a backbone of the same length",
            parameter="compatible_with",
        )
