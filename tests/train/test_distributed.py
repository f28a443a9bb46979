"""Two processes with half a batch each against one process with the whole batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.torchrun_rank import train_one_step
from PIL import Image

from bot_deploy.errors import InputError
from bot_deploy.train import distributed, loop
from bot_deploy.train.distributed import World
from bot_deploy.train.recipe import Recipe

RECIPE = {
    "arch": "resnet18",
    "weights": "none",
    "height": 32,
    "width": 16,
    "precision": "fp32",
    "identities_per_batch": 16,
    "images_per_identity": 4,
}


def torchrun(processes: int, *arguments: object) -> list[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*command, *(str(argument) for argument in arguments)]


@pytest.mark.slow
def test_two_ranks_of_32_are_one_of_64(tmp_path: Path) -> None:
    recipes = [{**RECIPE, "center_weight": center_weight} for center_weight in (5e-4, 0.0)]
    (tmp_path / "recipes.json").write_text(json.dumps(recipes))
    for number in range(7):
        Image.new("RGB", (2, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    result = subprocess.run(
        torchrun(2, "-m", "helpers.torchrun_rank", tmp_path), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    results = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for recipe, *ranks in zip(recipes, *results, strict=True):
        alone = train_one_step(Recipe(**recipe), World(0, 1, "cpu"))
        # Triplet and center loss are those of the whole batch on both ranks; the ID loss is that of half a batch.
        for rank in ranks:
            np.testing.assert_allclose(rank["values"][1:3], alone["values"][1:3], rtol=1e-5, atol=1e-6)
        both = (ranks[0]["values"] + ranks[1]["values"]) / 2
        np.testing.assert_allclose(both, alone["values"], rtol=1e-5, atol=1e-6)
        for key, gradient in alone["gradients"].items():
            for rank in ranks:
                np.testing.assert_allclose(rank["gradients"][key], gradient, rtol=1e-3, atol=1e-5, err_msg=key)
        assert torch.equal(ranks[0]["centers"], ranks[1]["centers"])
        np.testing.assert_allclose(ranks[0]["centers"], alone["centers"], rtol=1e-5, atol=1e-6)
    _check_shared_decoding([torch.load(tmp_path / f"crops{rank}.pt", weights_only=True) for rank in range(2)])


def _check_shared_decoding(ranks: list[Any]) -> None:
    """Each file was decoded by one rank, both have all crops, and both know of a file that only one has tried."""
    (first, broken_first), (second, broken_second) = ranks
    assert (first[0], second[0]) == (
        [f"{number}.png" for number in range(3)],
        [f"{number}.png" for number in range(3, 7)],
    )
    for _, crops in (first, second):
        assert crops.shape == (7, 4, 2, 3)
        assert crops[:, 0, 0, 0].tolist() == list(range(7))
    for _, message in (broken_first, broken_second):
        assert "1 training crops cannot be read" in message
        assert "none.png" in message


@pytest.mark.slow
def test_a_whole_run_under_torchrun(tmp_path: Path, people: Path) -> None:
    sets = ["arch=resnet18", "height=32", "width=16", "epochs=1", "p=4", "k=2", "precision=fp32", "weights=none"]
    arguments = [word for setting in sets for word in ("--set", setting)]
    out = tmp_path / "run"
    command = torchrun(2, "-m", "bot_deploy", "train", "--data", people, "--recipe", "quick", "--out", out, *arguments)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "2 x cpu" in result.stderr
    assert result.stderr.count("epoch   1") == 1  # only one process logs
    assert (out / "model.pt").is_file()
    assert len((out / "metrics.csv").read_text().splitlines()) == 2


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in (("RANK", "2"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="this machine has 2 GPUs, but this is process 3"):
        distributed.join_world()


def test_identities_that_cannot_be_split_are_refused() -> None:
    with pytest.raises(loop.InputError, match="identities_per_batch=15 cannot be split evenly between 2"):
        loop._check_identities(Recipe(identities_per_batch=15), 100, World(0, 2, "cpu"), "data")


@pytest.mark.parametrize("size", [1, 2, 4])
def test_shares_cover_the_batch_and_keep_identities_whole(size: int) -> None:
    labels = np.repeat(np.arange(8), 4)
    parts = [labels[World(rank, size, "cpu").share(32)] for rank in range(size)]
    assert np.array_equal(np.concatenate(parts), labels)
    assert sum(len(set(part.tolist())) for part in parts) == 8
