"""The three losses: ID with label smoothing, batch-hard triplet, center (paper sections 2 and 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

AUTHORS, PAPER = "authors", "paper"


def id_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross entropy of logits [N, C] and labels [N] with label smoothing (Eq. 3), mean over the batch."""
    return nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances [N, M] of a [N, D] and b [M, D]; not squared."""
    squared = a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T
    # The root has no gradient at zero; an image is at distance ~0 from itself.
    return squared.clamp(min=1e-12).sqrt()


class TripletLoss(nn.Module):
    """Batch-hard triplet loss (Eq. 4; Hermans et al. 2017): hardest positive and negative of every anchor.

    Features [N, D] are f_t, not normalised; labels [N]; mean over the anchors, as in the released code.
    Every identity needs a negative in the batch.
    """

    def __init__(self, margin: float = 0.3) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        distances = euclidean(features, features)
        same = labels[:, None] == labels[None, :]
        hardest_positive = distances.masked_fill(~same, -torch.inf).amax(1)
        hardest_negative = distances.masked_fill(same, torch.inf).amin(1)
        return (hardest_positive - hardest_negative + self.margin).clamp(min=0).mean()


class CenterLoss(nn.Module):
    """Squared distance of each feature to the learned center of its identity (Eq. 5; Wen et al. 2016).

    Features [N, D], labels [N]. `scaling` "authors": mean over the batch, no 1/2 (the released code);
    "paper": 1/2 * sum, as Eq. 5 is printed. `centers` is [num_ids, dim], drawn from N(0, 1).
    """

    def __init__(self, num_ids: int, dim: int, *, scaling: str = AUTHORS) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(num_ids, dim))
        self.scaling = scaling

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        squared = (features - self.centers[labels]).square().sum(1)
        return squared.sum() / 2 if self.scaling == PAPER else squared.mean()
