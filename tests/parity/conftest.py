"""Crops for the tests of exported graphs, and a data set for exports that are not about their scores."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bot_deploy.datasets import open_dataset
from bot_deploy.export import parity

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.datasets import Dataset
    from bot_deploy.images import Pixels


@pytest.fixture(scope="session")
def crops(people: Path) -> Pixels:
    return parity.sample_crops(open_dataset(people), (64, 32), 24)


@pytest.fixture(scope="session")
def small_set(few_people: Path) -> Dataset:
    """Crops to train on, of four people."""
    return replace(open_dataset(few_people), query=(), gallery=())
