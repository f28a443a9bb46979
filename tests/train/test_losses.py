"""The losses against loops over the formulas, and their gradients against finite differences of those loops."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from bot_deploy.train import loop
from bot_deploy.train.losses import CenterLoss, TripletLoss, euclidean, id_loss
from bot_deploy.train.recipe import Recipe
from bot_deploy.train.state import TrainingState

if TYPE_CHECKING:
    from collections.abc import Callable

Array = npt.NDArray[np.float64]

# identities with 1 to 6 images
UNEVEN = (0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5)
FOUR_OF_EACH = tuple(identity for identity in range(4) for _ in range(4))
PAIRS_AND_SINGLES = (7, 3, 7, 1, 3)


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return scale * np.random.default_rng(seed).standard_normal(shape)


def finite_differences(function: Callable[[Array], float], at: Array, step: float = 1e-6) -> Array:
    """The gradient of `function` by central differences."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient


def naive_id(logits: Array, labels: tuple[int, ...], epsilon: float) -> float:
    """Eq. 2 with the q of Eq. 3, mean over the batch."""
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        exponentials = [math.exp(value) for value in row]
        count = len(row)
        for identity, exponential in enumerate(exponentials):
            q = 1 - (count - 1) / count * epsilon if identity == label else epsilon / count
            total -= q * math.log(exponential / sum(exponentials))
    return total / len(labels)


def naive_triplet(features: Array, labels: tuple[int, ...], margin: float) -> float:
    """Eq. 4 on the hardest positive and the hardest negative of every anchor."""
    total = 0.0
    for anchor, label in zip(features, labels, strict=True):
        positive, negative = 0.0, math.inf
        for other, other_label in zip(features, labels, strict=True):
            distance = math.sqrt(sum((a - b) ** 2 for a, b in zip(anchor, other, strict=True)))
            if other_label == label:
                positive = max(positive, distance)
            else:
                negative = min(negative, distance)
        total += max(positive - negative + margin, 0)
    return total / len(labels)


def naive_center(features: Array, centers: Array, labels: tuple[int, ...], scaling: str) -> float:
    """Eq. 5, or the version of the released code."""
    total = 0.0
    for feature, label in zip(features, labels, strict=True):
        total += sum((a - b) ** 2 for a, b in zip(feature, centers[label], strict=True))
    return total / 2 if scaling == "paper" else total / len(labels)


@pytest.mark.parametrize("epsilon", [0, 0.1, 0.5, 1])
@pytest.mark.parametrize("classes", [2, 7])
def test_id_loss_is_equation_3(epsilon: float, classes: int) -> None:
    labels = tuple(index % classes for index in range(9))
    values = draw(9, classes, scale=3)
    logits = torch.tensor(values, requires_grad=True)
    loss = id_loss(logits, torch.tensor(labels), epsilon)
    loss.backward()
    assert loss.item() == pytest.approx(naive_id(values, labels, epsilon), rel=1e-12)
    expected = finite_differences(lambda at: naive_id(at, labels, epsilon), values)
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), expected, atol=1e-8)


def test_smoothing_is_the_mixture_of_the_released_code() -> None:
    # (1 - eps) * onehot + eps / N is the same mixture.
    logits, label, epsilon = draw(1, 5), 3, 0.1
    probabilities = np.exp(logits[0]) / np.exp(logits[0]).sum()
    target = (1 - epsilon) * np.eye(5)[label] + epsilon / 5
    expected = -(target * np.log(probabilities)).sum()
    assert float(id_loss(torch.tensor(logits), torch.tensor([label]), epsilon)) == pytest.approx(expected, rel=1e-12)


