"""Embedding, searching, matching and the rank list's figure, with a projection of pixels in the model's place."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bot_deploy import gallery as galleries
from bot_deploy import images
from bot_deploy.artifacts.contract import Contract
from bot_deploy.datasets.names import CropMetadata
from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.errors import ImageError, InputError, RunError
from bot_deploy.gallery import GalleryItem, LocalIndex, parse_name
from bot_deploy.matching.match import Match, Ranking, match
from bot_deploy.matching.verdict import Verdict
from bot_deploy.reports import montage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEIGHT, WIDTH, DIM = 16, 8, 5
BATCH = Embedder.batch_size
CONTRACT = Contract(arch="projection", height=HEIGHT, width=WIDTH, dim=DIM, fingerprint="0" * 16)
MATRIX = np.random.default_rng(0).normal(size=(HEIGHT * WIDTH * 3, DIM))

Vectors = npt.NDArray[np.float32]


def project(pixels: npt.NDArray[np.uint8]) -> Vectors:
    """One image to its unit vector, by itself: the reference."""
    vector = (pixels.reshape(-1).astype(np.float64) - 127) @ MATRIX
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


class Model:
    """What `Embedder.run` is called with."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, batch: npt.NDArray[np.uint8]) -> Vectors:
        assert batch.dtype == np.uint8
        assert batch.shape[1:] == (HEIGHT, WIDTH, 3)
        self.batches.append(len(batch))
        return np.stack([project(pixels) for pixels in batch])


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def indexed(folder: Path, embedder: Embedder) -> LocalIndex:
    gallery, _ = galleries.open_folder_gallery(folder, embedder)
    return gallery


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def embedder(model: Model) -> Embedder:
    return Embedder(CONTRACT, "a projection", model)


def picture(seed: int, height: int = 20, width: int = 11) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "gallery"
    for seed in range(40):
        save(root / f"{'sub/' if seed % 3 else ''}{seed:04d}_c1.png", picture(seed))
    return root


@pytest.fixture
def query(tmp_path: Path) -> Path:
    # Close to number 17 of the gallery.
    return save(tmp_path / "query.png", (picture(17) * 0.9 + picture(99) * 0.1).astype(np.uint8))


def naive_ranking(query: Path, files: list[Path]) -> list[tuple[Path, float]]:
    wanted = project(images.read_resized(query, (HEIGHT, WIDTH)))
    scored = []
    for file in files:
        vector = project(images.read_resized(file, (HEIGHT, WIDTH)))
        scored.append((file, sum(float(a) * float(b) for a, b in zip(wanted, vector, strict=True))))
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))


