"""A vector never stands for another file: what makes the index read a file again, and what it leaves out."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.random_gallery import DIM, CountingModel, draw, open_test_index, project
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot_deploy import gallery as galleries
from bot_deploy import images
from bot_deploy.embedder import Embedder
from bot_deploy.errors import ImageError, InputError
from bot_deploy.gallery import database, indexing, scan


def named(gallery: Any, picture: Path) -> tuple[str | None, float]:
    """The identity that the gallery gives to an image, and the score."""
    (hit,) = gallery.search(project(images.read_image(picture)), 1)
    return hit.item.identity, hit.score


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two people's images, of equal size and time."""
    pair = tuple(draw(tmp_path / "two" / name / "1.bmp", seed) for seed, name in enumerate(("alice", "bob")))
    for path in pair:
        os.utime(path, ns=(10**18, 10**18))
    return pair[0], pair[1]


def swap(first: Path, second: Path) -> None:
    """Each gets the other's content; size and mtime stay equal."""
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    for path in (first, second):
        os.utime(path, ns=(10**18, 10**18))


def rename(first: Path, second: Path) -> None:
    """The files themselves change places."""
    third = first.with_name("third")
    first.rename(third)
    second.rename(first)
    third.rename(second)


@pytest.mark.parametrize("exchange", [swap, rename])
@pytest.mark.parametrize("pause_s", [0, 0.1])
def test_two_pictures_of_equal_size_and_time_change_places(
    exchange: Any,
    pause_s: float,
    address: str,
    two: tuple[Path, Path],
    embedder: Embedder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # With the true grain everything here is read again. With a short one, ctime and inode must do it.
    if pause_s:
        monkeypatch.setattr(scan, "CLOCK_GRAIN_NS", 20_000_000)
    alice = draw(tmp_path / "alice.bmp", 0)
    with open_test_index(address, root=tmp_path / "two") as gallery:
        time.sleep(pause_s)
        galleries.index_folder(gallery, tmp_path / "two", embedder)
        assert named(gallery, alice) == ("alice", pytest.approx(1, abs=1e-3))
        time.sleep(pause_s)
        exchange(*two)
        assert galleries.index_folder(gallery, tmp_path / "two", embedder).changed == 2
        assert named(gallery, alice) == ("bob", pytest.approx(1, abs=1e-3))


def test_what_changed_within_the_grain_is_read_again(
    two: tuple[Path, Path], embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock that stands still: no change of a file shows in its times, nor in its inode.
    stamps = {path.name: 7 for path in two}
    monkeypatch.setattr(scan, "file_stamp", lambda stat: stamps["1.bmp"])
    alice = draw(tmp_path / "alice.bmp", 0)
    with open_test_index(str(tmp_path / "x.gallery"), root=tmp_path / "two") as gallery:
        galleries.index_folder(gallery, tmp_path / "two", embedder)
        swap(*two)
        assert galleries.index_folder(gallery, tmp_path / "two", embedder).changed == 2
        assert named(gallery, alice)[0] == "bob"


def test_verify_reads_everything(
    address: str,
    two: tuple[Path, Path],
    embedder: Embedder,
    model: CountingModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A file system that shows no change at all.
    monkeypatch.setattr(scan, "file_stamp", lambda stat: 7)
    monkeypatch.setattr(scan, "CLOCK_GRAIN_NS", -(10**12))
    (tmp_path / "two" / "broken.jpg").write_bytes(b"no image")
    alice = draw(tmp_path / "alice.bmp", 0)
    with open_test_index(address, root=tmp_path / "two") as gallery:
        galleries.index_folder(gallery, tmp_path / "two", embedder)
        swap(*two)
        model.take_count()
        assert galleries.index_folder(gallery, tmp_path / "two", embedder).changed == 0
        assert galleries.index_folder(gallery, tmp_path / "two", embedder, verify=True) == galleries.IndexUpdate(
            0, 2, 0, 1
        )
        assert named(gallery, alice)[0] == "bob"
        model.take_count()
        again = galleries.index_folder(gallery, tmp_path / "two", embedder, verify=True)
        assert (again, model.take_count()) == (galleries.IndexUpdate(0, 0, 0, 3), 0)


def test_a_file_that_changes_while_it_is_read_is_embedded_again(
    two: tuple[Path, Path], embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, digest = two[0].read_bytes(), indexing.file_digest
    draw(tmp_path / "carol.bmp", 9)

    def read(path: Path) -> bytes:
        content = digest(path)
        if path == two[0]:  # embedded as carol, and alice again before the next update
            time.sleep(0.05)
            path.write_bytes((tmp_path / "carol.bmp").read_bytes())
        return content

    with open_test_index(str(tmp_path / "x.gallery"), root=tmp_path / "two") as gallery:
        with monkeypatch.context() as patched:
            patched.setattr(indexing, "file_digest", read)
            galleries.index_folder(gallery, tmp_path / "two", embedder)
        two[0].write_bytes(alice)
        galleries.index_folder(gallery, tmp_path / "two", embedder)
        assert named(gallery, two[0]) == ("alice", pytest.approx(1, abs=1e-3))


def test_a_store_of_an_older_version_is_read_once_and_embeds_nothing(
    address: str, crops: Path, embedder: Embedder, model: CountingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "CLOCK_GRAIN_NS", 20_000_000)
    with open_test_index(address, root=crops) as gallery:
        galleries.index_folder(gallery, crops, embedder)
        # As older versions wrote it: the modification time in the place of the stamp.
        gallery.update_metadata(
            [item._replace(stamp=(crops / item.path).stat().st_mtime_ns) for item in gallery.items()]
        )
        if isinstance(gallery, galleries.LocalIndex):
            gallery._database.execute("DROP TABLE place")
    time.sleep(0.1)
    read: list[Path] = []
    digest = indexing.file_digest
    monkeypatch.setattr(indexing, "file_digest", lambda path: (read.append(path), digest(path))[1])
    model.take_count()
    with open_test_index(address, root=crops) as gallery:
        for expected in (120, 0):
            read.clear()
            assert galleries.index_folder(gallery, crops, embedder).unchanged == 120
            assert (len(read), model.take_count()) == (expected, 0)
        assert gallery.root == crops


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(["write", "swap", "remove", "touch", "break"]), *[st.integers(0, 4)] * 2)
    )
)
def test_after_any_changes_every_vector_is_its_files(
    changes: list[tuple[str, int, int]], embedder: Embedder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    files = [folder / "crops" / f"person {number}" / "1.bmp" for number in range(5)]
    draw(folder / "crops" / "constant.bmp", 99)
    with open_test_index(str(folder / "x.gallery"), root=folder / "crops") as gallery:
        for what, one, other in [("write", 0, 0), *changes]:
            if what == "write":
                draw(files[one], other)
            elif what == "remove":
                files[one].unlink(missing_ok=True)
            elif what == "break" and files[one].exists():
                files[one].write_bytes(bytes(files[one].stat().st_size))
            elif what == "swap" and files[one].exists() and files[other].exists() and one != other:
                rename(files[one], files[other])
            if files[one].exists():
                os.utime(files[one], ns=(10**18, 10**18))
            galleries.index_folder(gallery, folder / "crops", embedder)
            for item in gallery.items():
                path = folder / "crops" / item.path
                try:
                    expected = project(images.read_image(path))
                except ImageError:
                    assert item.error
                    continue
                assert not item.error
                np.testing.assert_allclose(gallery.vectors([item.path])[0], expected, atol=2e-3)
            assert {item.path for item in gallery.items()} == set(indexing.scan_images(folder / "crops").files)


# ---- odd entries ----


def test_odd_entries_are_left_out_and_named(
    address: str, crops: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(crops / "fifo.jpg")
    (crops / "to_fifo.jpg").symlink_to("fifo.jpg")
    (crops / "loop.jpg").symlink_to("loop.jpg")
    (crops / "pair.jpg").symlink_to("other.jpg")
    (crops / "other.jpg").symlink_to("pair.jpg")
    (crops / "zero.jpg").symlink_to("/dev/zero")
    (crops / "nowhere.jpg").symlink_to("missing")
    (crops / "folder.jpg").mkdir()
    (crops / "to_folder.jpg").symlink_to("0")
    (crops / "to_itself").symlink_to(".")
    with (crops / "sparse.jpg").open("wb") as file:
        file.truncate(1 << 40)
    server = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(crops)
    server.bind("socket.jpg")
    server.close()
    odd = ["fifo", "to_fifo", "loop", "pair", "other", "zero", "nowhere", "folder", "to_folder", "sparse", "socket"]
    started = time.monotonic()
    with open_test_index(address, root=crops) as gallery:
        for _ in range(2):
            galleries.index_folder(gallery, crops, embedder)
            assert [item.path for item in gallery.broken()] == sorted(f"{name}.jpg" for name in odd)
            assert all(item.error for item in gallery.broken())
            assert len(gallery) == 120
    assert time.monotonic() - started < 30


def test_a_folder_named_like_an_image_is_still_a_folder(tmp_path: Path) -> None:
    draw(tmp_path / "IMG_1.jpg" / "1.bmp", 0)
    (tmp_path / "empty.jpg").mkdir()
    assert images.find_images(tmp_path) == [tmp_path / "IMG_1.jpg" / "1.bmp", tmp_path / "empty.jpg"]


def test_a_folder_that_cannot_be_read_costs_nobody(
    address: str, crops: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "1":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    with open_test_index(address, root=crops) as gallery:
        galleries.index_folder(gallery, crops, embedder)
        with monkeypatch.context() as patched:
            patched.setattr(os, "scandir", refuse)
            for _ in range(2):
                update = galleries.index_folder(gallery, crops, embedder)
                assert (update, len(gallery)) == (galleries.IndexUpdate(0, 0, 0, 80), 120)
                assert [(item.path, item.error) for item in gallery.broken()] == [
                    ("1", "cannot be read (Permission denied)")
                ]
            with pytest.raises(InputError, match="1: cannot be read"):
                images.find_images(crops)
        galleries.index_folder(gallery, crops, embedder)
        assert gallery.broken() == []
        assert len(gallery) == 120


# ---- advice ----


@pytest.mark.parametrize(
    ("code", "is_damage"),
    [
        (sqlite3.SQLITE_CORRUPT, True),
        (sqlite3.SQLITE_NOTADB, True),
        (sqlite3.SQLITE_CORRUPT | 256, True),
        *(
            (code, False)
            for code in (
                sqlite3.SQLITE_BUSY,
                sqlite3.SQLITE_LOCKED,
                sqlite3.SQLITE_FULL,
                sqlite3.SQLITE_READONLY,
                sqlite3.SQLITE_PERM,
                sqlite3.SQLITE_CANTOPEN,
                sqlite3.SQLITE_IOERR,
                sqlite3.SQLITE_NOMEM,
                sqlite3.SQLITE_MISUSE,
                sqlite3.SQLITE_CONSTRAINT,
                sqlite3.SQLITE_SCHEMA,
            )
        ),
    ],
)
@pytest.mark.parametrize("kind", [sqlite3.DatabaseError, sqlite3.OperationalError, sqlite3.ProgrammingError])
def test_only_proven_damage_is_called_damaged(kind: type[sqlite3.Error], code: int, is_damage: bool) -> None:
    error = kind("words of SQLite")
    error.sqlite_errorcode = code
    with pytest.raises(galleries.BotError) as caught, database.convert_errors("x.gallery"):
        raise error
    assert ("damaged" in str(caught.value)) == is_damage
    assert "delete" not in str(caught.value)  # the crops of enrolled people lie in the index's folder


def test_a_full_disk_a_lock_and_a_version_are_not_damage(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.1)
    items = [galleries.GalleryItem(f"{number}.jpg", identity="x" * 100) for number in range(2000)]
    vectors = np.eye(DIM, dtype=np.float32)[np.arange(2000) % DIM]
    with open_test_index(str(place)) as gallery, open_test_index(str(place)) as other:
        gallery._database.execute("PRAGMA max_page_count = 10")
        with pytest.raises(galleries.BotError, match="disk is full; nothing was lost"):
            gallery.add(items, vectors)
        assert len(gallery) == 0
        with gallery._writing(), pytest.raises(galleries.BotError, match="another process has been writing"):
            other.add(items, vectors)
        gallery._database.execute("PRAGMA query_only = 1")
        with pytest.raises(galleries.BotError, match="nothing was lost: look at the permissions"):
            gallery.add(items[:1], vectors[:1])
    with pytest.raises(galleries.BotError, match="closed"):
        len(gallery)
