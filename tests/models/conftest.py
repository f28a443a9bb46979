"""A server of small models in place of those on the internet."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from helpers.model_server import serve_models

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from helpers.model_server import ModelServer


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    """A server, and an empty folder of models."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("BOT_OFFLINE", raising=False)
    monkeypatch.setenv("BOT_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serve_models() as running:
        yield running
