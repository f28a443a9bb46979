"""An index of an earlier model: it is searched by a later one, and its vectors are renewed piece by piece."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.random_gallery import (
    DIM,
    HEIGHT,
    SPACE,
    WIDTH,
    CountingModel,
    Vectors,
    check_like_naive,
    contract,
    draw,
    needs_milvus,
    project,
    random_unit_vectors,
)

from bot_deploy import gallery as galleries
from bot_deploy import images
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError, RunError
from bot_deploy.gallery import GalleryItem, LocalIndex, renewal

LATER = contract(fingerprint="fedcba9876543210", compatible_with=(SPACE,))
SHIFT = random_unit_vectors(np.random.default_rng(7), 1)[0] * 0.3


def later(vectors: Vectors) -> Vectors:
    """What the later model makes of the earlier one's vectors [N, D]."""
    moved = vectors + SHIFT
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), np.float32)


class LaterModel(CountingModel):
    def __call__(self, batch: Any) -> Vectors:
        return later(super().__call__(batch))


@pytest.fixture
def later_embedder() -> Embedder:
    return Embedder(LATER, "a later projection", LaterModel())


@pytest.fixture
def indexed(place: Path, crops: Path, embedder: Embedder) -> Path:
    """An index that the earlier model has made, with a broken file in it."""
    (crops / "0" / "broken.png").write_bytes(b"no image")
    with galleries.open_or_create_index(place, embedder.contract, crops) as index:
        galleries.index_folder(index, crops, embedder)
    return place


def rows_and_vectors(index: LocalIndex, renewed: set[str]) -> tuple[list[GalleryItem], Vectors]:
    """The items of `index`, and what their vectors must be if those at the paths `renewed` are of the later model."""
    rows = [item for item in index.items() if not item.error]
    early = np.stack([project(images.read_resized(index.root / row.path, (HEIGHT, WIDTH))) for row in rows])
    is_late = np.array([row.path in renewed for row in rows])[:, None]
    return rows, np.where(is_late, later(early), early).astype(np.float32)


def check_searches(index: LocalIndex, renewed: set[str]) -> None:
    rows, vectors = rows_and_vectors(index, renewed)
    for query in random_unit_vectors(np.random.default_rng(3), 2):
        check_like_naive(index, rows, vectors, query, len(rows))


def test_a_later_model_searches_the_vectors_as_they_are(indexed: Path, caplog: pytest.LogCaptureFixture) -> None:
    with galleries.open_index(indexed, LATER) as index:
        check_searches(index, set())
        assert index.outdated() == []
        assert index.embedding_space == SPACE
    assert "`bot index` with your model renews them" in caplog.text
    caplog.clear()
    galleries.open_index(indexed, contract()).close()
    assert not caplog.text


@pytest.mark.parametrize("other", [contract(fingerprint="fedcba9876543210"), dataclasses.replace(LATER, dim=DIM + 1)])
def test_any_other_model_is_refused(indexed: Path, other: Any) -> None:
    for opened in (galleries.open_index, lambda *given: galleries.open_or_create_index(*given, root=Path())):
        with pytest.raises(InputError, match="made by another model"):
            opened(indexed, other)  # type: ignore[operator]
    galleries.open_index(indexed, contract()).close()


def test_vectors_are_renewed_piece_by_piece_while_they_are_searched(
    indexed: Path, later_embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "FILES_PER_COMMIT", 50)
    reader = galleries.open_index(indexed, LATER)
    early_reader = galleries.open_index(indexed, contract())
    with galleries.open_or_create_index(indexed, LATER, Path()) as index:
        assert index.embedding_space == LATER.embedding_space
        paths = index.outdated()
        assert len(paths) == 120
        check_searches(index, set())  # nothing is lost by the change of the model
        replace, pieces = LocalIndex.replace_outdated, 0

        def stop(self: LocalIndex, *arguments: Any) -> int:
            nonlocal pieces
            check_searches(reader, set(paths[: 50 * pieces]))
            check_searches(early_reader, set(paths[: 50 * pieces]))
            pieces += 1
            if pieces == 2:
                raise RunError("killed")
            return replace(self, *arguments)

        monkeypatch.setattr(LocalIndex, "replace_outdated", stop)
        with pytest.raises(RunError, match="killed"):
            renewal.renew_vectors(index, later_embedder)
    monkeypatch.setattr(LocalIndex, "replace_outdated", replace)
    with pytest.raises(InputError, match="made by another model"):
        galleries.open_index(indexed, contract())  # the index is the later model's now
    with galleries.open_or_create_index(indexed, LATER, Path()) as index:
        assert index.outdated() == paths[50:]
        assert renewal.renew_vectors(index, later_embedder) == 70
        assert renewal.renew_vectors(index, later_embedder) == 0
        check_searches(index, set(paths))
        check_searches(reader, set(paths))
        assert len(index) == 120
        assert [item.path for item in index.broken()] == ["0/broken.png"]
    reader.close()
    early_reader.close()


def test_what_others_change_meanwhile_stays(indexed: Path, later_embedder: Embedder) -> None:
    early = galleries.open_or_create_index(indexed, contract(), Path())
    with galleries.open_or_create_index(indexed, LATER, Path()) as index:
        first, second, third, fourth, *others = index.outdated()
        items = {item.path: item for item in index.items()}
        index.update_metadata([items[first]._replace(identity="Ann")])
        index.remove([second])
        (index.root / third).unlink()
        (index.root / fourth).write_bytes(b"no image any more")
        # A process that still runs the earlier model enrols somebody.
        draw(index.root / "new.png", 500)
        early.add([GalleryItem("new.png", identity="Bob")], project_file(index.root / "new.png")[None])
        assert "new.png" in index.outdated()
        assert renewal.renew_vectors(index, later_embedder) == 118
        assert index.outdated() == sorted([third, fourth])
        found = {item.path: item for item in index.items()}
        assert found[first] == items[first]._replace(identity="Ann")
        assert found["new.png"].identity == "Bob"
        assert second not in found
        (index.root / third).write_bytes((index.root / others[0]).read_bytes())
        assert renewal.renew_vectors(index, later_embedder) == 1  # its file is back
    early.close()


def project_file(path: Path) -> Vectors:
    return project(images.read_resized(path, (HEIGHT, WIDTH)))


def test_index_folder_embeds_a_changed_file_once(indexed: Path, crops: Path, later_embedder: Embedder) -> None:
    model: Any = later_embedder
    with galleries.open_or_create_index(indexed, LATER, crops) as index:
        changed = index.outdated()[0]
        draw(crops / changed, 999)
        update = galleries.index_folder(index, crops, later_embedder)
        assert (update.new, update.changed, update.unchanged) == (0, 1, 120)
        assert changed not in index.outdated()
        assert renewal.renew_vectors(index, model) == 119


@needs_milvus
def test_a_milvus_collection_has_one_model(tmp_path: Path, crops: Path, embedder: Embedder) -> None:
    address = str(tmp_path / "people.db")
    with galleries.open_or_create_index(address, embedder.contract, crops) as index:
        galleries.index_folder(index, crops, embedder)
    with galleries.open_index(address, LATER) as index:
        assert len(index) == 120
        assert index.outdated() == []
    with pytest.raises(InputError, match="index again into another collection"):
        galleries.open_or_create_index(address, LATER, crops)
    galleries.open_index(address, contract()).close()
