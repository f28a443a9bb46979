"""Distillation: the losses against naive loops, the batches, and whole runs with a teacher."""

from __future__ import annotations

import dataclasses
import math
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import training_run

from bot_deploy.artifacts import checkpoint, read_contract
from bot_deploy.datasets import open_dataset
from bot_deploy.errors import InputError, RunError
from bot_deploy.train import loop, run_files
from bot_deploy.train.distillation import direction_loss, draw_unlabeled, embed_with_teacher, relation_loss
from bot_deploy.train.distributed import World
from bot_deploy.train.losses import TripletLoss, id_loss
from bot_deploy.train.recipe import Recipe
from bot_deploy.train.state import create_state
from bot_deploy.train.unlabeled import open_unlabeled

ALONE = World(0, 1, "cpu")
RECIPE = dataclasses.replace(training_run.RECIPE, warmup_epochs=0, unlabeled_batch=4)


def cosine(a: Any, b: Any) -> float:
    """The cosine of two lists of numbers."""
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return float(dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b)))


def test_relation_loss_is_its_formula() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    total = 0.0
    for i in range(5):
        for j in range(5):
            if i != j:
                s = cosine(student[i].tolist(), student[j].tolist())
                t = cosine(teacher[i].tolist(), teacher[j].tolist())
                total += (s - t) ** 2
    assert float(relation_loss(student, teacher)) == pytest.approx(total / (5 * 4), rel=1e-12)
    # A rotation and a length of the teacher's vectors change nothing.
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    assert float(relation_loss(teacher @ rotation * 9, teacher)) == pytest.approx(0, abs=1e-20)


def test_direction_loss_is_its_formula() -> None:
    torch.manual_seed(1)
    projected, teacher = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    expected = sum(1 - cosine(a.tolist(), b.tolist()) for a, b in zip(projected, teacher, strict=True)) / 4
    assert float(direction_loss(projected, teacher)) == pytest.approx(expected, rel=1e-12)
    assert float(direction_loss(3 * teacher, teacher)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("count", "batches", "size"), [(10, 3, 4), (3, 4, 5), (5, 0, 4), (0, 3, 4), (7, 2, 0)])
def test_each_unlabelled_crop_comes_as_often_as_any_other(count: int, batches: int, size: int) -> None:
    drawn = draw_unlabeled(count, batches, size, np.random.default_rng(0))
    assert drawn.shape == (batches, size if count else 0)
    if drawn.size:
        often = np.bincount(drawn.ravel(), minlength=count)
        assert often.max() - often.min() <= 1


def step_losses(recipe: Recipe) -> tuple[Any, Any, Any, Any]:
    """The state before a step, its network's outputs, and what the step returned."""
    torch.manual_seed(2)
    pixels, labels = torch.randn(10, 3, 32, 16), torch.tensor([0, 0, 1, 1, 2, 2])
    teacher = torch.nn.functional.normalize(torch.randn(10, 5), dim=1)
    state = create_state(recipe, 3, "cpu", 5)
    again = create_state(recipe, 3, "cpu", 5)
    outputs = again.model.train()(pixels)
    values = loop.train_step(state, pixels, labels, recipe, ALONE, None, teacher)
    return again, (*outputs, labels, teacher), state, values


def test_the_loss_of_a_step_is_the_weighted_sum() -> None:
    recipe = dataclasses.replace(
        RECIPE, label_weight=0.3, relation_weight=2.0, direction_weight=0.7, label_smoothing=0.1
    )
    before, (f_t, f_i, logits, labels, teacher), after, values = step_losses(recipe)
    # The paper's losses see the labelled images only; the teacher's all.
    expected = [
        id_loss(logits[:6], labels, 0.1),
        TripletLoss(recipe.margin)(f_t[:6], labels),
        before.center(f_t[:6], labels),
        relation_loss(f_i, teacher),
        direction_loss(before.projection(f_i), teacher),
    ]
    shown = [values[0], values[1], values[2], values[4], values[5]]
    torch.testing.assert_close(torch.stack(shown), torch.stack(expected).detach(), atol=1e-5, rtol=1e-5)
    total = 0.3 * (expected[0] + expected[1] + recipe.center_weight * expected[2]) + 2 * expected[3] + 0.7 * expected[4]
    loop.update_weights(before, total, dataclasses.replace(recipe, center_weight=0.3 * recipe.center_weight))
    # Gradients and not weights: Adam's first step has the same size for every gradient, rounding errors included.
    expected_gradient, gradient = (
        torch.cat([p.grad.ravel() for p in state.model.parameters() if p.grad is not None]) for state in (before, after)
    )
    assert float((gradient - expected_gradient).norm() / expected_gradient.norm()) < 1e-3
    # The centers move by the gradient of their unweighted loss, whatever the weights are.
    torch.testing.assert_close(after.center.centers, before.center.centers)
    torch.testing.assert_close(after.projection.weight.grad, before.projection.weight.grad, atol=1e-5, rtol=1e-3)


def test_labels_can_be_switched_off() -> None:
    recipe = dataclasses.replace(RECIPE, label_weight=0.0)
    before, _, after, _ = step_losses(recipe)
    assert torch.equal(before.center.centers, after.center.centers)
    decay_only = (after.model.classifier.weight - before.model.classifier.weight).detach().abs().max()
    assert float(decay_only) <= recipe.lr * 1.01  # Adam's step from weight decay alone


