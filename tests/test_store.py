"""The gallery's stores: search and filters against plain loops, what is embedded again, crashes and neighbours."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bot_deploy import gallery as galleries
from bot_deploy import images
from bot_deploy.contract import Contract
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError, RunError
from bot_deploy.gallery import Row, Store, folder, parse, search, store
from bot_deploy.gallery.names import Seen, instant, read_table
from bot_deploy.gallery.store import recall
from bot_deploy.match import match

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DIM = 12
SPACE = "0123456789abcdef-fi"
Vectors = npt.NDArray[np.float32]

needs_faiss = pytest.mark.skipif(find_spec("faiss") is None, reason="needs FAISS, of the extra `scale`")
needs_milvus = pytest.mark.skipif(
    find_spec("pymilvus") is None or find_spec("milvus_lite") is None,
    reason="needs pymilvus and milvus-lite, of the extra `scale`",
)
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


def opened(address: str, dim: int = DIM, root: Path | None = None) -> Any:
    made = (SPACE, dim, root or Path("/people"))
    return galleries.Milvus(address, *made) if galleries.is_milvus(address) else Store(Path(address), *made)


def unit(rng: np.random.Generator, count: int, dim: int = DIM) -> Vectors:
    vectors = rng.normal(size=(count, dim))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def crowd(count: int, seed: int = 0) -> tuple[list[Row], Vectors]:
    """Rows of which some lack a camera or a time, and some are no image; their vectors."""
    rng = np.random.default_rng(seed)
    rows = [
        Row(
            f"{number % 7}/{number:04d}.jpg",
            size=number,
            mtime=10**18 + number,
            digest=number.to_bytes(8, "big"),
            identity=None if number % 5 == 0 else f"person {number % 9}",
            camera=None if number % 6 == 0 else int(rng.integers(0, 4)),
            time=None if number % 4 == 0 else float(rng.integers(0, 100)),
            error="corrupt" if number % 11 == 3 else "",
        )
        for number in range(count)
    ]
    return rows, unit(rng, count)


def naive(
    rows: list[Row], vectors: Vectors, query: Vectors, keep: Callable[[Row], bool] = lambda _: True
) -> list[tuple[float, str]]:
    """(cosine, path) of every row that may be found, best first."""
    scored = []
    for row, vector in zip(rows, vectors.astype(np.float64), strict=True):
        if not row.error and keep(row):
            dot = sum(float(a) * float(b) for a, b in zip(vector, query, strict=True))
            scored.append((dot / float(np.sqrt((vector**2).sum())), row.path))
    return sorted(scored, key=lambda pair: (-pair[0], pair[1].split("/")))


def check_like_naive(gallery: Any, rows: list[Row], vectors: Vectors, query: Vectors, top: int, **filters: Any) -> None:
    held = vectors if isinstance(gallery, galleries.Milvus) else vectors.astype(np.float16)

    def keep(row: Row) -> bool:
        if filters.get("cameras") is not None and row.camera not in filters["cameras"]:
            return False
        if filters.get("exclude_cameras") is not None and row.camera in filters["exclude_cameras"]:
            return False
        if filters.get("since") is not None and (row.time is None or row.time < filters["since"]):
            return False
        return filters.get("until") is None or (row.time is not None and row.time <= filters["until"])

    expected = naive(rows, held, query, keep)[:top]
    found = gallery.search(query, top, **filters)
    assert [one.row.path for one in found] == [path for _, path in expected]
    assert [one.score for one in found] == pytest.approx([score for score, _ in expected], abs=2e-6)
    by_path = {row.path: row for row in rows}
    assert all(one.row == by_path[one.row.path] for one in found)


# ---- one suite for both stores ----


def test_search_and_filters_like_the_loop(address: str) -> None:
    rows, vectors = crowd(400)
    with opened(address) as gallery:
        for start in range(0, 400, 150):
            gallery.add(rows[start : start + 150], vectors[start : start + 150])
        assert len(gallery) == sum(not row.error for row in rows)
        for query in unit(np.random.default_rng(1), 3):
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
        assert gallery.search(query, 0) == []


def test_equal_vectors_go_by_path_even_at_the_end_of_the_list(address: str) -> None:
    rng = np.random.default_rng(0)
    vector = unit(rng, 1)
    paths = [f"{letter}/{number}.jpg" for letter in "ab-" for number in range(8)]
    with opened(address) as gallery:
        gallery.add([Row(path) for path in paths], np.repeat(vector, len(paths), axis=0))
        gallery.add([Row(f"z/{number}.jpg") for number in range(30)], unit(rng, 30))
        found = gallery.search(unit(rng, 1)[0] * 0.2 + vector[0], 5)
    assert [one.row.path for one in found] == sorted(paths, key=lambda path: path.split("/"))[:5]


def test_add_replace_amend_remove_and_open_again(address: str, kind: str) -> None:
    rows, vectors = crowd(60)
    odd = Row('ü/it\'s "odd" ☃.jpg', 1, 2, b"\0\1\2\3\4\5\6\xff", "O'Neill", 7, 1.5)
    with opened(address) as gallery:
        gallery.add([*rows, odd], np.concatenate([vectors, vectors[:1]]))
        assert sorted(gallery.rows()) == sorted([*rows, odd])
        assert gallery.broken() == sorted(row for row in rows if row.error)
        # Replaced: another vector, and a broken one that is whole now, and the other way round.
        other = unit(np.random.default_rng(5), 60)
        rows[1], rows[3] = rows[1]._replace(error="now broken"), rows[3]._replace(error="")
        gallery.add(rows[:10], other[:10])
        vectors[:10] = other[:10]
        # Amended: what is known changes, the vector stays.
        rows[20] = rows[20]._replace(camera=99, identity="somebody", time=None, mtime=5)
        gallery.amend([rows[20]])
        gallery.remove([rows[30].path, "no such row", odd.path])
        del rows[30]
        vectors = np.delete(vectors, 30, axis=0)
        assert len(gallery) == sum(not row.error for row in rows)
        gallery.move(Path("/elsewhere"))
    with opened(address) as gallery:  # from what is kept
        assert (gallery.space, gallery.dim, gallery.root) == (SPACE, DIM, Path("/elsewhere"))
        assert sorted(gallery.rows()) == sorted(rows)
        assert len(gallery) == sum(not row.error for row in rows)
        for query in unit(np.random.default_rng(2), 3):
            check_like_naive(gallery, rows, vectors, query, 60)
            check_like_naive(gallery, rows, vectors, query, 5, cameras=[99])


def test_empty_gallery_and_wrong_query(address: str) -> None:
    with opened(address) as gallery:
        assert len(gallery) == 0
        assert list(gallery.rows()) == gallery.broken() == []
        assert gallery.search(np.ones(DIM, np.float32), 3) == []
        gallery.remove(["nobody.jpg"])
        with pytest.raises(InputError, match=r"\(5,\): the vectors of .* have 12 numbers"):
            gallery.search(np.ones(5, np.float32), 3)


def contract(**changes: Any) -> Contract:
    fields = {"arch": "projection", "height": 16, "width": 8, "dim": DIM, "fingerprint": SPACE[:16], **changes}
    return Contract(**fields)


def test_another_model_is_refused_with_the_remedy(address: str) -> None:
    galleries.create_gallery(address, contract(), Path("/people")).close()
    for same in (contract(), contract(precision="int8"), contract(flip=True)):
        galleries.open_gallery(address, same).close()
    for other in (contract(fingerprint="f" * 16), contract(feature="ft"), contract(dim=13)):
        for refused in (
            lambda other=other: galleries.open_gallery(address, other),
            lambda other=other: galleries.create_gallery(address, other, Path("/people")),
        ):
            with pytest.raises(
                InputError, match=rf"another model \({SPACE}, 12 numbers.*--model.*bot index /people -o"
            ):
                refused()


def test_no_gallery_there(address: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no gallery there; `bot index` makes one"):
        galleries.open_gallery(address, contract())
    assert not os.path.lexists(address)


# ---- a folder and what mirrors it ----

HEIGHT, WIDTH = 16, 8
MATRIX = np.random.default_rng(0).normal(size=(HEIGHT * WIDTH * 3, DIM))


def project(pixels: npt.NDArray[np.uint8]) -> Vectors:
    vector = (pixels.reshape(-1).astype(np.float64) - 127) @ MATRIX
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


class Counting:
    """A model that counts the images it is given."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, batch: npt.NDArray[np.uint8]) -> Vectors:
        self.images += len(batch)
        return np.stack([project(pixels) for pixels in batch])

    def since(self) -> int:
        self.images, images = 0, self.images
        return images


