"""Fixtures for galleries: an address for each kind of index, a counting model, a folder of crops."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.random_gallery import CountingModel, contract, draw, needs_faiss, needs_milvus

from bot_deploy.embedder import Embedder
from bot_deploy.gallery import search

SERVER = os.environ.get("BOT_MILVUS", "")  # host:port of a Milvus server to test against too
needs_server = pytest.mark.skipif(not SERVER, reason="needs a Milvus server; name it as BOT_MILVUS=host:port")
INDEXES = [
    "numpy",
    pytest.param("faiss", marks=needs_faiss),
    pytest.param("milvus", marks=needs_milvus),  # in a file
    pytest.param("server", marks=[needs_milvus, needs_server]),
]


@pytest.fixture(params=INDEXES)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(search, "FAISS_MIN_VECTORS", 0 if request.param == "faiss" else sys.maxsize)
    return str(request.param)


@pytest.fixture
def address(kind: str, tmp_path: Path) -> Iterator[str]:
    if kind != "server":
        yield str(tmp_path / ("people.db" if kind == "milvus" else "people.gallery"))
        return
    from pymilvus import MilvusClient

    name = f"test_{uuid.uuid4().hex}"
    yield f"milvus://{SERVER}/{name}"
    client = MilvusClient(f"http://{SERVER}")
    client.drop_collection(name)
    client.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "people.gallery"


@pytest.fixture
def model() -> CountingModel:
    return CountingModel()


@pytest.fixture
def embedder(model: CountingModel) -> Embedder:
    return Embedder(contract(), "a projection", model)


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    for number in range(120):
        draw(tmp_path / "crops" / f"{number % 3}" / f"{number:04d}_c{number % 4}s1_{number * 10:06d}_00.bmp", number)
    return tmp_path / "crops"
