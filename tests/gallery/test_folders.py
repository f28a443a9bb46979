"""A gallery and its folders: another folder, a moved one, a second one; several threads; a damaged or foreign cache."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.random_gallery import (
    SPACE,
    CountingModel,
    check_like_naive,
    contract,
    draw,
    needs_milvus,
    open_test_index,
    project,
    random_items,
    random_unit_vectors,
)

from bot_deploy import gallery as galleries
from bot_deploy import images
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError, RunError
from bot_deploy.gallery import database


def paths_of(gallery: Any) -> set[Path]:
    """Where the files of the gallery are."""
    return {(gallery.root / item.path).resolve() for item in gallery.items()}


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A second folder, with the names and sizes of the first and other people."""
    for number in range(120):
        name = f"{number % 3}/{number:04d}_c{number % 4}s1_{number * 10:06d}_00.bmp"
        draw(tmp_path / "other" / name, 5000 + number)
    draw(tmp_path / "other" / "zoe" / "9.bmp", 6000)
    return tmp_path / "other"


def test_another_folder_drops_nobody_without_a_word(
    address: str, crops: Path, other: Path, embedder: Embedder, tmp_path: Path
) -> None:
    few = tmp_path / "few"
    draw(few / "a.bmp", 1)
    with open_test_index(address, root=crops) as gallery:
        galleries.index_folder(gallery, crops, embedder)
        for folder in (other, few):
            with pytest.raises(
                InputError, match=r"120 images of .*`bot index --add` keeps .*`bot index --replace` drops"
            ):
                galleries.index_folder(gallery, folder, embedder)
        assert (paths_of(gallery), gallery.root) == (set(images.find_images(crops)), crops)
        assert galleries.index_folder(gallery, other, embedder, replace=True).new <= 121
        assert (paths_of(gallery), gallery.root) == (set(images.find_images(other)), other)


def test_a_second_folder_is_added_and_each_is_updated_alone(
    address: str, crops: Path, other: Path, embedder: Embedder, model: CountingModel
) -> None:
    both = {*images.find_images(crops), *images.find_images(other)}
    with open_test_index(address, root=crops) as gallery:
        galleries.index_folder(gallery, crops, embedder)
        assert galleries.index_folder(gallery, other, embedder, add=True) == galleries.IndexUpdate(121, 0, 0, 0)
        assert (paths_of(gallery), gallery.root, len(gallery)) == (both, crops, 241)
        identity = {(gallery.root / item.path).resolve(): item.identity for item in gallery.items()}
        assert identity[other / "zoe" / "9.bmp"] == "zoe"
        for picture in (images.find_images(crops)[7], other / "zoe" / "9.bmp"):
            (hit,) = gallery.search(project(images.read_image(picture)), 1)
            assert (gallery.root / hit.item.path).resolve() == picture
        model.take_count()
        assert galleries.index_folder(gallery, crops, embedder) == galleries.IndexUpdate(0, 0, 0, 120)
        assert galleries.index_folder(gallery, other, embedder) == galleries.IndexUpdate(0, 0, 0, 121)
        # A part of a folder: the rest stays.
        (crops / "1").joinpath("late.bmp").write_bytes((other / "zoe" / "9.bmp").read_bytes())
        assert galleries.index_folder(gallery, crops / "1", embedder) == galleries.IndexUpdate(1, 0, 0, 40)
        assert (model.take_count(), len(gallery)) == (1, 242)
        (other / "zoe" / "9.bmp").unlink()
        assert galleries.index_folder(gallery, other, embedder).removed == 1
        assert len(gallery) == 241
    with open_test_index(address, root=crops) as gallery:
        galleries.index_folder(gallery, crops, embedder, replace=True)
        assert paths_of(gallery) == set(images.find_images(crops))


def test_the_folder_above_takes_its_people_along(address: str, crops: Path, other: Path, embedder: Embedder) -> None:
    with open_test_index(address, root=crops) as gallery:
        galleries.index_folder(gallery, crops, embedder)
        galleries.index_folder(gallery, crops.parent, embedder)
        assert paths_of(gallery) == {*images.find_images(crops), *images.find_images(other)}


