"""Heads for fine-tuning: classifier, centers and projection are fitted to what the initial weights say of the crops.

Random heads would change a network that knows people before they have learnt anything themselves, and it would hold
less well on other cameras (Kumar et al., ICLR 2022).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from .distributed import broadcast
from .features import compute_features
from .losses import id_loss

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from .data import TrainingSet
    from .distributed import World
    from .recipe import Recipe
    from .state import TrainingState

    Rows = npt.NDArray[np.int64]

RIDGE = 1e-3  # of the mean variance of an embedding's values
CROPS_EACH = 8  # of each identity; more cost time and hardly move its mean
UNLABELED_CROPS = 4096
SCALED_CROPS = 4096  # crops that choose the scale of the logits
LOGIT_SCALES: tuple[float, ...] = tuple(2.0 ** (power / 2) for power in range(-4, 17))  # 0.25 to 256


def fit_heads(
    state: TrainingState, labelled: TrainingSet, unlabelled: TrainingSet | None, recipe: Recipe, world: World
) -> None:
    """Sets the classifier, the centers and the projection of `state`; the network that is exported stays as it is.

    The weights of the classifier are the mean directions of the people (imprinted weights; Qi et al., CVPR 2018), the
    centers are the means of their features, and the projection to the teacher's vectors is a ridge regression.
    """
    rows = some_of_each(labelled.labels)
    label = "fitting the heads" if world.is_first else None
    features = compute_features(state.model, labelled, rows, world.device, label)
    labels = torch.from_numpy(labelled.labels[rows]).to(world.device)
    neck = state.model.neck
    with torch.no_grad():
        embeddings = neck(features)
        weight = mean_of_each(nn.functional.normalize(embeddings), labels)
        weight = nn.functional.normalize(weight)
        step = -(-len(labels) // SCALED_CROPS)
        scale = best_scale(embeddings[::step] @ weight.T, labels[::step], recipe.label_smoothing)
        state.model.classifier.weight.copy_(scale * weight)
        if state.model.classifier.bias is not None:
            state.model.classifier.bias.zero_()
        state.center.centers.copy_(mean_of_each(features, labels))
        if state.projection is not None and labelled.teacher is not None:
            pairs = [(features, labelled.teacher[rows])]
            if unlabelled is not None and unlabelled.teacher is not None:
                others = np.arange(0, len(unlabelled.crops), -(-len(unlabelled.crops) // UNLABELED_CROPS))
                vectors = compute_features(state.model, unlabelled, others, world.device, label)
                pairs.append((vectors, unlabelled.teacher[others]))
            sources = torch.cat([values for values, _ in pairs])
            targets = torch.cat([vectors for _, vectors in pairs]).to(world.device)
            fitted = ridge_regression(neck(sources) if recipe.feature == "after" else sources, targets)
            # Only the direction of its results counts. With its length of before, the learning rate suits it as before.
            state.projection.weight.copy_(fitted * state.projection.weight.norm() / fitted.norm())
        for values in _heads(state):
            broadcast(values, 0, world)


def some_of_each(labels: Rows) -> Rows:
    """The rows of at most CROPS_EACH crops of each label, evenly spread over its crops, in ascending order."""
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    counts = [min(CROPS_EACH, len(group)) for group in groups]
    chosen = [group[np.arange(count) * len(group) // count] for group, count in zip(groups, counts, strict=True)]
    return np.sort(np.concatenate(chosen))


def mean_of_each(vectors: Tensor, labels: Tensor) -> Tensor:
    """The mean of the `vectors` [N, D] with each of the labels from 0 to the greatest, [num_ids, D]."""
    count = int(labels.max()) + 1
    sums = vectors.new_zeros(count, vectors.shape[1]).index_add_(0, labels, vectors)
    return sums / torch.bincount(labels, minlength=count)[:, None]


def best_scale(logits: Tensor, labels: Tensor, smoothing: float) -> float:
    """Which of LOGIT_SCALES gives `logits` [N, num_ids] the lowest ID loss."""
    losses = [float(id_loss(scale * logits, labels, smoothing)) for scale in LOGIT_SCALES]
    return LOGIT_SCALES[int(np.argmin(losses))]


def ridge_regression(sources: Tensor, targets: Tensor) -> Tensor:
    """The W [E, D] that brings W s near to t, for the rows s of `sources` [N, D] and t of `targets` [N, E].

    It minimises the mean of |W s / |s| - t|^2 plus a small multiple of |W|^2, in float64.
    """
    s = nn.functional.normalize(sources.double())
    covariance = s.T @ s / len(s)
    penalty = RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), device=s.device, dtype=s.dtype)
    solution: Tensor = torch.linalg.solve(covariance + penalty, s.T @ targets.double() / len(s)).T
    return solution.to(sources.dtype)


def _heads(state: TrainingState) -> Iterable[Tensor]:
    parts = (state.model.classifier, state.center, state.projection)
    return (values.data for part in parts if part is not None for values in part.parameters())
