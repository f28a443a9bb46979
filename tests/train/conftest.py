"""A few noise crops, and a finished run on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from helpers.training_run import CAMERAS, IDENTITIES, IMAGES, RECIPE, SIZE
from PIL import Image

from bot_deploy.datasets import Dataset, open_dataset
from bot_deploy.train import loop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def one_thread_and_no_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in Market-1501's layout: six identities to train on, three as query and gallery."""
    root, rng = tmp_path_factory.mktemp("crops"), np.random.default_rng(0)
    folders = {
        "bounding_box_train": range(1, IDENTITIES + 1),
        "query": range(11, 14),
        "bounding_box_test": range(11, 14),
    }
    for folder, identities in folders.items():
        (root / folder).mkdir()
        for identity in identities:
            for camera in range(1, CAMERAS + 1):
                for number in range(1 if folder == "query" else IMAGES):
                    pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(root / folder / f"{identity:04d}_c{camera}s1_{number:06d}_00.png")
    return root


@pytest.fixture(scope="module")
def data(crops: Path) -> Dataset:
    return open_dataset(crops)


@pytest.fixture(scope="module")
def finished(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of two epochs by RECIPE."""
    out = tmp_path_factory.mktemp("finished") / "deep" / "run"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        assert loop.train(RECIPE, data, out) == out / "model.pt"
    torch.set_num_threads(threads)
    return out