# ---- the embedder ----


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 5])
def test_embed_in_batches(embedder: Embedder, model: Model, count: int) -> None:
    pictures = [picture(seed, HEIGHT + seed % 4, WIDTH + seed % 3) for seed in range(count)]
    vectors = embedder.embed(pictures)
    assert vectors.dtype == np.float32
    expected = [project(images.resize(pixels, (HEIGHT, WIDTH))) for pixels in pictures]
    np.testing.assert_array_equal(vectors, expected)
    assert sum(model.batches) == count
    assert max(model.batches) <= BATCH
    assert len(model.batches) == -(-count // BATCH)


def test_embed_nothing(embedder: Embedder, model: Model) -> None:
    vectors = embedder.embed([])
    assert vectors.shape == (0, DIM)
    assert vectors.dtype == np.float32
    files, errors = embedder.embed_files([])
    assert files.shape == (0, DIM)
    assert errors == []
    assert model.batches == []


def test_embed_files_and_arrays_alike(embedder: Embedder, tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", picture(3))
    vectors = embedder.embed([picture(3), file, str(file)])
    np.testing.assert_array_equal(vectors, [project(images.resize(picture(3), (HEIGHT, WIDTH)))] * 3)


NORMALISED = (picture(0) / 255).astype(np.float32)


@pytest.mark.parametrize(
    "wrong",
    [
        NORMALISED,
        picture(0).astype(np.float64),
        picture(0).astype(np.int32),
        picture(0).astype(bool),
        picture(0)[..., 0],
        picture(0)[None],
        np.dstack([picture(0), picture(0)[..., :1]]),
        picture(0).transpose(2, 0, 1),
        picture(0)[:0],
        picture(0)[:, :0],
    ],
    ids=["float32", "float64", "int32", "bool", "grey", "batch", "rgba", "channels first", "no rows", "no columns"],
)
def test_wrong_arrays_are_refused_with_what_to_give(embedder: Embedder, model: Model, wrong: Any) -> None:
    with pytest.raises(ImageError, match=r"^image 1: .*uint8 RGB \[H, W, 3\], not normalised") as caught:
        embedder.embed([picture(0), wrong])
    assert str(wrong.shape) in str(caught.value)
    assert str(wrong.dtype) in str(caught.value)
    assert model.batches == []


def test_embed_names_a_broken_file(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"broken\.jpg: not a"):
        embedder.embed([picture(0), tmp_path / "broken.jpg"])


def test_embed_files_leaves_a_zero_row_for_each_broken_one(embedder: Embedder, model: Model, tmp_path: Path) -> None:
    paths = []
    for index in range(2 * BATCH + 9):
        paths.append(save(tmp_path / f"{index}.png", picture(index)))
        if index % 5 == 2:
            paths[-1].write_bytes(b"")
    vectors, errors = embedder.embed_files(paths)
    for index, (vector, error) in enumerate(zip(vectors, errors, strict=True)):
        if index % 5 == 2:
            assert str(error) == f"{paths[index]}: the file is empty"
            assert not vector.any()
        else:
            assert error is None
            np.testing.assert_array_equal(vector, project(images.resize(picture(index), (HEIGHT, WIDTH))))
    assert max(model.batches) <= BATCH


# ---- ranking ----


def test_ranking_like_the_loop(embedder: Embedder, folder: Path, query: Path) -> None:
    gallery = indexed(folder, embedder)
    expected = naive_ranking(query, sorted(folder.rglob("*.png")))
    ranking = match(query, gallery, embedder, top=7)
    assert ranking.query == query
    assert [found.path for found in ranking.matches] == [path for path, _ in expected[:7]]
    assert [found.rank for found in ranking.matches] == [1, 2, 3, 4, 5, 6, 7]
    assert [found.score for found in ranking.matches] == pytest.approx([score for _, score in expected[:7]], abs=1e-3)
    assert ranking.matches[0].path.name == "0017_c1.png"
    assert ranking.verdict.decision == "uncalibrated"


def test_a_picture_matches_itself_with_score_one(embedder: Embedder, folder: Path) -> None:
    itself = folder / "0003_c1.png"
    best = match(itself, indexed(folder, embedder), embedder, top=1).matches
    assert [found.path for found in best] == [itself]
    assert best[0].score == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("top", [40, 41, 1000])
def test_no_more_matches_than_images(embedder: Embedder, folder: Path, query: Path, top: int) -> None:
    matches = match(query, indexed(folder, embedder), embedder, top=top).matches
    assert sorted(found.path for found in matches) == sorted(folder.rglob("*.png"))
    assert [found.rank for found in matches] == list(range(1, 41))


@pytest.mark.parametrize("count", [2, 3, 5, 7, 33, 100])
@pytest.mark.parametrize("length", [5, 128, 512, 2048])
def test_equal_vectors_score_equally_and_go_by_path(tmp_path: Path, count: int, length: int) -> None:
    # BLAS would sum the last rows in another order and rank by rounding.
    rng = np.random.default_rng(length)
    vector = rng.normal(size=length).astype(np.float32)
    vectors = np.tile(vector / np.linalg.norm(vector), (count, 1))  # a gallery holds unit vectors
    paths = [f"{index:03d}.jpg" for index in range(count)]
    with LocalIndex(tmp_path / "x.gallery", CONTRACT.embedding_space, length, tmp_path) as gallery:
        gallery.add([GalleryItem(path) for path in paths[::-1]], vectors)
        found = gallery.search(rng.normal(size=length).astype(np.float32), count)
    assert [one.item.path for one in found] == paths
    assert len({one.score for one in found}) == 1


def test_copies_go_by_path(embedder: Embedder, folder: Path, query: Path) -> None:
    for name in ("zz.png", "a/b.png", "0000.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "sub" / "0017_c1.png", folder / name)
    ranking = match(query, indexed(folder, embedder), embedder, top=4)
    names = [found.path.relative_to(folder).as_posix() for found in ranking.matches]
    assert names == ["0000.png", "a/b.png", "sub/0017_c1.png", "zz.png"]


def test_broken_files_are_named_and_change_no_rank(embedder: Embedder, folder: Path, query: Path) -> None:
    before = match(query, indexed(folder, embedder), embedder, top=40)
    whole = (folder / "0000_c1.png").read_bytes()
    broken = {"0000.jpg": b"", "m.jpg": b"text", "sub/0009_cut.png": whole[:300], "zz.webp": b"RIFF"}
    for name, data in broken.items():
        (folder / name).write_bytes(data)
    (folder / "notes.txt").write_text("not even asked")
    (folder / "._0001.jpg").write_bytes(b"hidden")
    gallery = indexed(folder, embedder)
    assert {row.path for row in gallery.broken()} == set(broken)
    for row in gallery.broken():
        with pytest.raises(ImageError) as caught:
            images.read_image(folder / row.path)
        assert str(caught.value) == f"{folder / row.path}: {row.error}"
    assert len(gallery) == 40
    assert match(query, gallery, embedder, top=40).matches == before.matches


@pytest.mark.parametrize("top", [0, -1])
def test_top_must_be_positive(embedder: Embedder, folder: Path, query: Path, top: int) -> None:
    with pytest.raises(InputError, match=rf"^{top} matches for each query: choose at least 1"):
        match(query, indexed(folder, embedder), embedder, top=top)


def test_query_that_is_no_picture(embedder: Embedder, folder: Path, tmp_path: Path) -> None:
    gallery = indexed(folder, embedder)
    with pytest.raises(ImageError, match=r"missing\.jpg: cannot be read"):
        match(tmp_path / "missing.jpg", gallery, embedder)


@pytest.mark.parametrize("content", [{}, {"a.txt": b"x"}, {"a.jpg": b"x", "b.png": b""}], ids=["empty", "text", "bad"])
def test_folder_without_a_usable_picture(embedder: Embedder, tmp_path: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    pictures = sum(not name.endswith(".txt") for name in content)
    with pytest.raises(InputError, match=rf"{pictures} image files, none usable; crops end in .*\.jpg") as caught:
        indexed(tmp_path, embedder)
    assert str(caught.value).startswith(f"{tmp_path}: ")


def test_gallery_that_is_no_folder(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "file.jpg").touch()
    for name in ("missing", "file.jpg"):
        with pytest.raises(InputError, match=rf"{name}: no such folder"):
            indexed(tmp_path / name, embedder)


# ---- what match() opens ----


def test_a_query_as_path_text_and_array(embedder: Embedder, folder: Path, query: Path) -> None:
    gallery = indexed(folder, embedder)
    expected = match(query, gallery, embedder)
    assert match(str(query), gallery, embedder) == expected
    from_array = match(images.read_image(query), gallery, embedder)
    assert (from_array.matches, from_array.verdict) == (expected.matches, expected.verdict)
    assert (str(from_array.query), from_array.metadata) == ("<array>", CropMetadata())


def test_a_list_of_images_is_a_multi_shot_query(embedder: Embedder, folder: Path, query: Path) -> None:
    other = folder / "0003_c1.png"
    ranking = match([query, images.read_image(other)], indexed(folder, embedder), embedder, top=40)
    mean = project(images.read_resized(query, (HEIGHT, WIDTH))) + project(images.read_resized(other, (HEIGHT, WIDTH)))
    mean /= np.linalg.norm(mean)
    for found in ranking.matches:
        assert found.score == pytest.approx(mean @ project(images.read_resized(found.path, (HEIGHT, WIDTH))), abs=1e-3)
    assert ranking.query == query
    assert [str(path) for path in ranking.shots] == [str(query), "<array>"]
    with pytest.raises(InputError, match="no image in the query"):
        match([], indexed(folder, embedder), embedder)


def test_a_gallery_as_folder_index_and_image(embedder: Embedder, folder: Path, query: Path, tmp_path: Path) -> None:
    expected = match(query, indexed(folder, embedder), embedder, top=5)
    for gallery in (folder, str(folder)):
        assert match(query, gallery, embedder, top=5) == expected
    with LocalIndex(tmp_path / "x.gallery", CONTRACT.embedding_space, DIM, folder) as index:
        galleries.index_folder(index, folder, embedder)
    assert match(query, tmp_path / "x.gallery", embedder, top=5) == expected
    best = expected.matches[0]
    (only,) = match(query, best.path, embedder).matches
    assert (only.path, only.rank, only.identity, only.camera) == (best.path, 1, "0017", 1)
    assert only.score == pytest.approx(best.score, abs=1e-3)
    assert match(query, best.path, embedder, min_score=0.999).matches == ()
    assert match(query, best.path, embedder, exclude_cameras=[1]).matches == ()


def test_a_model_as_path_and_by_default(onnx_file: Path, people: Path) -> None:
    first, second = sorted((people / "query").iterdir())[:2]
    expected = match(first, second, open_embedder(onnx_file))
    assert match(first, second, onnx_file) == match(first, second, str(onnx_file)) == expected
    assert match(first, second) == match(first, second, open_embedder()) != expected


# ---- the figure ----

GREEN, RED, GREY, BLUE, WHITE = (30, 150, 60), (205, 50, 45), (190, 190, 190), (40, 90, 200), (255, 255, 255)


def tile(row: int, column: int) -> tuple[int, int]:
    """Left and top of a tile: 96 x 192 crops, 10 apart, 22 for the words below, 10 more beside the query."""
    return 10 + column * 106 + (10 if column else 0), 10 + row * 224


def frame(sheet: npt.NDArray[np.uint8], row: int, column: int) -> set[tuple[int, ...]]:
    """Every colour in the 4 pixels of frame around a tile."""
    left, top = tile(row, column)
    inside = np.zeros((192, 96), bool)
    inside[4:-4, 4:-4] = True
    return {tuple(map(int, pixel)) for pixel in sheet[top : top + 192, left : left + 96][~inside]}


def ranked(query: Path, *paths: Path, shots: tuple[Path, ...] = ()) -> Ranking:
    matches = tuple(Match(path, 1 - rank / 10, rank, *parse_name(path.name)) for rank, path in enumerate(paths, 1))
    return Ranking(query, matches, Verdict("", ""), parse_name(query.name), shots)


@pytest.fixture
def crop(tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        return save(tmp_path / "crops" / name, np.full((30, 15, 3), (10, 20, 30), np.uint8))

    return make


def test_montage_frames(tmp_path: Path, crop: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "new" / "folder" / "ranks.png"
    others = crop("0007_c2s1.png"), crop("0008_c2s1.png"), crop("somebody.png")
    known = ranked(crop("0007_c1s1.png"), *others)
    unknown = ranked(crop("someone.png"), crop("0001_c1s1.png"), tmp_path / "elsewhere.png")
    person = ranked(tmp_path, crop("-1_c1s1.png"), shots=(crop("first.png"), crop("second.png")))
    montage.write_rank_list_figure([known, unknown, person], out)
    with Image.open(out) as image:
        assert image.format == "PNG"
        sheet = np.asarray(image.convert("RGB"))
    assert [frame(sheet, 0, column) for column in range(4)] == [{BLUE}, {GREEN}, {RED}, {GREY}]
    assert [frame(sheet, 1, column) for column in range(4)] == [{BLUE}, {GREY}, {GREY}, {WHITE}]
    assert [frame(sheet, 2, column) for column in range(4)] == [{BLUE}, {GREY}, {WHITE}, {WHITE}]
    for row, column in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (2, 0)]:
        left, top = tile(row, column)
        assert (sheet[top + 4 : top + 188, left + 4 : left + 92] == (10, 20, 30)).all()
    # Of a file that is not there, the frame and words on paper.
    left, top = tile(1, 2)
    inside = sheet[top + 4 : top + 188, left + 4 : left + 92]
    assert (inside[0] == 255).all()
    assert (inside < 128).any()
    assert caplog.messages == [f"not drawn: {tmp_path}/elsewhere.png: cannot be read (No such file or directory)"]
    # Words stand below every tile that is there, and nothing below one that is not.
    left, top = tile(1, 2)
    assert (sheet[top + 192 : top + 214, left : left + 96] < 128).any()
    left, top = tile(1, 3)
    assert (sheet[top:, left:] == 255).all()
    # All of it fits.
    assert (sheet[:10] == 255).all()
    assert (sheet[:, -10:] == 255).all()
    assert (sheet[-10:] == 255).all()


def test_montage_draws_the_first_of_very_many(
    tmp_path: Path, crop: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(montage, "MAX_TILES", 2)
    monkeypatch.setattr(montage, "MAX_QUERIES", 3)
    name = crop("0007_c1s1.png")
    montage.write_rank_list_figure([ranked(name, name, name, name)] * 5, tmp_path / "ranks.png")
    with Image.open(tmp_path / "ranks.png") as image:
        assert image.size == (3 * 106 + 20, 3 * 224 + 10)
    assert caplog.messages == [f"{tmp_path}/ranks.png: shows the first 3 of 5 queries"]


def test_montage_that_cannot_be_written(tmp_path: Path, crop: Callable[[str], Path]) -> None:
    ranking = ranked(crop("a.png"), crop("b.png"))
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for name in ("ranks.unknown", "ranks"):
        with pytest.raises(InputError, match=rf"{name}: a figure ends in .*\.png"):
            montage.write_rank_list_figure([ranking], tmp_path / name)
    for name in ("file/ranks.png", "folder.png"):
        with pytest.raises(RunError, match=r": cannot be written \(.*\)") as caught:
            montage.write_rank_list_figure([ranking], tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert caught.value.exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crops", "file", "folder.png"]
