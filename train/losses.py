"""The three losses: ID loss with label smoothing, batch-hard triplet loss and center loss (paper sections 2, 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bot_deploy.choices import AUTHORS, PAPER


def id_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross entropy of logits [N, num_ids] and labels [N] with label smoothing (Eq. 3), mean over the batch."""
    return nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances [N, M] of a [N, D] and b [M, D]; not squared."""
    squared = a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T
    # The square root has no gradient at zero, and the distance of an image to itself is about zero.
    return squared.clamp(min=1e-12).sqrt()


class TripletLoss(nn.Module):
    """Batch-hard triplet loss (Eq. 4; Hermans et al. 2017) with the hardest positive and negative of each anchor.

    Called with features [N, D] (f_t, not normalised) and labels [N]. The result is the mean over the anchors, as in the
    released code. A batch needs at least two identities.
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

    Called with features [N, dim] and labels [N]. `scaling="authors"` is the mean over the batch without the factor 1/2
    (the released code); "paper" is half the sum, as in Eq. 5. The parameter `centers` [num_ids, dim] is drawn from
    N(0, 1).
    """

    def __init__(self, num_ids: int, dim: int, *, scaling: str = AUTHORS) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(num_ids, dim))
        self.scaling = scaling

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        squared = (features - self.centers[labels]).square().sum(1)
        return squared.sum() / 2 if self.scaling == PAPER else squared.mean()
