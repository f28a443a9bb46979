"""The memory of Cluster Contrast: one vector for each person that clustering has found, instead of a classifier."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class ClusterMemory:
    """A unit vector for each person, which follows the embeddings of the crops (Dai et al., ACCV 2022)."""

    vectors: Tensor  # [people, D]
    momentum: float  # m
    temperature: float  # tau

    def logits(self, embeddings: Tensor) -> Tensor:
        """cos(q, phi_k) / tau of the `embeddings` [N, D] and each person, [N, people].

        Their cross entropy is the paper's loss (Eq. 2).
        """
        return nn.functional.normalize(embeddings) @ self.vectors.T / self.temperature

    @torch.no_grad()
    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """Moves the vector of the person on each of N crops: phi <- m phi + (1 - m) q, one after the other (Eq. 4)."""
        for vector, label in zip(nn.functional.normalize(embeddings.float()), labels.tolist(), strict=True):
            moved = self.momentum * self.vectors[label] + (1 - self.momentum) * vector
            self.vectors[label] = nn.functional.normalize(moved, dim=0)
