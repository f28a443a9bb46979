"""A recipe for a handful of noise crops, and whether two runs are the same to the last bit."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

from bot_deploy.artifacts import checkpoint
from bot_deploy.train.recipe import Recipe

IDENTITIES, CAMERAS, IMAGES = 6, 2, 3
SIZE = (32, 16)
RECIPE = Recipe(
    arch="mobilenet_v2",  # small files, and the convolution of its own
    weights="none",
    height=SIZE[0],
    width=SIZE[1],
    epochs=2,
    precision="fp32",
    p=3,
    k=2,
    warmup_epochs=2,
    milestones=(),
    pad=2,
)


def table(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def measured(out: Path) -> list[dict[str, str]]:
    """metrics.csv without what the clock says."""
    clock = {"seconds", "images_per_second"}
    return [{key: value for key, value in row.items() if key not in clock} for row in table(out)]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every leaf of nested dictionaries and lists."""
    if isinstance(value, dict):
        return {key: leaf for k, v in value.items() for key, leaf in flat(v, f"{name}/{k}").items()}
    if isinstance(value, list | tuple):
        return {key: leaf for k, v in enumerate(value) for key, leaf in flat(v, f"{name}/{k}").items()}
    return {name: value}


def same_weights(one: Path, other: Path) -> bool:
    states = [checkpoint.load(run / "model.pt").state for run in (one, other)]
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimisers, centers and metrics are equal to the last bit."""
    assert same_weights(one, other)
    states = [flat(torch.load(run / "state.pt", weights_only=True)) for run in (one, other)]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, states[1][key]), key
        elif not key.endswith(("seconds", "images_per_second")):
            assert value == states[1][key], key
    assert measured(one) == measured(other)
