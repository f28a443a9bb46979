"""One suite for the local index and Milvus, against plain loops; holes, damage and a full disk."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers.random_gallery import (
    DIM,
    SPACE,
    as_stored,
    check_like_naive,
    contract,
    filter_predicate,
    needs_milvus,
    open_test_index,
    random_items,
    random_unit_vectors,
)

from bot_deploy import gallery as galleries
from bot_deploy.errors import InputError, RunError
from bot_deploy.gallery import GalleryItem, LocalIndex, database, milvus, vector_file
from bot_deploy.gallery.interface import STORED_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# ---- one suite for both indexes ----


def test_search_and_filters_like_the_loop(address: str) -> None:
    rows, vectors = random_items(400)
    with open_test_index(address) as gallery:
        for start in range(0, 400, 150):
            gallery.add(rows[start : start + 150], vectors[start : start + 150])
        assert len(gallery) == sum(not row.error for row in rows)
        for query in random_unit_vectors(np.random.default_rng(1), 3):
            for top in (1, 10, 400, 1000):
                check_like_naive(gallery, rows, vectors, query, top)
            for filters in (
                {"cameras": [1]},
                {"cameras": [0, 2], "since": 20},
                {"cameras": [9]},
                {"exclude_cameras": [1, 3]},
                {"cameras": None, "exclude_cameras": None, "since": None, "until": None},
                {"since": 30, "until": 40},
                {"until": 50.5},
                {"since": 200},
                {"cameras": [1], "exclude_cameras": [1]},
            ):
                check_like_naive(gallery, rows, vectors, query, 25, **filters)
                keep = filter_predicate(**filters)
                assert gallery.count(**filters) == sum(not row.error and keep(row) for row in rows)
        assert gallery.search(query, 0) == []


def test_equal_vectors_go_by_path_even_at_the_end_of_the_list(address: str) -> None:
    rng = np.random.default_rng(0)
    vector = random_unit_vectors(rng, 1)
    paths = [f"{letter}/{number}.jpg" for letter in "ab-" for number in range(8)]
    with open_test_index(address) as gallery:
        gallery.add([GalleryItem(path) for path in paths], np.repeat(vector, len(paths), axis=0))
        gallery.add([GalleryItem(f"z/{number}.jpg") for number in range(30)], random_unit_vectors(rng, 30))
        found = gallery.search(random_unit_vectors(rng, 1)[0] * 0.2 + vector[0], 5)
    assert [hit.item.path for hit in found] == sorted(paths, key=lambda path: path.split("/"))[:5]


def test_add_replace_update_remove_and_open_again(address: str, kind: str) -> None:
    rows, vectors = random_items(60)
    odd = GalleryItem('ü/it\'s "odd" ☃.jpg', 1, 2, b"\0\1\2\3\4\5\6\xff", "O'Neill", 7, 1.5)
    with open_test_index(address) as gallery:
        gallery.add([*rows, odd], np.concatenate([vectors, vectors[:1]]))
        assert sorted(gallery.items()) == sorted([*rows, odd])
        assert gallery.broken() == sorted(row for row in rows if row.error)
        # Replaced: another vector, and a broken one that is whole now, and the other way round.
        other = random_unit_vectors(np.random.default_rng(5), 60)
        rows[1], rows[3] = rows[1]._replace(error="now broken"), rows[3]._replace(error="")
        gallery.add(rows[:10], other[:10])
        vectors[:10] = other[:10]
        # Updated: the metadata change, the vector stays.
        rows[20] = rows[20]._replace(camera=99, identity="somebody", time=None, stamp=5)
        gallery.update_metadata([rows[20]])
        gallery.remove([rows[30].path, "no such row", odd.path])
        del rows[30]
        vectors = np.delete(vectors, 30, axis=0)
        assert len(gallery) == sum(not row.error for row in rows)
        gallery.set_root(Path("/elsewhere"))
    with open_test_index(address) as gallery:  # from what is kept
        assert (gallery.embedding_space, gallery.dim, gallery.root) == (SPACE, DIM, Path("/elsewhere"))
        assert sorted(gallery.items()) == sorted(rows)
        assert len(gallery) == sum(not row.error for row in rows)
        for query in random_unit_vectors(np.random.default_rng(2), 3):
            check_like_naive(gallery, rows, vectors, query, 60)
            check_like_naive(gallery, rows, vectors, query, 5, cameras=[99])


def test_vectors_by_path_and_identities(address: str) -> None:
    rows, vectors = random_items(60)
    rows[3] = rows[3]._replace(identity="only on a broken one")
    rows[4] = rows[4]._replace(identity='O\'Neill "☃" \\ %')
    with open_test_index(address) as gallery:
        gallery.add(rows, vectors)
        places = [7, 59, 7, *range(20, 25)]
        expected = [
            vector / np.sqrt((vector**2).sum()) for vector in as_stored(gallery, vectors).astype(np.float64)[places]
        ]
        found = gallery.vectors([rows[place].path for place in places])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-7)
        for path in (rows[3].path, "no such row"):
            with pytest.raises(RunError, match=f"{path} was removed while it was searched"):
                gallery.vectors([rows[7].path, path])
        assert all(gallery.has_identity(name) for name in ("person 4", rows[4].identity))
        assert not any(
            gallery.has_identity(name) for name in ("person", "person 9", rows[3].identity, '" or path != "')
        )
        for name in ("person 4", rows[4].identity, "person", rows[3].identity):
            expected = sum(row.identity == name and not row.error for row in rows)
            assert gallery.count_identity(name) == expected
        gallery.remove([rows[4].path])
        assert not gallery.has_identity(rows[4].identity)


def test_empty_gallery_and_wrong_query(address: str) -> None:
    with open_test_index(address) as gallery:
        assert len(gallery) == 0
        assert list(gallery.items()) == gallery.broken() == []
        assert gallery.search(np.ones(DIM, np.float32), 3) == []
        gallery.remove(["nobody.jpg"])
        with pytest.raises(InputError, match=r"\(5,\): the vectors of .* have 12 numbers"):
            gallery.search(np.ones(5, np.float32), 3)


def test_another_model_is_refused_with_the_remedy(address: str) -> None:
    galleries.open_or_create_index(address, contract(), Path("/people")).close()
    for same in (contract(), contract(precision="int8"), contract(flip=True)):
        galleries.open_index(address, same).close()
    for other in (contract(fingerprint="f" * 16), contract(feature="ft"), contract(dim=13)):
        for refused in (
            lambda other=other: galleries.open_index(address, other),
            lambda other=other: galleries.open_or_create_index(address, other, Path("/people")),
        ):
            with pytest.raises(
                InputError, match=rf"another model \({SPACE}, 12 dimensions.*give that model.*bot index /people -o"
            ):
                refused()


def test_no_gallery_there(address: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no gallery there; `bot index` makes one"):
        galleries.open_index(address, contract())
    assert not os.path.lexists(address)


@needs_milvus
def test_milvus_has_every_field_and_leaves_its_logger_as_it_was(tmp_path: Path) -> None:
    import pymilvus  # noqa: F401 - which sets the level of its logger when it is imported

    assert {"path", *milvus.FIELD_TYPES} == set(STORED_NAMES)
    logger = logging.getLogger("pymilvus")
    before = logger.level
    rows, vectors = random_items(5)
    with open_test_index(str(tmp_path / "people.db")) as gallery:
        gallery.add(rows, vectors)
        assert sorted(gallery.items()) == sorted(rows)
        assert logger.level == before


# ---- the local index's own ----


def test_the_tables_stay_as_older_versions_wrote_them(place: Path) -> None:
    open_test_index(str(place)).close()
    with contextlib.closing(sqlite3.connect(place / database.DATABASE)) as connection:
        tables = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
    assert tables == {
        "gallery": "CREATE TABLE gallery (format, space, dim, root, generation, length, alive)",
        "rows": "CREATE TABLE rows (slot INTEGER PRIMARY KEY, path UNIQUE, size, mtime, digest, identity, camera, "
        "time, error)",
        "place": "CREATE TABLE place (address)",  # older versions do not look at it
    }


def test_holes_and_compaction(place: Path, kind: str) -> None:
    if kind in {"milvus", "server"}:
        pytest.skip("Milvus has no holes")
    rows, vectors = random_items(200)
    rows = [row._replace(error="") for row in rows]
    with open_test_index(str(place)) as gallery, open_test_index(str(place)) as reader:
        gallery.add(rows, vectors)
        query = random_unit_vectors(np.random.default_rng(6), 1)[0]
        check_like_naive(reader, rows, vectors, query, 200)
        gone = {row.path for row in rows[::2]} - {rows[0].path}
        with reader._reading() as (_, mapped):
            gallery.remove(sorted(gone))
            assert (place / "vectors-1.f16").stat().st_size == vector_file.HEADER_BYTES + 200 * DIM * 2
            left = [(row, vector) for row, vector in zip(rows, vectors, strict=True) if row.path not in gone]
            check_like_naive(gallery, [row for row, _ in left], np.stack([v for _, v in left]), query, 200)
            gallery.remove([row.path for row, _ in left[:5]])
            left = left[5:]
            # Over half are holes: moved, and whoever still reads the old file keeps it.
            assert [path.name for path in place.glob("vectors-*")] == ["vectors-2.f16"]
            assert (place / "vectors-2.f16").stat().st_size == vector_file.HEADER_BYTES + 96 * DIM * 2
            np.testing.assert_array_equal(mapped.vectors, vectors.astype(np.float16))
        for one in (gallery, reader):
            check_like_naive(one, [row for row, _ in left], np.stack([v for _, v in left]), query, 200)
        gallery.add(rows[:1], vectors[:1])
        left = [(rows[0], vectors[0]), *left]
        for one in (gallery, reader):
            check_like_naive(one, [row for row, _ in left], np.stack([v for _, v in left]), query, 200)
        gallery.remove([row.path for row in rows])
        assert len(reader) == 0
        assert reader.search(query, 5) == []
        gallery.add(rows[:3], vectors[:3])
        check_like_naive(reader, rows[:3], vectors[:3], query, 5)


def test_damage_is_named(place: Path) -> None:
    rows, vectors = random_items(50)
    with open_test_index(str(place)) as gallery:
        gallery.add(rows, vectors)
    whole = (place / "vectors-1.f16").read_bytes()
    for content, reason in ((whole[:-1], "shorter than its rows say"), (b"x" * len(whole), "does not begin as")):
        (place / "vectors-1.f16").write_bytes(content)
        with pytest.raises(InputError, match=rf"vectors-1\.f16: damaged \(.*{reason}"):
            open_test_index(str(place))
    (place / "vectors-1.f16").unlink()
    with pytest.raises(RunError, match=r"people\.gallery: No such file"):
        open_test_index(str(place))
    (place / "vectors-1.f16").write_bytes(whole)
    rows_file = (place / database.DATABASE).read_bytes()
    for content in (b"x" * len(rows_file), b""):  # SQLite takes an empty file for an empty database
        (place / database.DATABASE).write_bytes(content)
        with pytest.raises(InputError, match=r"damaged .*index its crops into a new gallery"):
            open_test_index(str(place))
    (place / database.DATABASE).write_bytes(rows_file)
    with sqlite3.connect(place / database.DATABASE) as changed:
        changed.execute("UPDATE gallery SET format = 2")
    changed.close()
    with pytest.raises(InputError, match="format 2, but this bot_deploy reads 1"):
        open_test_index(str(place))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE rows SET path = 'text' WHERE slot = 3", "Expected `bytes`"),
        ("UPDATE rows SET path = x'6100' WHERE slot = 3", "null byte"),
        ("UPDATE rows SET size = 'x' WHERE slot = 3", "Expected `int`"),
        ("UPDATE rows SET identity = 5 WHERE slot = 3", "Expected `str"),
        ("UPDATE rows SET time = 9e999 WHERE slot = 3", "Expected `float`"),
        ("UPDATE rows SET slot = 50 WHERE slot = 3", "slot 50 of 45 vectors"),
        ("UPDATE gallery SET dim = 0", "Expected `int` >= 1"),
        ("UPDATE gallery SET alive = 51", "51 items for 45 vectors"),
        ("UPDATE gallery SET root = NULL", "Expected `bytes`"),
        ("DELETE FROM gallery", "got `null`"),
    ],
)
def test_values_that_no_store_has_are_damage(place: Path, change: str, reason: str) -> None:
    rows, vectors = random_items(50)
    with open_test_index(str(place)) as gallery:
        gallery.add(rows, vectors)
    with contextlib.closing(sqlite3.connect(place / database.DATABASE)) as connection:
        connection.execute(change)
        connection.commit()

    def read() -> None:
        with open_test_index(str(place)) as gallery:
            gallery.search(vectors[3], 50, cameras=range(10))
            list(gallery.items())

    with pytest.raises(InputError, match=reason) as caught:
        read()
    assert "damaged" in str(caught.value)


@pytest.mark.parametrize(("value", "length"), [(np.nan, "nan"), (0, "0"), (2, "2")])
def test_a_vector_that_is_no_unit_vector_is_damage(place: Path, value: float, length: str) -> None:
    rows, vectors = random_items(50)
    with open_test_index(str(place)) as gallery:
        gallery.add(rows, vectors)
    file = np.memmap(place / "vectors-1.f16", np.float16, "r+", 4096)
    file[:DIM] = value * vectors[0]
    file.flush()
    with open_test_index(str(place)) as gallery:
        for read in (lambda: gallery.search(vectors[0], 50), lambda: gallery.vectors([rows[0].path])):
            with pytest.raises(
                InputError, match=rf"vectors-1\.f16: damaged \(a vector of length {length} instead of 1\)"
            ):
                read()


def test_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    for name in ("file", "folder"):
        with pytest.raises(InputError, match=rf"{name}: holds something else"):
            galleries.open_or_create_index(str(tmp_path / name), contract(), tmp_path)


@pytest.fixture
def little_room() -> Iterator[Callable[[int], None]]:
    """A disk on which a file cannot grow beyond some bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def allow(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))

    yield allow
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_loses_nothing(place: Path, little_room: Callable[[int], None]) -> None:
    rows, vectors = random_items(600)
    query = random_unit_vectors(np.random.default_rng(8), 1)[0]
    with open_test_index(str(place)) as gallery:
        gallery.add(rows[:300], vectors[:300])
        failed = 0
        for size in range(0, 400_000, 8000):
            little_room(size)
            try:
                gallery.add(rows[300:], vectors[300:])
            except RunError as error:
                assert str(error).startswith(f"{place}: ")  # noqa: PT017
                failed += 1
            little_room(resource.RLIM_INFINITY)
            with open_test_index(str(place)) as other:
                added = len(list(other.items())) > 300
                check_like_naive(other, rows if added else rows[:300], vectors if added else vectors[:300], query, 400)
            if added:
                break
        assert failed > 3
        assert added