@pytest.mark.parametrize("place", ["beside", "inside", "below"])
@pytest.mark.parametrize("name", ["people.gallery", pytest.param("people.db", marks=needs_milvus)])
@pytest.mark.parametrize("is_copied", [False, True])
def test_a_moved_gallery_shows_paths_that_exist(
    place: str, name: str, is_copied: bool, crops: Path, embedder: Embedder, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new" / "deep"
    root = {"beside": old / "crops", "inside": old / name / "crops", "below": old / "data" / "crops"}[place]
    with open_test_index(str(old / name), root=root) if name.endswith("y") else _milvus(old / name, root) as gallery:
        root.parent.mkdir(exist_ok=True)
        shutil.copytree(crops, root)
        galleries.index_folder(gallery, root, embedder)
    (shutil.copytree if is_copied else shutil.move)(old, new)
    moved = new / root.relative_to(old)
    for _ in range(2):
        with galleries.open_index(str(new / name), contract()) as gallery:
            assert gallery.root == moved
            assert paths_of(gallery) == set(images.find_images(moved))
            assert galleries.index_folder(gallery, moved, embedder).unchanged == 120
    if place == "beside" and not is_copied and name.endswith("y"):  # the gallery alone; Milvus Lite still has its own
        (tmp_path / "alone").mkdir()
        (new / name).rename(tmp_path / "alone" / name)
        with galleries.open_index(str(tmp_path / "alone" / name), contract()) as gallery:
            assert paths_of(gallery) == set(images.find_images(moved))


def _milvus(path: Path, root: Path) -> Any:
    path.parent.mkdir(exist_ok=True)
    return open_test_index(str(path), root=root)


def test_a_gallery_serves_several_threads(address: str) -> None:
    items, vectors = random_items(200)
    queries = random_unit_vectors(np.random.default_rng(3), 8)

    def work(number: int) -> None:
        mine = slice(number * 25, number * 25 + 25)
        gallery.add(items[mine], vectors[mine])
        for query in queries:
            hits = gallery.search(query, 200)
            assert len({hit.item.path for hit in hits}) == len(hits)
            assert all(hit.item in items for hit in hits)

    with open_test_index(address) as gallery:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        for query in queries:
            check_like_naive(gallery, items, vectors, query, 200)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda query: check_like_naive(gallery, items, vectors, query, 200), queries))


def test_ended_threads_leave_no_connections(place: Path) -> None:
    with open_test_index(str(place)) as gallery:
        for _ in range(20):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(len, gallery).result()
        assert len(gallery._connections._opened) <= 2


def test_a_wrong_dimension_does_not_poison_the_cached_index(
    crops: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    query = images.read_image(images.find_images(crops)[5])
    for _ in range(2):
        for dim in (13, 12):
            wrong = Embedder(
                contract(dim=dim), "another", lambda pixels: np.eye(13, dtype=np.float32)[[0] * len(pixels)]
            )
            model = embedder if dim == 12 else wrong
            gallery, _ = galleries.open_folder_gallery(crops, model)
            with gallery:
                assert (gallery.dim, len(gallery)) == (dim, 120)
                if dim == 12:
                    (hit,) = gallery.search(project(query), 1)
                    assert crops / hit.item.path == images.find_images(crops)[5]


def test_a_damaged_cached_index_is_made_again(
    crops: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    galleries.open_folder_gallery(crops, embedder)[0].close()
    (file,) = (tmp_path / "cache").rglob(database.DATABASE)
    file.write_bytes(b"x" * 8192)
    for expected in (120, 0):
        gallery, update = galleries.open_folder_gallery(crops, embedder)
        gallery.close()
        assert update.new == expected
    assert "the index in the cache is made again" in caplog.text


@needs_milvus
def test_milvus_lite_opened_twice_says_why_it_failed(tmp_path: Path) -> None:
    address = str(tmp_path / "people.db")
    code = (
        "import sys\nfrom pathlib import Path\nfrom bot_deploy.gallery import MilvusIndex\n"
        f"MilvusIndex({address!r}, {SPACE!r}, 12, Path('/people'))\nprint('open', flush=True)\nsys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == b"open\n"
    with pytest.raises(RunError) as caught:
        galleries.open_index(address, contract())
    assert str(caught.value) == (
        f"{address}: another process has it open; Milvus Lite serves one at a time, a Milvus server many"
    )
    holder.communicate()
    galleries.open_index(address, contract()).close()
