"""`bot_deploy.train` as a package: its names, loaded when used, and what a call of `train` leaves unchanged."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from helpers.commands import run_python
from helpers.training_run import RECIPE, SIZE, assert_same_run

import bot_deploy.train as package
from bot_deploy.train import loop, losses, pseudo_labels, recipe

NAMES = ["CenterLoss", "Recipe", "TripletLoss", "load_recipe", "train", "train_unlabeled"]


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, bot_deploy.train; print(dir(bot_deploy.train)); print('torch' in sys.modules)"
    result = run_python("-c", code)
    assert result.stdout.splitlines() == [str(NAMES), "False"], result.stderr


def test_the_names_are_those_of_the_modules() -> None:
    assert package.__all__ == NAMES
    assert package.train is loop.train
    assert package.train_unlabeled is pseudo_labels.train_unlabeled
    assert package.Recipe is recipe.Recipe
    assert package.load_recipe is recipe.load_recipe
    assert (package.TripletLoss, package.CenterLoss) == (losses.TripletLoss, losses.CenterLoss)
    with pytest.raises(AttributeError, match=r"'bot_deploy\.train' has no attribute 'no_such_name'"):
        _ = package.no_such_name


@pytest.mark.usefixtures("one_thread_and_no_gpu")
def test_train_takes_files_and_leaves_the_process_as_it_was(
    finished: Path, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the library changed the allocator")

    torch.manual_seed(5)
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    before = torch.get_rng_state(), torch.get_num_threads()
    path = package.train(str(finished / "config.toml"), str(crops), str(tmp_path / "run"))
    assert path == tmp_path / "run" / "model.pt"
    assert torch.backends.cudnn.allow_tf32
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]
    monkeypatch.undo()
    assert_same_run(finished, tmp_path / "run")
    assert (RECIPE.height, RECIPE.width) == SIZE


def test_tf32_is_off_in_training_and_restored_after_an_error(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[bool] = []

    def fail(*_: object, **__: object) -> None:
        allowed.append(torch.backends.cudnn.allow_tf32)
        raise RuntimeError

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(loop, "create_state", fail)
    with pytest.raises(RuntimeError):
        package.train(RECIPE, crops, tmp_path / "run")
    assert allowed == [False]
    assert torch.backends.cudnn.allow_tf32