def test_the_same_seed_gives_the_same_network_with_and_without_a_teacher() -> None:
    with_teacher, without = create_state(RECIPE, 6, "cpu", 16), create_state(RECIPE, 6, "cpu")
    for name, value in without.model.state_dict().items():
        assert torch.equal(value, with_teacher.model.state_dict()[name])
    assert torch.equal(without.center.centers, with_teacher.center.centers)


@pytest.fixture(scope="module")
def data(people: Path) -> Any:
    dataset = open_dataset(people)
    return dataclasses.replace(dataset, query=(), gallery=())


@pytest.fixture(scope="module")
def pictures(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of crops without identities."""
    folder = tmp_path_factory.mktemp("unlabelled")
    for number, file in enumerate(sorted((people / "bounding_box_test").glob("*.jpg"))[:13]):
        shutil.copy(file, folder / f"{number:05d}.jpg")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def weights_of(run: Path) -> Any:
    return checkpoint.load(run / "model.pt").state


def test_a_run_with_a_teacher(data: Any, pictures: Path, checkpoint_file: Path, tmp_path: Path) -> None:
    loop.train(RECIPE, data, tmp_path / "run", teacher=checkpoint_file, unlabelled=[pictures])
    metrics = run_files.read_config(tmp_path / "run")
    assert (metrics.teacher, metrics.unlabelled) == (str(checkpoint_file), (str(pictures),))
    contract = read_contract(tmp_path / "run" / "model.pt")
    assert contract.teacher == f"resnet18 {read_contract(checkpoint_file).embedding_space}"
    assert contract.unlabelled == (pictures.name,)
    assert not any("projection" in key for key in weights_of(tmp_path / "run"))
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text(encoding="utf-8"))
    assert config["data"]["unlabelled_crops"] == 13
    loop.train(RECIPE, data, tmp_path / "alone")
    assert read_contract(tmp_path / "alone" / "model.pt").teacher == ""
    guided, alone = weights_of(tmp_path / "run"), weights_of(tmp_path / "alone")
    assert not torch.equal(guided["classifier.weight"], alone["classifier.weight"])


def test_the_student_comes_nearer_to_the_teacher(data: Any, checkpoint_file: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        RECIPE, epochs=6, label_weight=0.0, lr=1e-3, flip_probability=0, padding=0, erasing_probability=0
    )
    state = create_state(recipe, 8, "cpu", 512)
    targets = embed_with_teacher(checkpoint_file, data.train, (), ())
    crops = loop._open_crops(recipe, data, ALONE, loop.Guidance(targets))
    epochs = [loop.train_epoch(state, crops[0], recipe, ALONE) for _ in range(6)]
    cosines = [epoch.teacher_cosine for epoch in epochs]
    assert cosines[-1] > cosines[0] + 0.2  # type: ignore[operator]


def test_a_resumed_run_is_bit_identical(
    data: Any, pictures: Path, checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(
        RECIPE,
        height=64,
        width=32,
        small_epochs=2,
        epochs=3,
        color_jitter=0.3,
        grayscale_probability=0.2,
        jpeg_probability=0.5,
    )
    options: dict[str, Any] = {"teacher": checkpoint_file, "unlabelled": [pictures]}
    loop.train(recipe, data, tmp_path / "whole", **options)
    step, steps = loop.train_step, 0

    def crash(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 10:
            raise RunError("killed")
        return step(*arguments)

    monkeypatch.setattr(loop, "train_step", crash)
    with pytest.raises(RunError, match="killed"):
        loop.train(recipe, data, tmp_path / "stopped", **options)
    monkeypatch.setattr(loop, "train_step", step)
    moved = shutil.copytree(pictures, tmp_path / "elsewhere")
    loop.train(recipe, data, tmp_path / "stopped", teacher=checkpoint_file, unlabelled=[moved], resume=True)
    whole, resumed = weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped")
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
    assert read_contract(tmp_path / "whole" / "model.pt").size == (64, 32)


def test_another_teacher_or_other_unlabelled_crops_do_not_resume(
    data: Any, pictures: Path, checkpoint_file: Path, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=1)
    loop.train(recipe, data, tmp_path / "run", teacher=checkpoint_file, unlabelled=[pictures])
    more = dataclasses.replace(recipe, epochs=2)
    for options in ({}, {"teacher": checkpoint_file}):
        with pytest.raises(
            InputError, match=r"the teacher, the earlier model or the unlabelled|not the state of this run"
        ):
            loop.train(more, data, tmp_path / "run", resume=True, **options)  # type: ignore[arg-type]


def test_small_epochs_have_half_the_size() -> None:
    recipe = dataclasses.replace(RECIPE, height=256, width=128, padding=10, small_epochs=2)
    sizes = [(r.height, r.width, r.padding) for r in (loop.recipe_of_epoch(recipe, epoch) for epoch in (1, 2, 3))]
    assert sizes == [(128, 64, 5), (128, 64, 5), (256, 128, 10)]


def test_unlabelled_data(pictures: Path, tmp_path: Path) -> None:
    crops = open_unlabeled([str(pictures), str(pictures)])
    assert len(crops) == 26
    assert len({crop.camera for crop in crops}) == 26
    with pytest.raises(InputError, match="no such folder"):
        open_unlabeled([str(tmp_path / "none")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images in it"):
        open_unlabeled([str(tmp_path / "empty")])


def test_unlabelled_data_need_a_teacher(data: Any, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="need a teacher"):
        loop.train(RECIPE, data, tmp_path / "run", unlabelled=[pictures])