def test_euclidean_is_not_squared() -> None:
    a, b = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 2.0]])
    expected = torch.tensor([[5.0, 10.0, 2.0], [0.0, 5.0, math.sqrt(13)]])
    torch.testing.assert_close(euclidean(a, b), expected, atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("margin", [0, 0.3, 1, 5])
@pytest.mark.parametrize("labels", [UNEVEN, FOUR_OF_EACH, PAIRS_AND_SINGLES])
def test_triplet_is_batch_hard(labels: tuple[int, ...], margin: float) -> None:
    values = draw(len(labels), 6, seed=len(labels))
    features = torch.tensor(values, requires_grad=True)
    loss = TripletLoss(margin)(features, torch.tensor(labels))
    loss.backward()
    expected = naive_triplet(values, labels, margin)
    assert expected > 0  # a loss of 0 would test nothing
    # The distance of an image to itself is 1e-6 instead of 0: the root needs a gradient.
    assert loss.item() == pytest.approx(expected, abs=1.1e-6)
    assert features.grad is not None
    gradient = finite_differences(lambda at: naive_triplet(at, labels, margin), values)
    np.testing.assert_allclose(features.grad.numpy(), gradient, atol=1e-7)


def test_triplet_ignores_the_order_of_the_batch() -> None:
    values, order = draw(len(UNEVEN), 5), np.random.default_rng(1).permutation(len(UNEVEN))
    labels, loss = torch.tensor(UNEVEN), TripletLoss(0.3)
    straight = loss(torch.tensor(values), labels)
    shuffled = loss(torch.tensor(values[order]), labels[torch.from_numpy(order)])
    assert shuffled.item() == pytest.approx(straight.item(), rel=1e-12)


def test_triplet_margin_defaults_to_the_papers() -> None:
    # Two identities on two points: positives at 0, negatives at 0.1, so the loss is the margin minus 0.1.
    features = torch.tensor([[0.0], [0.0], [0.1], [0.1]], dtype=torch.float64)
    assert float(TripletLoss()(features, torch.tensor([0, 0, 1, 1]))) == pytest.approx(0.2, abs=2e-6)


def test_triplet_is_zero_when_identities_are_further_apart_than_the_margin() -> None:
    labels = torch.tensor(FOUR_OF_EACH)
    features = torch.tensor(draw(16, 4, scale=0.01)) + 10 * nn.functional.one_hot(labels, 4)
    features.requires_grad_()
    loss = TripletLoss(0.3)(features, labels)
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert not features.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("labels", [(0, 0, 1, 1), (0, 1, 0, 1)], ids=["same identity", "different identities"])
def test_triplet_gradient_is_finite_when_two_images_are_identical(dtype: torch.dtype, labels: tuple[int, ...]) -> None:
    # Whole numbers, so that the distance is zero exactly and not by luck.
    values = draw(4, 64, scale=3).round()
    values[1] = values[0]
    features = torch.tensor(values, dtype=dtype, requires_grad=True)
    loss = TripletLoss(100)(features, torch.tensor(labels))
    loss.backward()
    assert loss.item() == pytest.approx(naive_triplet(values, labels, 100), rel=1e-6)
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert features.grad.any()


@pytest.mark.parametrize("scaling", ["authors", "paper"])
@pytest.mark.parametrize("labels", [(0, 0, 2, 2, 4, 4), (3, 3, 3, 3, 3, 0)])
def test_center_loss(scaling: str, labels: tuple[int, ...]) -> None:
    values, places = draw(6, 4), draw(5, 4, seed=1)
    loss = CenterLoss(5, 4, scaling=scaling).double()
    assert loss.centers.shape == (5, 4)
    loss.centers.data = torch.tensor(places)
    features = torch.tensor(values, requires_grad=True)
    result = loss(features, torch.tensor(labels))
    result.backward()
    assert result.item() == pytest.approx(naive_center(values, places, labels, scaling), rel=1e-12)
    assert features.grad is not None
    assert loss.centers.grad is not None
    by_feature = finite_differences(lambda at: naive_center(at, places, labels, scaling), values)
    by_center = finite_differences(lambda at: naive_center(values, at, labels, scaling), places)
    np.testing.assert_allclose(features.grad.numpy(), by_feature, atol=1e-7)
    np.testing.assert_allclose(loss.centers.grad.numpy(), by_center, atol=1e-7)
    assert not loss.centers.grad[1].any()  # not in the batch


def test_papers_center_loss_is_32_times_the_authors_at_batch_64() -> None:
    features, labels = torch.tensor(draw(64, 8)), torch.arange(64) % 16
    authors, paper = CenterLoss(16, 8), CenterLoss(16, 8, scaling="paper")
    paper.load_state_dict(authors.state_dict())
    assert paper(features, labels).item() == pytest.approx(32 * authors(features, labels).item(), rel=1e-6)


def test_centers_are_drawn_from_the_standard_normal() -> None:
    torch.manual_seed(0)
    centers = CenterLoss(200, 500).centers.detach()
    assert abs(float(centers.mean())) < 4 / math.sqrt(100_000)
    assert float(centers.std()) == pytest.approx(1, abs=0.01)


def step_once(recipe: Recipe) -> tuple[CenterLoss, Array, nn.Linear, dict[str, Array]]:
    """One update of a linear model with SGD at learning rate 1, which shows its gradient."""
    torch.manual_seed(3)
    model = nn.Linear(6, 4, bias=False, dtype=torch.float64)
    center = CenterLoss(5, 4, scaling=recipe.protocol).double()
    state = TrainingState(
        model,  # type: ignore[arg-type]
        center,
        torch.optim.SGD(model.parameters(), lr=1),
        torch.optim.SGD(center.parameters(), lr=recipe.center_lr),
        torch.amp.GradScaler("cpu", enabled=False),
    )
    images, labels = torch.tensor(draw(6, 6)), torch.tensor([0, 0, 0, 2, 4, 4])
    before = {"center": center.centers.detach().numpy().copy(), "model": model.weight.detach().numpy().copy()}
    features = model(images)
    other = features.square().sum()  # stands for the losses without centers
    loop.update_weights(state, other + recipe.center_weight * center(features, labels), recipe)
    before["images"] = images.numpy()
    return center, features.detach().numpy(), model, before


@pytest.mark.parametrize("protocol", ["authors", "paper"])
@pytest.mark.parametrize(("weight", "rate"), [(5e-4, 0.5), (0.1, 0.25)])
def test_a_step_moves_the_centers_by_the_gradient_of_the_unweighted_loss(
    protocol: str, weight: float, rate: float
) -> None:
    recipe = Recipe(protocol=protocol, center_weight=weight, center_lr=rate)
    center, features, model, before = step_once(recipe)
    labels = (0, 0, 0, 2, 4, 4)
    gradient, by_feature = np.zeros((5, 4)), 2 * features
    for row, label in enumerate(labels):
        pull = (features[row] - before["center"][label]) * (1 if protocol == "paper" else 2 / len(labels))
        gradient[label] -= pull
        by_feature[row] += weight * pull
    np.testing.assert_allclose(center.centers.detach().numpy(), before["center"] - rate * gradient, rtol=1e-10)
    # The network is trained with the weighted loss.
    np.testing.assert_allclose(
        model.weight.detach().numpy(), before["model"] - by_feature.T @ before["images"], rtol=1e-10
    )


def test_without_center_loss_the_centers_stay() -> None:
    center, _, _, before = step_once(Recipe(center_weight=0))
    np.testing.assert_array_equal(center.centers.detach().numpy(), before["center"])
