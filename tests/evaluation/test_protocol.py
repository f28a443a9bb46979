"""Scores of data sets: re-ranked, of one camera, and by embeddings that are kept."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from bot_deploy.artifacts.contract import Contract
from bot_deploy.cli import describe_error, main
from bot_deploy.datasets import open_dataset
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError
from bot_deploy.evaluation import embeddings, protocol
from bot_deploy.evaluation.embeddings import embed_or_reuse
from bot_deploy.evaluation.metrics import evaluate
from bot_deploy.evaluation.protocol import EUCLIDEAN, embed_crops, evaluate_dataset
from bot_deploy.evaluation.rerank import k_reciprocal
from bot_deploy.files import cache_folder

if TYPE_CHECKING:
    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder(embeddings.CACHE_NAME)


class Counting:
    """An embedder of mean colours in eight places, which counts the crops it has seen."""

    def __init__(self) -> None:
        self.crops = 0
        contract = Contract(arch="colours", height=32, width=16, dim=24, fingerprint="0" * 16)
        self.embedder = Embedder(contract, "colours 1", self.run)

    def run(self, batch: Pixels) -> Vectors:
        self.crops += len(batch)
        means = batch.reshape(len(batch), 4, 8, 2, 8, 3).mean(axis=(2, 4)).reshape(len(batch), -1)
        means = means - means.mean(axis=1, keepdims=True) + 1e-3
        return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), dtype=np.float32)


@pytest.fixture
def colours() -> Counting:
    return Counting()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def own_people(tmp_path: Path, people: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(people, tmp_path / "people"))


# ---- scores ----


def test_re_ranked(colours: Counting, people: Path) -> None:
    dataset = open_dataset(people)
    query, gallery = (embed_crops(colours.embedder, part, "") for part in (dataset.query, dataset.gallery))
    expected = evaluate(
        -k_reciprocal(query, gallery),
        *([crop.identity for crop in part] for part in (dataset.query, dataset.gallery)),
        *([crop.camera for crop in part] for part in (dataset.query, dataset.gallery)),
    )
    plain, scores = (
        evaluate_dataset(colours.embedder, dataset),
        evaluate_dataset(colours.embedder, dataset, rerank=True),
    )
    assert scores.mAP == pytest.approx(100 * expected.mAP)
    assert scores.rank1 == pytest.approx(100 * expected.cmc[0])
    assert scores.mAP != pytest.approx(plain.mAP)
    # Of unit vectors both metrics rank alike, so they are re-ranked alike.
    assert evaluate_dataset(colours.embedder, dataset, EUCLIDEAN, rerank=True).mAP == scores.mAP


@pytest.mark.parametrize(("pictures", "warned"), [(1, True), (2, True), (3, False)])
def test_re_ranking_of_few_pictures_is_warned_of(
    pictures: int, warned: bool, colours: Counting, people: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One query of each person, and so many pictures in the gallery; all are neighbours of each other."""
    dataset = open_dataset(people)
    held: Counter[int] = Counter()
    gallery = []
    for crop in dataset.gallery:
        held[crop.identity] += 1
        if crop.identity > 0 and held[crop.identity] <= pictures:
            gallery.append(crop)
    query = list({crop.identity: crop for crop in dataset.query}.values())
    few = replace(dataset, query=query, gallery=gallery)
    evaluate_dataset(colours.embedder, few, camera_filter=False)
    assert "re-ranking" not in caplog.text
    evaluate_dataset(colours.embedder, few, rerank=True, camera_filter=False)
    note = f"re-ranking makes ranks worse where people have few pictures: {pictures + 1:.1f} per person here"
    assert (note in caplog.text) == warned


def write(path: Path, colour: tuple[int, int, int], *, upper: int) -> None:
    """A crop whose upper part has a colour of its own."""
    picture = Image.new("RGB", (16, 32), colour)
    picture.paste((255, 255, 255), (0, 0, 16, upper))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


@pytest.fixture
def one_camera(tmp_path: Path) -> Path:
    """Camera 1 alone: two people with two pictures each; person 1's query is in the gallery a second time."""
    root = tmp_path / "one"
    for person, colour in ((1, (200, 0, 0)), (2, (0, 0, 200))):
        write(root / f"query/000{person}_c1_a.png", colour, upper=8)
        write(root / f"bounding_box_test/000{person}_c1_b.png", colour, upper=16)
    shutil.copy(root / "query/0001_c1_a.png", root / "bounding_box_test/0001_c1_copy.png")
    return root


