"""`bot adapt`, and search with the model that it writes, against plain loops."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers.fake_camera import write_colour_model
from helpers.random_gallery import open_test_index, random_items, random_unit_vectors
from PIL import Image

from bot_deploy import cli, match, open_embedder
from bot_deploy.artifacts import read_contract
from bot_deploy.camera_means import camera_means_of, fit_camera_means, fit_whitening
from bot_deploy.errors import InputError
from bot_deploy.evaluation.protocol import evaluate_dataset
from bot_deploy.matching.adapt import fit_adaptation
from bot_deploy.matching.centered_gallery import CenteredGallery
from bot_deploy.matching.identify import PersonIdentifier

if TYPE_CHECKING:
    from pathlib import Path

CASTS = {1: (60, 0, 0), 2: (0, 0, 60)}  # camera -> what its light adds to red, green and blue


def draw_crops(root: Path, split: str, first: int, people: int) -> None:
    """Crops of `people` people in their own colours, under the light of two cameras, in Market-1501 layout."""
    for person in range(first, first + people):
        colour = np.random.default_rng(person).integers(20, 160, 3)
        for camera, cast in CASTS.items():
            path = root / split / f"{person:04d}_c{camera}s1_000001_01.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.broadcast_to(colour + np.array(cast), (16, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    draw_crops(tmp_path / "unlabelled", "", 1, 40)  # of other people
    draw_crops(tmp_path / "people", "query", 101, 30)
    draw_crops(tmp_path / "people", "bounding_box_test", 101, 30)
    write_colour_model(tmp_path / "model.onnx")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        cli.main([str(word) for word in words])
    printed = capsys.readouterr()
    return int(done.value.code or 0), printed.out, printed.err


def test_people_are_found_across_cameras_of_another_light(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "adapt", "model.onnx", "--images", "unlabelled", "-o", "adapted.onnx", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["cameras"] == {"1": 40, "2": 40}
    assert document["camera_gap"]["before"] > 0.05
    assert abs(document["camera_gap"]["after"]) < document["camera_gap"]["before"] / 2
    before, after = (evaluate_dataset(root / name, root / "people") for name in ("model.onnx", "adapted.onnx"))
    assert after.mAP > before.mAP + 20
    query = root / "people" / "query" / "0101_c1s1_000001_01.png"
    ranking = match(query, root / "people" / "bounding_box_test", root / "adapted.onnx", exclude_same_camera=True)
    # The scores are cosines without the means.
    embedder = open_embedder(root / "adapted.onnx")
    means = camera_means_of(embedder.contract)
    assert means
    paths = [query, *(item.path for item in ranking.matches)]
    first, *others = means.center(embedder.embed(paths), [1] + [2] * len(ranking.matches))
    assert [item.score for item in ranking.matches] == pytest.approx(
        [float(first @ other) for other in others], abs=2e-3
    )


def test_the_index_of_the_model_serves_the_adapted_one(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "index", "unlabelled", "-o", "x.gallery", "--model", "model.onnx")[0] == 0
    assert run(capsys, "adapt", "model.onnx", "--gallery", "x.gallery", "-o", "by-index.onnx")[0] == 0
    assert run(capsys, "adapt", "model.onnx", "--images", "unlabelled", "-o", "by-images.onnx")[0] == 0
    by_index, by_images = (camera_means_of(read_contract(root / f"by-{way}.onnx")) for way in ("index", "images"))
    assert by_index
    assert by_images
    assert by_index.crops == by_images.crops
    assert by_index.of_camera[1] == pytest.approx(by_images.of_camera[1], abs=1e-3)
    query = "people/query/0101_c1s1_000001_01.png"
    assert run(capsys, "match", query, "x.gallery", "--model", "by-index.onnx")[0] == 0


def test_commands_say_that_a_model_is_adapted_and_where_no_camera_is_known(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "adapt", "model.onnx", "--images", "unlabelled", "-o", "adapted.onnx")[0] == 0
    query, gallery = "people/query/0101_c1s1_000001_01.png", "people/bounding_box_test"
    lines = "adapted to cameras (1, 2): every embedding loses the mean of its camera\n", "none of these crops is known"
    for words in (
        ("match", query, gallery, "--model"),
        ("eval", "--data", "people"),
        ("calibrate", "--data", "people"),
    ):
        adapted, plain = (run(capsys, *words, name)[2] for name in ("adapted.onnx", "model.onnx"))
        assert [line in adapted for line in lines] == [True, False]
        assert not any(line in plain for line in lines)
    (root / "nameless").mkdir()
    for number, path in enumerate((root / gallery).iterdir()):
        path.rename(root / "nameless" / f"{number}.png")
    (root / query).rename(root / "query.png")
    for model, is_said in (("adapted.onnx", True), ("model.onnx", False)):
        assert (lines[1] in run(capsys, "match", "query.png", "nameless", "--model", model)[2]) == is_said
    draw_crops(root / "other", "query", 101, 3)
    draw_crops(root / "other", "bounding_box_test", 101, 3)
    for path in (root / "other").rglob("*.png"):
        path.rename(path.with_name(path.name.replace("_c1", "_c7").replace("_c2", "_c8")))
    assert lines[1] in run(capsys, "eval", "--data", "other", "adapted.onnx")[2]


def test_whitening_is_only_done_when_asked_for(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, white = root / "plain.onnx", root / "white.onnx"
    assert run(capsys, "adapt", "model.onnx", "--images", "unlabelled", "-o", plain)[0] == 0
    code, out, err = run(capsys, "adapt", "model.onnx", "--images", "unlabelled", "--whiten", "-o", white, "--json")
    assert code == 0, err
    assert json.loads(out)["whitened"]
    assert "with the mean of each camera and whitening" in err
    assert not read_contract(plain).whitening
    assert read_contract(white).whitening
    assert evaluate_dataset(white, root / "people").mAP != evaluate_dataset(plain, root / "people").mAP
    code, _, err = run(capsys, "adapt", "model.onnx", "--images", "unlabelled", "--whiten", "--batch-norm")
    assert code == 2
    assert "not with --batch-norm" in err


def test_broken_crops_are_named_and_not_counted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = root / "unlabelled" / "0001_c1s1_000001_01.png"
    broken.write_bytes(b"no image")
    code, out, err = run(capsys, "adapt", "model.onnx", "--images", "unlabelled", "-o", "adapted.onnx", "--json")
    assert code == 0, err
    assert json.loads(out)["cameras"] == {"1": 39, "2": 40}
    named = [line for line in err.splitlines() if line.startswith("left out: ")]
    assert len(named) == 1
    assert broken.name in named[0]
    for path in (root / "unlabelled").glob("*.png"):
        path.write_bytes(b"no image")
    code, _, err = run(capsys, "adapt", "model.onnx", "--images", "unlabelled", "-o", "adapted.onnx")
    assert code == 2
    assert "left out: 70 more files; `bot index --json` names all of them" in err
    assert "unlabelled: none of 80 image files is usable" in err.splitlines()[-1]


def test_a_calibration_is_not_inherited(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_crops(root / "more", "bounding_box_test", 201, 120)
    draw_crops(root / "more", "query", 201, 120)
    assert run(capsys, "calibrate", "model.onnx", "--data", "more", "--far", "0.2")[0] == 0
    assert read_contract(root / "model.onnx").calibration
    assert run(capsys, "adapt", "model.onnx", "--images", "unlabelled", "-o", "adapted.onnx")[0] == 0
    assert read_contract(root / "adapted.onnx").calibration is None
    assert run(capsys, "calibrate", "adapted.onnx", "--data", "more", "--far", "0.2")[0] == 0
    adapted, raw = (read_contract(root / name).calibration for name in ("adapted.onnx", "model.onnx"))
    assert adapted
    assert raw
    assert adapted.false_reject_rate < raw.false_reject_rate


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give the crops of your cameras"),
        (["--images", "unlabelled", "--gallery", "x.gallery"], "give the crops of your cameras"),
        (["--images", "people"], "camera 1: 60"),
        (["--images", "missing"], "no such"),
        (["--images", "unlabelled", "-o", "model.onnx"], "is the model itself"),
        (["--images", "unlabelled", "-o", "x.txt"], "ends in .onnx"),
    ],
)
def test_what_cannot_be_adapted_to(
    words: list[str], message: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (root / "people").rglob("*_c2*"):
        path.unlink()
    before = (root / "model.onnx").read_bytes()
    code, out, err = run(capsys, "adapt", "model.onnx", *words)
    assert code == 2
    assert out == ""
    assert message in err.splitlines()[-1]
    assert (root / "model.onnx").read_bytes() == before


def test_cameras_that_do_not_differ_are_refused() -> None:
    vectors = random_unit_vectors(np.random.default_rng(3), 30)
    with pytest.raises(InputError, match="would gain nothing"):
        fit_adaptation(np.concatenate([vectors, vectors]), [1] * 30 + [2] * 30)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("known", [(), (1,), (0, 3)])
def test_search_is_that_of_a_loop(known: tuple[int, ...], whiten: bool, tmp_path: Path) -> None:
    rows, vectors = random_items(200)
    cameras = [row.camera for row in rows]
    means = fit_camera_means(vectors, cameras)
    whitening = np.eye(vectors.shape[1])
    if whiten:
        means = dataclasses.replace(means, whitening=fit_whitening(means, vectors, cameras))
        whitening -= means.whitening.T @ means.whitening
    query = random_unit_vectors(np.random.default_rng(5), 1)[0]
    subtracted = np.mean([means.of_camera[camera] for camera in known] or [means.overall], axis=0)
    wanted = whitening @ (query - subtracted)
    wanted /= np.linalg.norm(wanted)
    expected = []
    for row, vector in zip(rows, vectors.astype(np.float16).astype(np.float32), strict=True):
        rest = vector / np.linalg.norm(vector) - means.of_camera.get(
            -1 if row.camera is None else row.camera, means.overall
        )
        rest = whitening @ rest
        if not row.error and row.camera != 2:
            expected.append((float(rest @ wanted / np.linalg.norm(rest)), row.path))
    expected.sort(reverse=True)
    with open_test_index(str(tmp_path / "x.gallery")) as index:
        index.add(rows, vectors)
        centered = CenteredGallery(index, means)
        asked = means.center_one(query, known)
        hits = centered.search(asked, 10, exclude_cameras=[2])
        assert [hit.item.path for hit in hits] == [path for _, path in expected[:10]]
        assert [hit.score for hit in hits] == pytest.approx([score for score, _ in expected[:10]], abs=1e-4)
        assert centered.search(asked, 10, cameras=[77]) == []
        # Vectors of items that no search has found lose the mean of their camera, too.
        again = CenteredGallery(index, means).vectors([hit.item.path for hit in hits])
        assert again @ asked == pytest.approx([hit.score for hit in hits], abs=1e-4)
        best = PersonIdentifier(index, None, means=means).candidates(query)[0]
        assert best.score == pytest.approx(centered.search(means.center_one(query, ()), 1)[0].score, abs=1e-6)
