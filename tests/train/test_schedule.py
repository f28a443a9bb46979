"""The learning rate of each epoch against loops and tables computed by hand."""

from __future__ import annotations

import dataclasses

import pytest

from bot_deploy.train.recipe import Recipe, load_recipe
from bot_deploy.train.schedule import learning_rate

EPOCHS = range(1, 121)


def naive_rate(protocol: str, epoch: int) -> float:
    """3.5e-4, warmed up over 10 epochs, a tenth from the 40th and a hundredth from the 70th."""
    rate = 3.5e-4
    if protocol == "authors":
        if epoch < 10:
            rate *= 0.01 * (1 - epoch / 10) + epoch / 10
        if epoch >= 40:
            rate /= 10
        if epoch >= 70:
            rate /= 10
    else:
        if epoch <= 10:
            rate *= epoch / 10
        if epoch > 40:
            rate /= 10
        if epoch > 70:
            rate /= 10
    return rate


@pytest.mark.parametrize("protocol", ["authors", "paper"])
@pytest.mark.parametrize("source", ["defaults", "strong"])
def test_all_120_epochs(source: str, protocol: str) -> None:
    recipe = dataclasses.replace(Recipe() if source == "defaults" else load_recipe("strong"), protocol=protocol)
    assert recipe.epochs == 120
    rates = [learning_rate(epoch, recipe) for epoch in EPOCHS]
    assert rates == pytest.approx([naive_rate(protocol, epoch) for epoch in EPOCHS], rel=1e-12)


# Computed by hand.
AUTHORS = {1: 3.815e-5, 2: 7.28e-5, 5: 1.7675e-4, 9: 3.1535e-4, 10: 3.5e-4, 11: 3.5e-4, 39: 3.5e-4}
AUTHORS |= {40: 3.5e-5, 41: 3.5e-5, 69: 3.5e-5, 70: 3.5e-6, 71: 3.5e-6, 120: 3.5e-6}
PAPER = {1: 3.5e-5, 2: 7e-5, 5: 1.75e-4, 9: 3.15e-4, 10: 3.5e-4, 11: 3.5e-4, 39: 3.5e-4}
PAPER |= {40: 3.5e-4, 41: 3.5e-5, 69: 3.5e-5, 70: 3.5e-5, 71: 3.5e-6, 120: 3.5e-6}


@pytest.mark.parametrize(
    ("protocol", "epoch", "rate"),
    [("authors", *item) for item in AUTHORS.items()] + [("paper", *item) for item in PAPER.items()],
)
def test_rates_computed_by_hand(protocol: str, epoch: int, rate: float) -> None:
    assert learning_rate(epoch, Recipe(protocol=protocol)) == pytest.approx(rate, rel=1e-12)


def test_the_authors_protocol_is_the_default() -> None:
    assert learning_rate(40, Recipe()) == pytest.approx(3.5e-5)


@pytest.mark.parametrize("protocol", ["authors", "paper"])
def test_no_warmup(protocol: str) -> None:
    recipe = Recipe(protocol=protocol, warmup_epochs=0)
    assert [learning_rate(epoch, recipe) for epoch in range(1, 40)] == [3.5e-4] * 39
    assert learning_rate(80, recipe) == pytest.approx(3.5e-6)


@pytest.mark.parametrize("protocol", ["authors", "paper"])
def test_no_milestones(protocol: str) -> None:
    recipe = Recipe(protocol=protocol, milestones=())
    assert [learning_rate(epoch, recipe) for epoch in range(10, 121)] == [3.5e-4] * 111
    assert learning_rate(3, recipe) == pytest.approx(naive_rate(protocol, 3), rel=1e-12)


@pytest.mark.parametrize(("protocol", "rates"), [("authors", (1, 0.2, 0.2, 0.04)), ("paper", (1, 1, 0.2, 0.2))])
def test_every_key_changes_the_rate(protocol: str, rates: tuple[float, ...]) -> None:
    recipe = Recipe(protocol=protocol, lr=1, gamma=0.2, warmup_epochs=2, milestones=(4, 6))
    assert [learning_rate(epoch, recipe) for epoch in (3, 4, 5, 6)] == pytest.approx(rates)
    first = 0.01 * 0.5 + 0.5 if protocol == "authors" else 0.5
    assert learning_rate(1, recipe) == pytest.approx(first)
