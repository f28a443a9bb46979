"""A recipe for a few noise crops, and comparisons of two runs bit by bit."""

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
    arch="mobilenet_v2",  # small files, and the layers of cpu_layers.py
    weights="none",
    height=SIZE[0],
    width=SIZE[1],
    epochs=2,
    precision="fp32",
    identities_per_batch=3,
    images_per_identity=2,
    warmup_epochs=2,
    milestones=(),
    padding=2,
)


def read_metrics(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def metrics_without_time(out: Path) -> list[dict[str, str]]:
    """metrics.csv without the columns of time."""
    time_columns = {"seconds", "images_per_second"}
    return [{key: value for key, value in row.items() if key not in time_columns} for row in read_metrics(out)]


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Every leaf of nested dictionaries and lists."""
    if isinstance(value, dict):
        return {key: leaf for k, v in value.items() for key, leaf in flatten(v, f"{name}/{k}").items()}
    if isinstance(value, list | tuple):
        return {key: leaf for k, v in enumerate(value) for key, leaf in flatten(v, f"{name}/{k}").items()}
    return {name: value}


def same_weights(first: Path, second: Path) -> bool:
    states = [checkpoint.load(run / "model.pt").state for run in (first, second)]
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


def assert_same_run(first: Path, second: Path) -> None:
    """Weights, optimisers, centers and metrics are equal to the last bit."""
    assert same_weights(first, second)
    states = [flatten(torch.load(run / "state.pt", weights_only=True)) for run in (first, second)]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, states[1][key]), key
        elif not key.endswith(("seconds", "images_per_second")):
            assert value == states[1][key], key
    assert metrics_without_time(first) == metrics_without_time(second)