@pytest.fixture
def model() -> Counting:
    return Counting()


@pytest.fixture
def embedder(model: Counting) -> Embedder:
    return Embedder(contract(), "a projection", model)


def draw(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    for number in range(120):
        draw(tmp_path / "crops" / f"{number % 3}" / f"{number:04d}_c{number % 4}s1_{number * 10:06d}_00.bmp", number)
    return tmp_path / "crops"


def check_mirrors(gallery: Any, root: Path) -> None:
    """Every image below `root` is there with its vector, nothing else, and searches say so."""
    rows, vectors = [], []
    known = {root / row.path: row for row in gallery.rows()}
    for path in images.find(root):
        rows.append(known[path])
        vectors.append(np.zeros(DIM) if rows[-1].error else project(images.load_resized(path, (HEIGHT, WIDTH))))
    assert len(rows) == len(known)
    for query in unit(np.random.default_rng(3), 2):
        check_like_naive(gallery, rows, np.asarray(vectors, np.float32), query, len(rows))


def test_only_what_is_new_or_changed_is_embedded(
    address: str, crops: Path, embedder: Embedder, model: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "BATCH", 50)
    read: list[Path] = []
    digest = folder.digest
    monkeypatch.setattr(folder, "digest", lambda path: (read.append(path), digest(path))[1])
    with opened(address, root=crops) as gallery:

        def update() -> tuple[int, int, int, int, int]:
            done = galleries.update(gallery, crops, embedder)
            check_mirrors(gallery, crops)
            return done.new, done.changed, done.vanished, done.unchanged, model.since()

        assert update() == (120, 0, 0, 0, 120)
        read.clear()
        assert update() == (0, 0, 0, 120, 0)
        assert read == []  # sizes and times suffice
        for number in range(10):
            draw(crops / "late" / f"{number}.bmp", 1000 + number)
        assert update() == (10, 0, 0, 120, 10)
        files = images.find(crops)
        # Touched, but the same: read once, embedded never.
        os.utime(files[0], ns=(1, 1))
        read.clear()
        assert update() == (0, 0, 0, 130, 0)
        assert read == [files[0]]
        read.clear()
        assert update() == (0, 0, 0, 130, 0)
        assert read == []
        # Another picture of the same size in bytes, and one of another size.
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
            galleries.update(gallery, crops.parent / "empty", embedder)
        assert len(gallery) == 129


def test_broken_files_are_remembered_until_they_change(
    address: str, crops: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = images.find(crops)
    for file in files[:3]:
        file.write_bytes(b"no picture")
    (crops / "nowhere.jpg").symlink_to("missing")
    decoded: list[Path] = []
    load = images.load
    monkeypatch.setattr(images, "load", lambda path: (decoded.append(path), load(path))[1])
    with opened(address, root=crops) as gallery:
        galleries.update(gallery, crops, embedder)
        assert len(gallery) == 117
        assert [row.path for row in gallery.broken()] == [
            *(file.relative_to(crops).as_posix() for file in files[:3]),
            "nowhere.jpg",
        ]
        assert gallery.broken()[0].error == "not a JPEG, PNG, WebP or BMP image"
        decoded.clear()
        galleries.update(gallery, crops, embedder)
        assert decoded == []
        draw(files[0], 7)
        files[1].unlink()
        galleries.update(gallery, crops, embedder)
        assert decoded == [files[0]]
        assert len(gallery) == 118
        assert [row.path for row in gallery.broken()] == [files[2].relative_to(crops).as_posix(), "nowhere.jpg"]


def test_metadata_goes_before_names_and_is_kept(address: str, crops: Path, embedder: Embedder, model: Counting) -> None:
    first, second, third = (file.relative_to(crops).as_posix() for file in images.find(crops)[:3])
    table = crops.parent / "people.csv"
    table.write_text(f"path,identity,camera,time,note\n{first},alice,12,2026-01-31T12:00:00+01:00,x\n./{second},,3,,\n")

    def known(gallery: Any, path: str) -> tuple[Any, ...]:
        return next((row.identity, row.camera, row.time) for row in gallery.rows() if row.path == path)

    with opened(address, root=crops) as gallery:
        galleries.update(gallery, crops, embedder)
        assert known(gallery, first) == ("0000", 0, 0)
        assert known(gallery, second) == ("0003", 3, 30)
        model.since()
        galleries.update(gallery, crops, embedder, read_table(table))
        assert known(gallery, first) == ("alice", 12, 1769857200)
        assert known(gallery, second) == ("0003", 3, 30)
        assert known(gallery, third) == ("0006", 2, 60)
        # Also where the picture changes, and no table is given.
        draw(crops / first, 77)
        os.utime(crops / first, ns=(1, 1))
        galleries.update(gallery, crops, embedder)
        assert model.since() == 1
        assert known(gallery, first) == ("alice", 12, 1769857200)
        query = project(images.load(crops / first))
        assert [one.row.path for one in gallery.search(query, 5, cameras=[12])] == [first]


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
        opened(str(tmp_path / "x.gallery"), root=crops) as gallery,
        pytest.raises(InputError, match=message),
    ):
        galleries.update(gallery, crops, embedder, read_table(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("0002_c1s1_000451_03.jpg", ("0002", 1, 451)),
        ("bounding_box_test/-1_c6s3_000001_01.jpg", ("-1", 6, 1)),
        ("0005_c2_f0046302.jpg", ("0005", 2, None)),
        ("alice/cam3_7.jpg", ("alice", 3, None)),
        ("alice/c3/7.jpg", ("alice", 3, None)),
        ("camera_4/7.jpg", (None, 4, None)),
        ("gallery/x.jpg", (None, None, None)),
        ("2026-01-31/x.jpg", (None, None, None)),
        ("door/2026-01-31_12-30-05.jpg", ("door", None, 1769862605)),
        ("20260131T123005_c2.png", (None, 2, 1769862605)),
        ("20269931T993005.png", (None, None, None)),
        ("x.jpg", (None, None, None)),
        ("b\udcff/x.jpg", ("b�", None, None)),
    ],
)
def test_names(path: str, seen: tuple[Any, ...]) -> None:
    assert parse(path) == Seen(*seen)


def test_instants() -> None:
    assert instant("451") == 451
    assert instant("1970-01-01T00:01") == instant("1970-01-01T01:01+01:00") == 60
    with pytest.raises(ValueError, match="noon"):
        instant("noon")


def test_scan_finds_what_find_finds(crops: Path) -> None:
    for name in (".hidden/a.bmp", "0/.b.bmp", "0/c.txt", "deep/er/d.PNG", "e.jpg/f.bmp"):
        draw(crops / "x.bmp", 1)
        (crops / name).parent.mkdir(parents=True, exist_ok=True)
        (crops / "x.bmp").rename(crops / name)
    (crops / "linked").symlink_to(crops / "0")
    (crops / "link.bmp").symlink_to(crops / "nothing")
    found = folder.scan(crops)
    assert sorted(found) == sorted(path.relative_to(crops).as_posix() for path in images.find(crops))
    for path, (size, mtime) in found.items():
        if path != "link.bmp":
            assert (size, mtime) == ((crops / path).stat().st_size, (crops / path).stat().st_mtime_ns)


def test_a_name_that_is_no_text(address: str, crops: Path, embedder: Embedder) -> None:
    odd = crops / os.fsdecode(b"caf\xe9.bmp")
    try:
        images.find(crops)[0].rename(odd)
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    with opened(address, root=crops) as gallery:
        galleries.update(gallery, crops, embedder)
        assert match(odd, gallery, embedder, 1).matches[0].path == odd


def test_an_index_of_a_folder_keeps_itself(
    crops: Path, embedder: Embedder, model: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = sorted(crops.rglob("*"))
    for expected in (120, 0):
        gallery, done = galleries.of_folder(crops, embedder)
        with gallery:
            assert match(images.find(crops)[5], gallery, embedder, 1).matches[0].path == images.find(crops)[5]
        assert (done.new, model.since() - 1) == (expected, expected)
    monkeypatch.chdir(crops.parent)
    gallery, done = galleries.of_folder(Path(crops.name), embedder)  # the same under another name
    gallery.close()
    assert done.unchanged == 120
    assert gallery.root == Path(crops.name)
    gallery, done = galleries.of_folder(crops, Embedder(contract(feature="ft"), "another", model))
    gallery.close()
    assert done.new == 120
    assert sorted(crops.rglob("*")) == before
    kept = sorted((tmp_path / "cache" / "bot-deploy" / galleries.CACHE).iterdir())
    assert len(kept) == 2
    # What nobody asked for in months makes room when another is made.
    os.utime(kept[0], (1, 1))
    gallery, _ = galleries.of_folder(shutil.copytree(crops, tmp_path / "others"), embedder)
    gallery.close()
    assert not kept[0].exists()
    assert kept[1].exists()


def test_without_a_cache_there_is_an_answer_all_the_same(
    crops: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gallery, done = galleries.of_folder(crops, embedder)
    with gallery:
        assert done.new == len(gallery) == 120
    assert "not kept for the next time" in capsys.readouterr().err


# ---- the embedded store's own ----


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "people.gallery"


def test_every_half_is_multiplied_exactly() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)].reshape(-1, 2)
    for query in ([1, 0], [0, 1], [-0.5, 0]):
        expected = every.astype(np.float64) @ np.asarray(query)
        np.testing.assert_array_equal(search.dots(every, np.asarray(query, np.float32)), expected)


@needs_faiss
def test_faiss_reads_the_mapped_file_itself(place: Path) -> None:
    import faiss

    rows, vectors = crowd(300)
    with opened(str(place)) as gallery:
        gallery.add(rows, vectors)
        with gallery._reading() as (state, mapped):
            index = search.faiss_index(mapped.bytes, *mapped.vectors.shape)
            assert index.ntotal == state.length
            assert not faiss.downcast_index(index).codes.is_owned
            allowed = np.random.default_rng(0).random(state.length) < 0.3
            for query in unit(np.random.default_rng(4), 5):
                for mask in (None, allowed):
                    lists = [
                        {slot for slot in near if mapped.scores(near, query)[list(near).index(slot)] > 0.3}
                        for near in (
                            search.by_faiss(index, query, 300, mask),
                            search.by_numpy(mapped.vectors, query, 300, mask),
                        )
                    ]
                    assert lists[0] == lists[1]
    # The header that it was given lives in memory only.
    assert (place / "vectors-1.f16").read_bytes()[: search.HEADER] == store.MAGIC.ljust(search.HEADER, b"\0")


def test_holes_and_compaction(place: Path, kind: str) -> None:
    if kind == "milvus":
        pytest.skip("Milvus has no holes")
    rows, vectors = crowd(200)
    rows = [row._replace(error="") for row in rows]
    with opened(str(place)) as gallery, opened(str(place)) as reader:
        gallery.add(rows, vectors)
        query = unit(np.random.default_rng(6), 1)[0]
        check_like_naive(reader, rows, vectors, query, 200)
        gone = {row.path for row in rows[::2]} - {rows[0].path}
        with reader._reading() as (_, mapped):
            gallery.remove(sorted(gone))
            assert (place / "vectors-1.f16").stat().st_size == search.HEADER + 200 * DIM * 2
            left = [(row, vector) for row, vector in zip(rows, vectors, strict=True) if row.path not in gone]
            check_like_naive(gallery, [row for row, _ in left], np.stack([v for _, v in left]), query, 200)
            gallery.remove([row.path for row, _ in left[:5]])
            left = left[5:]
            # Over half are holes: moved, and whoever still reads the old file keeps it.
            assert [path.name for path in place.glob("vectors-*")] == ["vectors-2.f16"]
            assert (place / "vectors-2.f16").stat().st_size == search.HEADER + 96 * DIM * 2
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


@needs_faiss
def test_hnsw_finds_nearly_all_and_never_the_removed(place: Path) -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(unit(rng, 150, 32), 20, axis=0)
    vectors = people + 0.1 * rng.normal(size=people.shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [Row(f"{number:05d}.jpg", camera=number % 3) for number in range(len(vectors))]
    with Store(place, SPACE, 32, Path("/people")) as gallery:
        gallery.add(rows[:2500], vectors[:2500])
        gallery.remove([row.path for row in rows[:100]])
        assert gallery.build_hnsw() > 0.95  # of 2,400, compacted
        gallery.add(rows[2500:], vectors[2500:])
        gallery.remove([row.path for row in rows[100:120]])
        rows, vectors = rows[120:], vectors[120:]
        hits = 0
        queries = range(0, len(rows), 199)
        for number in queries:
            expected = [path for _, path in naive(rows, vectors.astype(np.float16), vectors[number])[:10]]
            hits += len({one.row.path for one in gallery.search(vectors[number], 10)} & set(expected))
        assert hits / (10 * len(queries)) > 0.95
        # With a filter the search is exact.
        check_like_naive(gallery, rows, vectors, vectors[0], 10, cameras=[1])
        with gallery._reading() as (state, mapped):

            class Nothing:
                def candidates(self, query: Vectors, top: int) -> search.Slots:
                    return np.arange(20)

            assert recall(Nothing(), mapped) < 0.05  # type: ignore[arg-type]
            assert state.length == 2900
        gallery.compact()  # the graph was of other slots
        check_like_naive(gallery, rows, vectors, vectors[5], 10)


def test_damage_is_named(place: Path) -> None:
    rows, vectors = crowd(50)
    with opened(str(place)) as gallery:
        gallery.add(rows, vectors)
    whole = (place / "vectors-1.f16").read_bytes()
    (place / "vectors-1.f16").write_bytes(whole[:-1])
    with opened(str(place)) as gallery, pytest.raises(InputError, match=r"vectors-1\.f16: shorter than its rows say"):
        gallery.search(vectors[0], 1)
    (place / "vectors-1.f16").unlink()
    with opened(str(place)) as gallery, pytest.raises(RunError, match=r"people\.gallery: No such file"):
        gallery.search(vectors[0], 1)
    database = (place / store.DATABASE).read_bytes()
    (place / store.DATABASE).write_bytes(b"x" * len(database))
    with pytest.raises(InputError, match=r"damaged .*delete it and index again"):
        opened(str(place))
    (place / store.DATABASE).write_bytes(database)
    with sqlite3.connect(place / store.DATABASE) as changed:
        changed.execute("UPDATE gallery SET format = 2")
    changed.close()
    with pytest.raises(InputError, match="format 2, but this bot_deploy reads 1"):
        opened(str(place))


def test_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    for name in ("file", "folder"):
        with pytest.raises(InputError, match=rf"{name}: holds something else"):
            galleries.create_gallery(str(tmp_path / name), contract(), tmp_path)


@pytest.fixture
def little_room() -> Iterator[Callable[[int], None]]:
    """A disk on which a file cannot grow beyond some bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def allow(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))

    yield allow
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_loses_nothing(place: Path, little_room: Callable[[int], None]) -> None:
    rows, vectors = crowd(600)
    query = unit(np.random.default_rng(8), 1)[0]
    with opened(str(place)) as gallery:
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
            with opened(str(place)) as other:
                added = len(list(other.rows())) > 300
                check_like_naive(other, rows if added else rows[:300], vectors if added else vectors[:300], query, 400)
            if added:
                break
        assert failed > 3
        assert added


def test_a_second_writer_waits_and_then_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, vectors = crowd(10)
    monkeypatch.setattr(store, "WAIT", 0.3)
    with opened(str(place)) as one, opened(str(place)) as two:
        with one._writing():
            started = time.monotonic()
            with pytest.raises(RunError, match="another process has been writing to it"):
                two.add(rows, vectors)
            assert time.monotonic() - started > 0.25
            assert len(two) == 0  # reading goes on
        two.add(rows, vectors)
        assert len(one) == sum(not row.error for row in rows)


WRITER = """
    import sys
    from pathlib import Path
    import numpy as np
    from bot_deploy.gallery import Row, Store

    place, first, last, step = Path(sys.argv[1]), *map(int, sys.argv[2:])
    print("ready", flush=True)
    with Store(place, "{space}", {dim}, Path("/people")) as gallery:
        for start in range(first, last, step):
            numbers = range(start, min(last, start + step))
            vectors = np.stack([np.random.default_rng(number).normal(size={dim}) for number in numbers])
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            gallery.add([Row(str(number)) for number in numbers], vectors.astype(np.float32))
            gallery.remove([str(number) for number in numbers if number % 3])
"""


def script(text: str, *arguments: object) -> subprocess.Popen[str]:
    code = textwrap.dedent(text)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def of_number(path: str) -> Vectors:
    vector = np.random.default_rng(int(path)).normal(size=DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32).astype(np.float16).astype(np.float64)


def test_two_writers_and_a_reader_at_once(place: Path) -> None:
    opened(str(place)).close()
    text = WRITER.format(space=SPACE, dim=DIM)
    writers = [script(text, place, 0, 900, 10), script(text, place, 600, 1500, 10)]
    sizes = set()
    with opened(str(place)) as reader:
        query = unit(np.random.default_rng(9), 1)[0]
        while any(writer.poll() is None for writer in writers):
            found = reader.search(query, 2000)
            sizes.add(len(found))
            for one in found[:: max(1, len(found) // 20)]:
                vector = of_number(one.row.path)
                assert one.score == pytest.approx(float(vector @ query / np.linalg.norm(vector)), abs=2e-6)
        assert [writer.wait() for writer in writers] == [0, 0]
        assert len(sizes) > 5
        left = [str(number) for number in range(0, 1500, 3)]
        assert sorted(row.path for row in reader.rows()) == sorted(left)
        check_like_naive(reader, [Row(path) for path in left], np.stack([of_number(path) for path in left]), query, 500)
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.close()


INDEXER = """
    import sys
    from pathlib import Path
    import numpy as np
    from bot_deploy import gallery
    from bot_deploy.contract import Contract
    from bot_deploy.embedder import Embedder
    from bot_deploy.gallery import folder

    folder.BATCH = 16
    matrix = np.random.default_rng(0).normal(size=({height} * {width} * 3, {dim}))

    def run(batch):
        vectors = (batch.reshape(len(batch), -1).astype(np.float64) - 127) @ matrix
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    contract = Contract(arch="x", height={height}, width={width}, dim={dim}, fingerprint="{space}")
    embedder = Embedder(contract, "a projection", run)
    place, crops = sys.argv[1], Path(sys.argv[2])
    print("ready", flush=True)
    while True:
        with gallery.create_gallery(place, contract, crops) as people:
            gallery.update(people, crops, embedder)
            people.remove([row.path for row in people.rows()][: len(people) * 2 // 3])
"""


def test_kills_at_random_moments_lose_and_corrupt_nothing(place: Path, crops: Path, embedder: Embedder) -> None:
    expected = {
        path.relative_to(crops).as_posix(): project(images.load(path)).astype(np.float16) for path in images.find(crops)
    }
    text = INDEXER.format(height=HEIGHT, width=WIDTH, dim=DIM, space=SPACE[:16])
    rng = random.Random(0)
    counts = set()
    for _ in range(20):
        indexing = script(text, place, crops)
        time.sleep(rng.uniform(0, 0.3))
        indexing.send_signal(signal.SIGKILL)
        assert indexing.wait() == -signal.SIGKILL
        assert indexing.stdout is not None
        indexing.stdout.close()
        with opened(str(place), root=crops) as gallery:
            rows = list(gallery.rows())
            counts.add(len(rows))
            assert len(gallery) == len(rows)
            assert {row.path for row in rows} <= set(expected)
            for row in rows:
                query = expected[row.path].astype(np.float32)
                found = gallery.search(query / np.linalg.norm(query), 1)[0]
                assert (found.row.path, found.score) == (row.path, pytest.approx(1, abs=1e-6))
            with gallery._reading() as (state, mapped):
                held = dict(gallery._database.execute("SELECT slot, path FROM rows"))
                assert all(slot < state.length for slot in held)
                for slot, path in held.items():
                    # One matrix product or many: the last bit of a half may differ.
                    np.testing.assert_allclose(mapped.vectors[slot], expected[os.fsdecode(path)], rtol=1e-3, atol=1e-7)
    assert len(counts) > 3  # killed at different stages
    with opened(str(place), root=crops) as gallery, opened(str(place.with_name("clean")), root=crops) as clean:
        for one in (gallery, clean):
            galleries.update(one, crops, embedder)
        for query in unit(np.random.default_rng(10), 5):
            assert [found.row for found in gallery.search(query, 120)] == [
                found.row for found in clean.search(query, 120)
            ]


# ---- the commands ----


def bot(*arguments: object, cache: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bot_deploy", *map(str, arguments)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_index_and_match(onnx_file: Path, people: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(people / "bounding_box_test", tmp_path / "crops"))
    (root / "broken.jpg").write_bytes(b"")
    query = sorted((people / "query").iterdir())[0]
    camera = parse(query.name).camera
    out = tmp_path / "people.gallery"
    command = ("index", root, "-o", out, "--model", onnx_file, "--json")
    documents = []
    for _ in range(2):
        done = bot(*command, cache=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"left out: {root}/broken.jpg: the file is empty" in done.stderr
        documents.append(json.loads(done.stdout))
    total = len(images.find(root)) - 1
    assert [document["new"] for document in documents] == [total + 1, 0]
    assert [document["unchanged"] for document in documents] == [0, total + 1]
    assert documents[1]["images"] == total
    assert documents[1]["broken_files"] == [{"path": "broken.jpg", "error": "the file is empty"}]

    def matches(gallery: object, *options: object) -> Any:
        done = bot("match", query, gallery, "--model", onnx_file, "--json", *options, cache=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    everything = matches(out, "--top", 1000)
    assert everything == matches(root, "--top", 1000)
    assert len(everything["matches"]) == total
    for found in everything["matches"]:
        seen = parse(Path(found["path"]).name)
        assert (found["identity"], found["camera"], found["time"]) == tuple(seen)
    others = [found for found in everything["matches"] if found["camera"] != camera]
    assert 0 < len(others) < total

    def paths(found: list[dict[str, Any]]) -> list[str]:
        return [one["path"] for one in found]

    assert paths(matches(out, "--exclude-same-camera", "--top", 1000)["matches"]) == paths(others)
    assert paths(matches(out, "--exclude-camera", camera, "--top", 4)["matches"]) == paths(others)[:4]
    edge = everything["matches"][5]["score"]
    assert len(matches(out, "--top", 1000, "--min-score", edge)["matches"]) == 6
    same = [found for found in everything["matches"] if found["camera"] == camera]
    assert paths(matches(out, "--camera", camera, "--top", 1000)["matches"]) == paths(same)
    times = sorted(found["time"] for found in everything["matches"])
    middle = times[len(times) // 2]
    late = [found for found in everything["matches"] if found["time"] >= middle]
    assert paths(matches(out, "--since", middle, "--top", 1000)["matches"]) == paths(late)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["index", "{crops}", "-o", "{tmp}/crops", "--model", "{model}"], "holds something else"),
        (["index", "{tmp}/none", "-o", "{tmp}/x.gallery", "--model", "{model}"], "none: no such folder"),
        (
            ["index", "{crops}", "-o", "milvus://h/n", "--ann", "hnsw", "--model", "{model}"],
            "--ann is for galleries in",
        ),
        (["index", "{crops}", "-o", "{tmp}/x", "--metadata", "{tmp}/no.csv", "--model", "{model}"], "no.csv: not a"),
        (["match", "{query}", "{tmp}/none", "--model", "{model}"], "none: no such folder"),
        (["match", "{query}", "{crops}", "--since", "noon", "--model", "{model}"], "--since noon: write a time"),
        (["match", "{tmp}/q.bmp", "{crops}", "--exclude-same-camera", "--model", "{model}"], "not say which camera"),
    ],
)
def test_wrong_usage_is_one_line(
    words: list[str], message: str, onnx_file: Path, people: Path, crops: Path, tmp_path: Path
) -> None:
    draw(tmp_path / "q.bmp", 0)
    names = {"crops": crops, "tmp": tmp_path, "model": onnx_file, "query": sorted((people / "query").iterdir())[0]}
    done = bot(*(word.format(**names) for word in words), cache=tmp_path / "cache")
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
