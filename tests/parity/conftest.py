"""Fixtures of the tests of exported graphs: crops, and an export that is prepared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bot_deploy.datasets import open_dataset
from bot_deploy.export import parity
from bot_deploy.export.pipeline import ExportContext, prepare_export

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.images import Pixels


@pytest.fixture(scope="module")
def crops(people: Path) -> Pixels:
    return parity.sample_crops(open_dataset(people), (128, 64), 24)


@pytest.fixture(scope="module")
def context(checkpoint_file: Path, people: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportContext:
    return prepare_export(checkpoint_file, tmp_path_factory.mktemp("artifacts"), open_dataset(people))
