"""A folder of crops and the gallery that mirrors it: what is embedded again, and what is known of each file."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.random_gallery import (
    DIM,
    HEIGHT,
    WIDTH,
    CountingModel,
    check_like_naive,
    contract,
    draw,
    open_test_index,
    project,
    random_unit_vectors,
)

from bot_deploy import gallery as galleries
from bot_deploy import images
from bot_deploy.datasets import open_dataset
from bot_deploy.datasets.names import CropMetadata
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError
from bot_deploy.gallery import indexing, read_metadata, scan
from bot_deploy.matching.match import match


def check_mirrors(gallery: Any, root: Path) -> None:
    """Every image below `root` is there with its vector, nothing else, and searches say so."""
    rows, vectors = [], []
    known = {root / row.path: row for row in gallery.items()}
    for path in images.find_images(root):
        rows.append(known[path])
        vectors.append(np.zeros(DIM) if rows[-1].error else project(images.read_resized(path, (HEIGHT, WIDTH))))
    assert len(rows) == len(known)
    for query in random_unit_vectors(np.random.default_rng(3), 2):
        check_like_naive(gallery, rows, np.asarray(vectors, np.float32), query, len(rows))


def test_only_what_is_new_or_changed_is_embedded(
    address: str, crops: Path, embedder: Embedder, model: CountingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "FILES_PER_COMMIT", 50)
    monkeypatch.setattr(scan, "CLOCK_GRAIN_NS", 20_000_000)
    read: list[Path] = []
    digest = indexing.file_digest
    monkeypatch.setattr(indexing, "file_digest", lambda path: (read.append(path), digest(path))[1])
    with open_test_index(address, root=crops) as gallery:

        def update() -> tuple[int, int, int, int, int]:
            time.sleep(0.05)  # a file may have changed again within the clock's grain, and is read again
            done = galleries.index_folder(gallery, crops, embedder)
            check_mirrors(gallery, crops)
            return done.new, done.changed, done.removed, done.unchanged, model.take_count()

        assert update() == (120, 0, 0, 0, 120)
        read.clear()
        assert update() == (0, 0, 0, 120, 0)
        assert read == []  # sizes and times suffice
        for number in range(10):
            draw(crops / "late" / f"{number}.bmp", 1000 + number)
        assert update() == (10, 0, 0, 120, 10)
        files = images.find_images(crops)
        # Touched, but the same: read once, embedded never.
        os.utime(files[0], ns=(1, 1))
        read.clear()
        assert update() == (0, 0, 0, 130, 0)
        assert read == [files[0]]
        read.clear()
        assert update() == (0, 0, 0, 130, 0)
        assert read == []
        # Another image of the same size in bytes, and one of another size.
        size = files[1].stat().st_size
        draw(files[1], 2000)
        os.utime(files[1], ns=(1, 1))
        assert files[1].stat().st_size == size
        shutil.copy(draw(crops / "x.png", 2001), files[2])
        (crops / "x.png").unlink()
        assert update() == (0, 2, 0, 128, 2)
        # Gone, and under another name.
        files[3].unlink()
        files[4].rename(crops / "moved.bmp")
        assert update() == (1, 0, 2, 128, 1)
        # All of it elsewhere.
        elsewhere = shutil.copytree(crops, crops.parent / "elsewhere")
        shutil.rmtree(crops)
        crops = elsewhere
        assert update() == (0, 0, 0, 129, 0)
        assert gallery.root == elsewhere
        # Nothing there is no reason to forget everybody.
        (crops.parent / "empty").mkdir()
        with pytest.raises(InputError, match="0 image files, none usable"):
            galleries.index_folder(gallery, crops.parent / "empty", embedder)
        assert len(gallery) == 129


def test_broken_files_are_remembered_until_they_change(
    address: str, crops: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = images.find_images(crops)
    for file in files[:3]:
        file.write_bytes(b"no image")
    (crops / "nowhere.jpg").symlink_to("missing")
    decoded: list[Path] = []
    read = images._read
    monkeypatch.setattr(images, "_read", lambda path, *rest: (decoded.append(path), read(path, *rest))[1])
    with open_test_index(address, root=crops) as gallery:
        galleries.index_folder(gallery, crops, embedder)
        assert len(gallery) == 117
        assert [row.path for row in gallery.broken()] == [
            *(file.relative_to(crops).as_posix() for file in files[:3]),
            "nowhere.jpg",
        ]
        assert gallery.broken()[0].error == "not a JPEG, PNG, WebP, BMP, GIF, TIFF or AVIF image"
        decoded.clear()
        galleries.index_folder(gallery, crops, embedder)
        assert decoded == []
        draw(files[0], 7)
        files[1].unlink()
        galleries.index_folder(gallery, crops, embedder)
        assert decoded == [files[0]]
        assert len(gallery) == 118
        assert [row.path for row in gallery.broken()] == [files[2].relative_to(crops).as_posix(), "nowhere.jpg"]


def test_metadata_goes_before_names_and_is_kept(
    address: str, crops: Path, embedder: Embedder, model: CountingModel
) -> None:
    first, second, third = (file.relative_to(crops).as_posix() for file in images.find_images(crops)[:3])
    table = crops.parent / "people.csv"
    table.write_text(f"path,identity,camera,time,note\n{first},alice,12,2026-01-31T12:00:00+01:00,x\n./{second},,3,,\n")

    def known(gallery: Any, path: str) -> tuple[Any, ...]:
        return next((row.identity, row.camera, row.time) for row in gallery.items() if row.path == path)

    with open_test_index(address, root=crops) as gallery:
        galleries.index_folder(gallery, crops, embedder)
        assert known(gallery, first) == ("0000", 0, 0)
        assert known(gallery, second) == ("0003", 3, 30)
        model.take_count()
        galleries.index_folder(gallery, crops, embedder, read_metadata(table))
        assert known(gallery, first) == ("alice", 12, 1769857200)
        assert known(gallery, second) == ("0003", 3, 30)
        assert known(gallery, third) == ("0006", 2, 60)
        # Also where the image changes, and no table is given.
        draw(crops / first, 77)
        os.utime(crops / first, ns=(1, 1))
        galleries.index_folder(gallery, crops, embedder)
        assert model.take_count() == 1
        assert known(gallery, first) == ("alice", 12, 1769857200)
        query = project(images.read_image(crops / first))
        assert [one.item.path for one in gallery.search(query, 5, cameras=[12])] == [first]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs the column path"),
        ("path\na.jpg\n", "needs the column path, and any of"),
        ("path,camera\na.jpg,one\n", "line 2: give path"),
        ("path,camera\na.jpg,1\n,1\n", "line 3: give path"),
        ("path,time\na.jpg,noon\n", "line 2: .* a time as a number or 2026"),
        ("path,identity\nb/c.jpg,x\n", "about none of its files; their first path is b/c.jpg"),
    ],
)
def test_metadata_that_cannot_be_used(text: str, message: str, crops: Path, embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with (
        open_test_index(str(tmp_path / "x.gallery"), root=crops) as gallery,
        pytest.raises(InputError, match=message),
    ):
        galleries.index_folder(gallery, crops, embedder, read_metadata(tmp_path / "t.csv"))


def test_scan_finds_what_find_finds(crops: Path) -> None:
    for name in (".hidden/a.bmp", "0/.b.bmp", "0/c.txt", "deep/er/d.PNG", "e.jpg/f.bmp"):
        draw(crops / "x.bmp", 1)
        (crops / name).parent.mkdir(parents=True, exist_ok=True)
        (crops / "x.bmp").rename(crops / name)
    (crops / "linked").symlink_to(crops / "0")
    (crops / "link.bmp").symlink_to(crops / "nothing")
    found = indexing.scan_images(crops).files
    assert sorted(found) == sorted(path.relative_to(crops).as_posix() for path in images.find_images(crops))
    for path, state in found.items():
        if path != "link.bmp":
            stat = (crops / path).stat()
            assert state[:2] == (stat.st_size, scan.file_stamp(stat))


def test_a_name_that_is_no_text(address: str, crops: Path, embedder: Embedder) -> None:
    odd = crops / os.fsdecode(b"caf\xe9.bmp")
    try:
        images.find_images(crops)[0].rename(odd)
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    with open_test_index(address, root=crops) as gallery:
        galleries.index_folder(gallery, crops, embedder)
        assert match(odd, gallery, embedder, 1).matches[0].path == odd


def test_an_index_of_a_folder_keeps_itself(
    crops: Path, embedder: Embedder, model: CountingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = sorted(crops.rglob("*"))
    for expected in (120, 0):
        gallery, done = galleries.open_folder_gallery(crops, embedder)
        with gallery:
            assert (
                match(images.find_images(crops)[5], gallery, embedder, 1).matches[0].path
                == images.find_images(crops)[5]
            )
        assert (done.new, model.take_count() - 1) == (expected, expected)
    monkeypatch.chdir(crops.parent)
    gallery, done = galleries.open_folder_gallery(Path(crops.name), embedder)  # the same under another name
    gallery.close()
    assert done.unchanged == 120
    assert gallery.root == Path(crops.name)
    gallery, done = galleries.open_folder_gallery(crops, Embedder(contract(feature="ft"), "another", model))
    gallery.close()
    assert done.new == 120
    assert sorted(crops.rglob("*")) == before
    kept = sorted((tmp_path / "cache" / "bot-deploy" / galleries.CACHE_NAME).iterdir())
    assert len(kept) == 2
    # What nobody asked for in months makes room when another is made.
    os.utime(kept[0], (1, 1))
    gallery, _ = galleries.open_folder_gallery(shutil.copytree(crops, tmp_path / "others"), embedder)
    gallery.close()
    assert not kept[0].exists()
    assert kept[1].exists()


def test_without_a_cache_there_is_an_answer_all_the_same(
    crops: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gallery, done = galleries.open_folder_gallery(crops, embedder)
    with gallery:
        assert done.new == len(gallery) == 120
    assert "not kept for the next run" in caplog.text


def test_a_gallery_and_a_data_set_read_the_same_identities(tmp_path: Path, embedder: Embedder) -> None:
    for number, name in enumerate(
        f"{who}/{place}/{shot}.png" for who in "xyz" for place in ("in", "out") for shot in "12"
    ):
        draw(tmp_path / "crops" / name, number)
    dataset = open_dataset(tmp_path / "crops")
    crops = [*dataset.train, *dataset.query, *dataset.gallery]
    with open_test_index(str(tmp_path / "x.gallery"), root=tmp_path / "crops") as gallery:
        galleries.index_folder(gallery, tmp_path / "crops", embedder)
        identities = {item.path: item.identity for item in gallery.items()}
    assert identities == {
        Path(str(crop.path)).relative_to(tmp_path / "crops").as_posix(): crop.identity_name for crop in crops
    }
    assert set(identities.values()) == set("xyz")


def test_what_the_names_say_is_described(tmp_path: Path) -> None:
    for name in ("lobby/alice/1.jpg", "garden/alice/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert galleries.describe_images(galleries.scan_images(tmp_path)) == [
        "2 crops of 2 identities from 0 known cameras",
        "  garden/alice/2.jpg -> garden",
        "  lobby/alice/1.jpg -> lobby",
        "alice/ is below garden/ and below lobby/, so it is read as a session, and the folder above is the identity",
    ]


def test_names_that_contradict_each_other_are_refused(
    tmp_path: Path, embedder: Embedder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    crops = tmp_path / "crops"
    names = ["alice/1.png", "alice/extra/2.png", "bob/3.png"]
    for number, name in enumerate(names):
        draw(crops / name, number)
    table = {"alice/1.png": CropMetadata("alice"), "alice/extra/2.png": CropMetadata("eve")}
    with open_test_index(str(tmp_path / "x.gallery"), root=crops) as index:

        def update(metadata: dict[str, CropMetadata] | None = None) -> list[str | None]:
            galleries.index_folder(index, crops, embedder, metadata)
            return [item.identity for item in sorted(index.items())]

        for metadata in (None, {"alice/1.png": table["alice/1.png"]}):
            with pytest.raises(InputError, match=r"alice/1\.png lies beside the folder of alice/extra/2\.png"):
                update(metadata)
            assert len(index) == 0
        assert update(table) == ["alice", "eve", "bob"]
        assert update() == ["alice", "eve", "bob"]  # nothing is new, and the table is remembered
        draw(crops / "alice" / "4.png", 4)
        with pytest.raises(InputError, match="lies beside"):
            update()
    # `bot match` needs no identities: they are unknown, and it says why.
    gallery, _ = galleries.open_folder_gallery(crops, embedder)
    with gallery:
        assert [item.identity for item in sorted(gallery.items())] == [None, None, None, "bob"]
    assert "their crops have no identity" in caplog.text


def test_a_file_that_is_added_after_the_scan_stays(tmp_path: Path, embedder: Embedder) -> None:
    crops = tmp_path / "crops"
    for number in range(3):
        draw(crops / "ann" / f"{number}.png", number)
    scanned = galleries.scan_images(crops)
    draw(crops / "bob" / "3.png", 3)
    (crops / "ann" / "0.png").unlink()
    with open_test_index(str(tmp_path / "x.gallery"), root=crops) as index:
        galleries.index_folder(index, crops, embedder)
        update = galleries.index_folder(index, crops, embedder, scanned=scanned)
        assert {item.path for item in index.items()} == {"ann/0.png", "ann/1.png", "ann/2.png", "bob/3.png"}
        assert update.removed == 0
        assert galleries.index_folder(index, crops, embedder).removed == 1
