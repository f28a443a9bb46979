"""Random items and vectors of a gallery, plain searches to compare with, and a model that projects pixels."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bot_deploy import gallery as galleries
from bot_deploy.artifacts.contract import Contract
from bot_deploy.gallery import GalleryItem, LocalIndex

if TYPE_CHECKING:
    from collections.abc import Callable

DIM = 12
SPACE = "0123456789abcdef-fi"
HEIGHT, WIDTH = 16, 8
MATRIX = np.random.default_rng(0).normal(size=(HEIGHT * WIDTH * 3, DIM))
Vectors = npt.NDArray[np.float32]

needs_faiss = pytest.mark.skipif(find_spec("faiss") is None, reason="needs FAISS, of the extra `scale`")
needs_milvus = pytest.mark.skipif(
    find_spec("pymilvus") is None or find_spec("milvus_lite") is None,
    reason="needs pymilvus and milvus-lite, of the extra `scale`",
)


def open_test_index(address: str, dim: int = DIM, root: Path | None = None) -> Any:
    made = (SPACE, dim, root or Path("/people"))
    return galleries.MilvusIndex(address, *made) if galleries.is_milvus(address) else LocalIndex(Path(address), *made)


def random_unit_vectors(rng: np.random.Generator, count: int, dim: int = DIM) -> Vectors:
    vectors = rng.normal(size=(count, dim))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def random_items(count: int, seed: int = 0) -> tuple[list[GalleryItem], Vectors]:
    """Items of which some lack a camera or a time, and some are no image; and their vectors."""
    rng = np.random.default_rng(seed)
    rows = [
        GalleryItem(
            f"{number % 7}/{number:04d}.jpg",
            size=number,
            stamp=10**18 + number,
            digest=number.to_bytes(8, "big"),
            identity=None if number % 5 == 0 else f"person {number % 9}",
            camera=None if number % 6 == 0 else int(rng.integers(0, 4)),
            time=None if number % 4 == 0 else float(rng.integers(0, 100)),
            error="corrupt" if number % 11 == 3 else "",
        )
        for number in range(count)
    ]
    return rows, random_unit_vectors(rng, count)


def naive(
    rows: list[GalleryItem], vectors: Vectors, query: Vectors, keep: Callable[[GalleryItem], bool] = lambda _: True
) -> list[tuple[float, str]]:
    """(cosine, path) of every row that may be found, best first."""
    scored = []
    for row, vector in zip(rows, vectors.astype(np.float64), strict=True):
        if not row.error and keep(row):
            dot = sum(float(a) * float(b) for a, b in zip(vector, query, strict=True))
            scored.append((dot / float(np.sqrt((vector**2).sum())), row.path))
    return sorted(scored, key=lambda pair: (-pair[0], pair[1].split("/")))


def as_stored(gallery: Any, vectors: Vectors) -> Any:
    """`vectors` as `gallery` rounds them."""
    return vectors if isinstance(gallery, galleries.MilvusIndex) else vectors.astype(np.float16)


def filter_predicate(**filters: Any) -> Callable[[GalleryItem], bool]:
    def keep(row: GalleryItem) -> bool:
        if filters.get("cameras") is not None and row.camera not in filters["cameras"]:
            return False
        if filters.get("exclude_cameras") is not None and row.camera in filters["exclude_cameras"]:
            return False
        if filters.get("since") is not None and (row.time is None or row.time < filters["since"]):
            return False
        return filters.get("until") is None or (row.time is not None and row.time <= filters["until"])

    return keep


def check_like_naive(
    gallery: Any, rows: list[GalleryItem], vectors: Vectors, query: Vectors, top: int, **filters: Any
) -> None:
    expected = naive(rows, as_stored(gallery, vectors), query, filter_predicate(**filters))[:top]
    found = gallery.search(query, top, **filters)
    assert [one.item.path for one in found] == [path for _, path in expected]
    assert [one.score for one in found] == pytest.approx([score for score, _ in expected], abs=2e-6)
    by_path = {row.path: row for row in rows}
    assert all(one.item == by_path[one.item.path] for one in found)


def contract(**changes: Any) -> Contract:
    fields = {"arch": "projection", "height": 16, "width": 8, "dim": DIM, "fingerprint": SPACE[:16], **changes}
    return Contract(**fields)


# ---- pictures ----


def project(pixels: npt.NDArray[np.uint8]) -> Vectors:
    vector = (pixels.reshape(-1).astype(np.float64) - 127) @ MATRIX
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


class CountingModel:
    """A model that counts the images it is given."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, batch: npt.NDArray[np.uint8]) -> Vectors:
        self.images += len(batch)
        return np.stack([project(pixels) for pixels in batch])

    def take_count(self) -> int:
        self.images, images = 0, self.images
        return images


def draw(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def draw_people(root: Path, people: list[str], name: str = "c{camera}_{shot}.png") -> Path:
    """Draws nine crops of each of `people`, from three cameras, below `root`/test; returns `root`."""
    for number, person in enumerate(people):
        for camera in range(1, 4):
            for shot in range(3):
                path = root / "test" / person / name.format(camera=camera, shot=shot)
                draw(path, 100 * number + 10 * camera + shot)
    return root