def test_no_camera_filter(colours: Counting, one_camera: Path) -> None:
    dataset = open_dataset(one_camera)
    with pytest.raises(InputError, match="from another camera") as caught:
        evaluate_dataset(colours.embedder, dataset)
    assert describe_error(caught.value)[0].endswith("without the camera filter (--no-camera-filter)")
    scores = evaluate_dataset(colours.embedder, dataset, camera_filter=False)
    assert (scores.rank1, scores.mAP, scores.queries, scores.gallery) == (100, 100, 2, 3)


def test_a_copy_of_the_query_is_no_match_without_a_camera_filter(colours: Counting, one_camera: Path) -> None:
    (one_camera / "bounding_box_test/0001_c1_b.png").unlink()
    dataset = open_dataset(one_camera)
    queries = [crop.camera for crop in dataset.query], [crop.camera for crop in dataset.gallery]
    assert queries == ([1, 1], [1, 1])
    numbers = protocol._number_files(dataset.query, dataset.gallery)
    assert numbers[0][0] == numbers[1][0]
    assert len({*numbers[0], *numbers[1]}) == 3
    only = replace(dataset, query=dataset.query[:1])
    with pytest.raises(InputError, match="no query has a true match"):
        evaluate_dataset(colours.embedder, only, camera_filter=False)


def test_no_camera_filter_counts_what_the_filter_leaves_out(colours: Counting, people: Path) -> None:
    dataset = open_dataset(people)
    query, gallery = (embed_crops(colours.embedder, part, "") for part in (dataset.query, dataset.gallery))
    ids = ([crop.identity for crop in part] for part in (dataset.query, dataset.gallery))
    expected = evaluate(query @ gallery.T, *ids, [1] * len(query), [2] * len(gallery))
    assert evaluate_dataset(colours.embedder, dataset, camera_filter=False).mAP == pytest.approx(100 * expected.mAP)
    assert evaluate_dataset(colours.embedder, dataset).mAP != pytest.approx(100 * expected.mAP)


# ---- embeddings that are kept ----


def scored(colours: Counting, model: Path, data: Path, **options: Any) -> tuple[protocol.Scores, int]:
    """The scores, and how many crops had to be embedded for them."""
    before = colours.crops
    embed = partial(embed_or_reuse, model=model, **options)
    scores = evaluate_dataset(colours.embedder, open_dataset(data), embed=embed)
    return replace(scores, seconds=0), colours.crops - before


