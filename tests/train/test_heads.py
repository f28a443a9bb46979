"""Heads that fit the initial weights: means and regression against naive computations, and what they do to a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import training_run

from bot_deploy.datasets import open_dataset
from bot_deploy.train import heads, loop
from bot_deploy.train.data import open_training_set
from bot_deploy.train.distributed import ALONE
from bot_deploy.train.heads import LOGIT_SCALES, best_scale, fit_heads, mean_of_each, ridge_regression, some_of_each
from bot_deploy.train.losses import id_loss
from bot_deploy.train.recipe import Recipe
from bot_deploy.train.state import TrainingState, create_state
from bot_deploy.train.weights import know_people

RECIPE = dataclasses.replace(training_run.RECIPE, epochs=1, warmup_epochs=0)


@pytest.fixture(scope="module")
def data(few_people: Path) -> Any:
    return dataclasses.replace(open_dataset(few_people), query=(), gallery=())


@pytest.fixture(scope="module")
def earlier_run(data: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose checkpoint later ones start from."""
    return loop.train(dataclasses.replace(RECIPE, seed=3), data, tmp_path_factory.mktemp("earlier") / "run")


def a_state(data: Any, recipe: Recipe = RECIPE, teacher_dim: int = 0) -> TrainingState:
    return create_state(recipe, len({crop.identity for crop in data.train}), "cpu", teacher_dim)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.cosine_similarity(a, b).mean())


def test_the_mean_of_each_identity() -> None:
    vectors = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    labels = [1, 0, 1, 2, 0, 1]
    expected = [np.mean([vector for vector, own in zip(vectors, labels, strict=True) if own == k], 0) for k in range(3)]
    np.testing.assert_allclose(mean_of_each(torch.from_numpy(vectors), torch.tensor(labels)), expected, atol=1e-6)


def test_some_crops_of_each_identity() -> None:
    labels = np.array([0, 1] * 3 + [1] * 20)
    rows = some_of_each(labels)
    assert [row for row in rows if labels[row] == 0] == [0, 2, 4]
    own = np.flatnonzero(labels == 1)
    assert [row for row in rows if labels[row] == 1] == [own[index] for index in (0, 2, 5, 8, 11, 14, 17, 20)]
    assert list(rows) == sorted(rows)


def test_the_scale_has_the_lowest_loss_of_all() -> None:
    torch.manual_seed(0)
    labels = torch.arange(20) % 5
    logits = torch.nn.functional.one_hot(labels, 5) + 0.2 * torch.randn(20, 5)
    best = best_scale(logits, labels, 0.1)
    assert LOGIT_SCALES[0] < best < LOGIT_SCALES[-1]
    assert all(id_loss(best * logits, labels, 0.1) <= id_loss(scale * logits, labels, 0.1) for scale in LOGIT_SCALES)


def test_the_regression_finds_a_linear_map_again() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(4, 6))
    sources = rng.normal(size=(300, 6))
    targets = sources / np.linalg.norm(sources, axis=1, keepdims=True) @ truth.T
    found = ridge_regression(torch.from_numpy(5 * sources), torch.from_numpy(targets))
    np.testing.assert_allclose(found, truth, atol=0.01)


def test_the_heads_are_the_means_of_what_the_network_gives(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "CROPS_EACH", len(data.train))
    recipe = dataclasses.replace(RECIPE, weights="box")
    state = a_state(data, recipe, teacher_dim=8)
    network = {key: value.clone() for key, value in state.model.state_dict().items() if "classifier" not in key}
    labelled = open_training_set(data.train, (32, 16))
    state.model.eval()
    mean, std = torch.tensor(state.model.mean).view(3, 1, 1), torch.tensor(state.model.std).view(3, 1, 1)
    pixels = (labelled.pixels(np.arange(len(labelled.crops))).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        embeddings = state.model(pixels)
        features = state.model.backbone(pixels).mean((2, 3))
    torch.manual_seed(4)
    teacher = torch.nn.functional.normalize(embeddings @ torch.randn(state.model.dim, 8))
    labelled = dataclasses.replace(labelled, teacher=teacher)
    length_before = float(state.projection.weight.detach().norm())  # type: ignore[union-attr]
    fit_heads(state, labelled, None, recipe, ALONE)

    for label in range(labelled.num_ids):
        rows = [row for row, own in enumerate(labelled.labels) if own == label]
        torch.testing.assert_close(state.center.centers[label], features[rows].mean(0), atol=1e-4, rtol=1e-4)
        direction = torch.nn.functional.normalize(embeddings[rows]).mean(0)
        weight = state.model.classifier.weight[label]
        assert cosine(weight.detach()[None], direction[None]) == pytest.approx(1, abs=1e-5)
    assert float(state.projection.weight.detach().norm()) == pytest.approx(length_before, rel=1e-5)  # type: ignore[union-attr]
    unfitted = a_state(data, teacher_dim=8).projection
    near, far = (cosine(p(embeddings).detach(), teacher) for p in (state.projection, unfitted))  # type: ignore[misc]
    assert near > 0.9 > far
    for key, value in network.items():
        assert torch.equal(value, state.model.state_dict()[key]), key


def test_a_run_from_weights_of_reid_starts_better_than_with_random_heads(data: Any, earlier_run: Path) -> None:
    recipe = dataclasses.replace(RECIPE, weights=str(earlier_run), lr=1e-6)
    losses = {}
    for fit in (True, False):
        out = earlier_run.parents[1] / f"fit-{fit}"
        loop.train(dataclasses.replace(recipe, fit_heads=fit), data, out)
        row = training_run.read_metrics(out)[0]
        losses[fit] = float(row["id_loss"]), float(row["center_loss"])
    assert losses[True][0] < losses[False][0]
    assert losses[True][1] < losses[False][1] / 2


@pytest.mark.parametrize(("weights", "expected"), [("none", False), ("imagenet", False), ("box", True)])
def test_which_weights_know_people(weights: str, expected: bool) -> None:
    assert know_people(weights) is expected


def test_a_backbone_of_torchvision_does_not_know_people(tmp_path: Path, data: Any) -> None:
    state = {key.removeprefix("backbone."): value for key, value in a_state(data).model.backbone.state_dict().items()}
    torch.save(state, tmp_path / "backbone.pth")
    assert not know_people(str(tmp_path / "backbone.pth"))
    loop.train(dataclasses.replace(RECIPE, weights=str(tmp_path / "backbone.pth")), data, tmp_path / "run")
