"""Each kind of store, and a folder of crops."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from crowds import Counting, contract, draw, needs_faiss, needs_milvus

from bot_deploy.embedder import Embedder
from bot_deploy.gallery import search

STORES = [
    "numpy",
    pytest.param("faiss", marks=needs_faiss),
    pytest.param("milvus", marks=needs_milvus),
]


@pytest.fixture(params=STORES)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(search, "FAISS_FROM", 0 if request.param == "faiss" else sys.maxsize)
    return str(request.param)


@pytest.fixture
def address(kind: str, tmp_path: Path) -> str:
    return str(tmp_path / ("people.db" if kind == "milvus" else "people.gallery"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "people.gallery"


@pytest.fixture
def model() -> Counting:
    return Counting()


@pytest.fixture
def embedder(model: Counting) -> Embedder:
    return Embedder(contract(), "a projection", model)


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    for number in range(120):
        draw(tmp_path / "crops" / f"{number % 3}" / f"{number:04d}_c{number % 4}s1_{number * 10:06d}_00.bmp", number)
    return tmp_path / "crops"