def test_a_read_only_reader_sees_items_that_were_just_added(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, vectors = random_items(10)
    good = sum(not row.error for row in rows)
    with open_test_index(str(place)) as writer:
        writer.add(rows, vectors)
        assert (place / "gallery.sqlite-wal").stat().st_size
        monkeypatch.setattr(os, "access", lambda *_: False)
        with galleries.open_index(str(place), contract()) as reader:
            assert len(reader) == good
    assert not (place / "gallery.sqlite-wal").exists()
    with galleries.open_index(str(place), contract()) as reader:
        assert len(reader) == good


def test_a_second_writer_waits_and_then_fails(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, vectors = random_items(10)
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.3)
    with open_test_index(str(place)) as one, open_test_index(str(place)) as two:
        with one._writing():
            started = time.monotonic()
            with pytest.raises(RunError, match="another process has been writing to it"):
                two.add(rows, vectors)
            assert time.monotonic() - started > 0.25
            assert len(two) == 0  # reading goes on
        two.add(rows, vectors)
        assert len(one) == sum(not row.error for row in rows)


def test_a_dropped_index_closes_its_connections(tmp_path: Path) -> None:
    index = LocalIndex(tmp_path / "x.gallery", SPACE, DIM, tmp_path)
    connection = index._database
    del index
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