def test_embedded_once(
    colours: Counting, model: Path, people: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, count = scored(colours, model, people)
    assert count == first.queries + first.gallery
    assert "reused" not in caplog.text
    assert scored(colours, model, people) == (first, 0)
    assert f"embeddings of {first.queries} query crops reused" in caplog.text
    assert scored(colours, model, people, fresh=True) == (first, count)
    assert len(list(cache.iterdir())) == 2  # nothing half written, nothing twice


def test_evaluation_by_itself_keeps_nothing(colours: Counting, people: Path, cache: Path) -> None:
    """As `bot train` calls it, where the weights change from epoch to epoch."""
    evaluate_dataset(colours.embedder, open_dataset(people))
    assert not cache.exists()


def test_other_model_or_backend(colours: Counting, model: Path, people: Path, tmp_path: Path) -> None:
    _, count = scored(colours, model, people)
    colours.embedder = replace(colours.embedder, backend="colours 2")
    assert scored(colours, model, people)[1] == count
    assert scored(colours, model, people)[1] == 0
    shutil.copy(model, tmp_path / "moved.onnx")
    assert scored(colours, tmp_path / "moved.onnx", people)[1] == 0
    model.write_bytes(b"Weights")
    assert scored(colours, model, people)[1] == count


def test_other_pictures(colours: Counting, model: Path, own_people: Path) -> None:
    first, count = scored(colours, model, own_people)
    crop = next(iter((own_people / "query").iterdir()))
    stat = crop.stat()
    data = bytearray(crop.read_bytes())
    data[-3] ^= 1  # as long as before, and made to look as old
    crop.write_bytes(data)
    os.utime(crop, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert scored(colours, model, own_people)[1] == first.queries  # the gallery is what it was
    crop.unlink()
    assert scored(colours, model, own_people)[1] == first.queries - 1
    other = next(iter((own_people / "bounding_box_test").iterdir()))
    other.rename(other.with_name("0099_c1s1_000000_00.jpg"))
    assert scored(colours, model, own_people)[1] == count - first.queries


def test_a_zip_by_its_content(colours: Counting, model: Path, people: Path, tmp_path: Path) -> None:
    files = sorted(path for path in people.rglob("*.jpg"))

    def pack(name: str, changed: bytes = b"") -> Path:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path in files:
                change = path == files[-1] and changed
                archive.writestr(str(path.relative_to(people)), changed if change else path.read_bytes())
        return tmp_path / name

    first, count = scored(colours, model, pack("a.zip"))
    assert count
    assert scored(colours, model, pack("b.zip")) == (first, 0)
    assert files[-1].parent.name == "query"
    assert scored(colours, model, pack("b.zip", files[-2].read_bytes()))[1] == first.queries


def test_a_damaged_file_is_made_again(colours: Counting, model: Path, people: Path, cache: Path) -> None:
    first, count = scored(colours, model, people)
    for path in cache.iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert scored(colours, model, people) == (first, count)
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert scored(colours, model, people) == (first, count)
    assert scored(colours, model, people) == (first, 0)


def test_the_longest_unused_go_first(
    colours: Counting, model: Path, people: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, _ = scored(colours, model, people)
    kept = {path.stat().st_size: path for path in cache.iterdir()}
    monkeypatch.setattr(embeddings, "MAX_CACHE_BYTES", 2 * sum(kept))
    for age, path in enumerate(kept.values(), start=1):
        os.utime(path, (1000 + age, 1000 + age))
    (cache / ".left.1.tmp").write_bytes(b"by a run that was killed")
    os.utime(cache / ".left.1.tmp", (1, 1))
    first = [kept[size] for size in kept]
    model.write_bytes(b"second")
    scored(colours, model, people)
    assert not (cache / ".left.1.tmp").exists()
    assert all(path.exists() for path in first)
    model.write_bytes(b"weights")
    assert scored(colours, model, people)[1] == 0  # used again, so the second model's are now the oldest
    model.write_bytes(b"third")
    scored(colours, model, people)
    assert all(path.exists() for path in first)
    assert sum(path.stat().st_size for path in cache.iterdir()) <= embeddings.MAX_CACHE_BYTES
    model.write_bytes(b"second")
    assert scored(colours, model, people)[1] == scores.queries + scores.gallery


def test_more_than_may_be_kept(
    colours: Counting, model: Path, people: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "MAX_CACHE_BYTES", 100)
    _, count = scored(colours, model, people)
    assert scored(colours, model, people)[1] == count
    assert not cache.exists()


def test_where_nothing_can_be_kept(
    colours: Counting,
    model: Path,
    people: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    first, count = scored(colours, model, people)
    assert "embeddings are not cached" in caplog.text
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", homeless)
    assert scored(colours, model, people) == (first, count)


def test_a_missing_crop_is_named(colours: Counting, model: Path, own_people: Path) -> None:
    dataset = open_dataset(own_people)
    dataset.query[0].path.unlink()
    with pytest.raises(InputError, match="crops cannot be used"):
        evaluate_dataset(colours.embedder, dataset, embed=partial(embed_or_reuse, model=model))


# ---- the command ----


def test_command(onnx_file: Path, people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> tuple[dict[str, float], str]:
        """The JSON document and stderr of `bot eval`."""
        with pytest.raises(SystemExit) as exited:
            main(["eval", str(onnx_file), "--data", str(people), *map(str, arguments), "--json"])
        assert not exited.value.code
        out, err = capsys.readouterr()
        return json.loads(out), err

    plain, err = run()
    assert "reused" not in err
    again, err = run()
    assert err.count("reused") == 2
    _, err = run("--refresh-cache")
    assert "reused" not in err
    assert {**again, "seconds": 0} == {**plain, "seconds": 0}
    reranked, err = run("--rerank")
    assert err.count("reused") == 2
    unfiltered, _ = run("--no-camera-filter")
    single, _ = run("--single-shot")
    assert list(plain) == list(reranked) == list(unfiltered) == list(single)
    assert len({plain["mAP"], reranked["mAP"], unfiltered["mAP"]}) == 3
    assert single["mAP"] == plain["mAP"]
    assert single["rank1"] != plain["rank1"]
