"""Training without labels: distances, clusters and memory against naive computations, and whole runs."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import training_run
from helpers.footage_index import write_footage_index

from bot_deploy.artifacts import checkpoint, read_contract
from bot_deploy.cli import bot
from bot_deploy.datasets import open_dataset
from bot_deploy.errors import InputError, RunError
from bot_deploy.evaluation.rerank import jaccard_neighbours, k_reciprocal
from bot_deploy.models import box
from bot_deploy.train import pseudo_labels, run_files
from bot_deploy.train.clusters import MIN_CROPS, NOBODY, agreement, find_people
from bot_deploy.train.memory import ClusterMemory
from bot_deploy.train.pseudo_labels import PEOPLE_NAME, train_unlabeled
from bot_deploy.train.unlabeled import describe_cameras, open_unlabeled

RECIPE = dataclasses.replace(
    training_run.RECIPE,
    weights="box",
    height=128,
    width=64,
    warmup_epochs=0,
    lr=1e-4,
    center_weight=0.0,
    label_smoothing=0.0,
    cluster_distance=0.4,
)
SETTINGS = {"height": 128, "width": 64, "epochs": 1, "identities_per_batch": 3, "padding": 2, "cluster_distance": 0.4}


def unit_vectors(count: int, dim: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def people_vectors(people: int, each: int, seed: int = 0, spread: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of `people`, `each` near to one another, and who they are."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(people), each)
    vectors = unit_vectors(people, 32, seed)[labels] + spread * rng.normal(size=(people * each, 32)).astype(np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.fixture(scope="module")
def crops(few_people: Path) -> Path:
    return few_people / "bounding_box_train"


@pytest.fixture(scope="module")
def whole_run(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs."""
    return train_unlabeled(RECIPE, [crops], tmp_path_factory.mktemp("whole") / "run").parent


@pytest.fixture(scope="module")
def first_epoch(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, for copies to go on from."""
    out = tmp_path_factory.mktemp("first") / "run"
    return train_unlabeled(dataclasses.replace(RECIPE, epochs=1), [crops], out).parent


@pytest.mark.parametrize("max_distance", [0.4, 0.8])
def test_neighbours_are_those_of_re_ranking(max_distance: float) -> None:
    vectors = people_vectors(6, 10, spread=0.15)[0]
    vectors = vectors[np.random.default_rng(1).permutation(60)]
    starts, columns, distances = jaccard_neighbours(vectors, max_distance, 8, 3)
    # Queries 0 .. 29 and gallery 30 .. 59 together are the same images, with the same neighbours.
    half = k_reciprocal(vectors[:30], vectors[30:], 8, 3, 0.0)
    assert (half <= max_distance).any()
    for image in range(30):
        row = slice(starts[image], starts[image + 1])
        found = dict(zip(columns[row].tolist(), distances[row].tolist(), strict=True))
        assert found[image] == 0
        expected = {30 + other: half[image, other] for other in range(30) if half[image, other] <= max_distance}
        later = {column: distance for column, distance in found.items() if column >= 30}
        assert later == pytest.approx(expected, abs=1e-5)
        assert list(found) == sorted(found)


def test_clusters_are_those_of_a_naive_dbscan() -> None:
    vectors, truth = people_vectors(5, 8)
    vectors = np.concatenate([vectors, unit_vectors(3, 32, seed=9)])  # three crops of nobody else
    labels = find_people(vectors, [None] * len(vectors), 0.5)
    assert len(set(labels[:40].tolist()) - {NOBODY}) == 5
    assert agreement(truth, labels[:40]) == 1
    # Crops that have just become somebody's are a difference, though the others stay the same.
    half = np.where(np.arange(40) % 2 == 0, truth, NOBODY)
    assert agreement(half, truth) == agreement(truth, half) == 0.5

    starts, columns, _ = jaccard_neighbours(vectors, 0.5, 6)
    near = [set(columns[starts[row] : starts[row + 1]].tolist()) for row in range(len(vectors))]
    cores = {row for row, others in enumerate(near) if len(others) >= MIN_CROPS}
    for a, b in itertools.combinations(sorted(cores), 2):
        if b in near[a]:
            assert labels[a] == labels[b]
    for row, others in enumerate(near):
        assert (labels[row] == NOBODY) == (row not in cores and not others & cores)


def test_the_mean_of_a_camera_is_taken_out_before_people_are_found() -> None:
    """Two cameras move all their crops by more than people differ; with their means, people are found across both."""
    rng = np.random.default_rng(2)
    people = np.tile(np.repeat(np.arange(6), 5), 2)
    cameras = [1] * 30 + [2] * 30
    vectors = unit_vectors(6, 32, 3)[people] + 0.05 * rng.normal(size=(60, 32))
    vectors += np.where(np.array(cameras) == 1, 1.5, -1.5)[:, None] * unit_vectors(1, 32, 4)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    assert agreement(people, find_people(vectors, cameras, 0.5)) == 1
    assert agreement(people, find_people(vectors, [None] * 60, 0.5)) < 0.8


def test_agreement_is_the_adjusted_rand_index_of_crops_that_both_have() -> None:
    before, after = np.array([0, 0, 1, 1, 2, NOBODY]), np.array([5, 5, 5, 7, NOBODY, 3])
    # Four crops have both: pairs together in both 1, before 2, after 3, of 6; (1 - 1) / (2.5 - 1) = 0.
    assert agreement(before, after) == pytest.approx((1 - 2 * 3 / 6) / ((2 + 3) / 2 - 2 * 3 / 6))
    assert agreement(before, before) == 1
    assert agreement(np.array([NOBODY]), np.array([1])) == 0


def test_the_memory_follows_its_formulas() -> None:
    rng = np.random.default_rng(5)
    vectors, embeddings = unit_vectors(3, 4), rng.normal(size=(5, 4)).astype(np.float32)
    labels = [0, 2, 0, 0, 1]
    memory = ClusterMemory(torch.from_numpy(vectors.copy()), 0.1, 0.05)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(memory.logits(torch.from_numpy(embeddings)), units @ vectors.T / 0.05, rtol=1e-4)
    memory.update(torch.from_numpy(embeddings), torch.tensor(labels))
    for unit, label in zip(units, labels, strict=True):
        vectors[label] = 0.1 * vectors[label] + 0.9 * unit
        vectors[label] /= np.linalg.norm(vectors[label])
    np.testing.assert_allclose(memory.vectors, vectors, atol=1e-6)


def test_cameras_of_unlabelled_crops_come_from_their_names(crops: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "cam2"
    other.mkdir(parents=True)
    first = min(crops.iterdir())
    shutil.copy(first, other / "x.png")
    shutil.copy(first, tmp_path / "other" / "nowhere.png")
    found = open_unlabeled([str(crops), str(tmp_path / "other")])
    labelled = open_dataset(crops.parent).train
    assert [crop.path for crop in found[:-2]] == [crop.path for crop in labelled]
    pairs = {(a.camera, b.camera) for a, b in zip(found, labelled, strict=False)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})  # one number for each camera
    cameras = {crop.path.name: crop.known_camera for crop in found[-2:]}
    assert cameras["nowhere.png"] is None
    assert cameras["x.png"] not in {crop.camera for crop in found[:-2]}  # camera 2 of another place
    assert describe_cameras(found) == f"from {len(pairs) + 1} cameras"
    assert describe_cameras(found[-2:]) == "from 1 camera"
    assert describe_cameras([crop for crop in found if crop.known_camera is None]) == "whose cameras are unknown"


def test_an_index_of_footage_knows_the_cameras_of_its_crops(crops: Path, tmp_path: Path) -> None:
    """The paths of its crops do not tell the camera `till`."""
    gallery = tmp_path / "shop.gallery"
    contract = read_contract(box.PATH)
    write_footage_index(gallery, contract, unit_vectors(3 * 4, contract.dim).reshape(3, 4, contract.dim))
    found = open_unlabeled([str(gallery), str(crops)])
    of_footage = [crop for crop in found if gallery in crop.path.parents]
    assert len(of_footage) == 2 * 3 * 4
    cameras = {(crop.path.relative_to(gallery).parts[1].split("-")[0], crop.known_camera) for crop in of_footage}
    assert cameras == {("cam1", 1), ("till", 2)}
    assert {crop.known_camera for crop in found[len(of_footage) :]}.isdisjoint({1, 2})


def test_a_run_finds_people_and_learns_them(crops: Path, whole_run: Path) -> None:
    out = whole_run
    rows = training_run.read_metrics(out)
    assert rows[0]["people"]
    assert 0 < float(rows[0]["crops_used"]) <= 100
    people = list(csv.DictReader((out / PEOPLE_NAME).read_text().splitlines()))
    assert len(people) == len(list(crops.iterdir()))
    truth = np.array([int(Path(row["path"]).name.split("_")[0]) for row in people])
    found = np.array([int(row["person"]) if row["person"] else NOBODY for row in people])
    known = found != NOBODY
    assert agreement(truth[known], found[known]) > 0.5
    assert checkpoint.load(out / "model.pt").contract.terms  # those of the built-in model, which it started from
    with pytest.raises(InputError, match="already holds a run"):
        train_unlabeled(RECIPE, [crops], out)


def test_resume_is_bit_identical(crops: Path, tmp_path: Path, whole_run: Path, first_epoch: Path) -> None:
    whole = checkpoint.load(whole_run / "model.pt").state
    shutil.copytree(first_epoch, tmp_path / "parts")
    parts = checkpoint.load(train_unlabeled(RECIPE, [crops], tmp_path / "parts", resume=True)).state
    for key, value in whole.items():
        assert torch.equal(value, parts[key]), key


@pytest.mark.parametrize("damaged", [torch.zeros(3, dtype=torch.int64), torch.zeros(60), torch.zeros(6, 10).long()])
def test_damaged_people_in_the_state_are_an_error(
    crops: Path, tmp_path: Path, first_epoch: Path, damaged: torch.Tensor
) -> None:
    out = tmp_path / "run"
    shutil.copytree(first_epoch, out)
    state = torch.load(out / run_files.STATE_NAME, weights_only=True)
    torch.save({**state, "people": damaged}, out / run_files.STATE_NAME)
    with pytest.raises(InputError, match="start a new run in another folder"):
        train_unlabeled(RECIPE, [crops], out, resume=True)


def test_it_ends_when_the_people_stay_the_same(
    crops: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(pseudo_labels, "STABLE_AGREEMENT", 0.0)
    train_unlabeled(dataclasses.replace(RECIPE, epochs=5), [crops], tmp_path / "run")
    rows = training_run.read_metrics(tmp_path / "run")
    assert len(rows) == 1
    assert "training ends here" in caplog.text


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"center_weight": 1e-3}, InputError, "center_weight=0"),
        ({"identities_per_batch": 500}, RunError, "identities_per_batch"),
    ],
)
def test_what_cannot_be_trained_says_why(
    crops: Path, tmp_path: Path, changes: dict[str, float], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train_unlabeled(dataclasses.replace(RECIPE, **changes), [crops], tmp_path / "run")  # type: ignore[arg-type]


def test_the_command_trains_and_goes_on(crops: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from click.testing import CliRunner

    settings = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    out = str(tmp_path / "run")
    result = CliRunner().invoke(bot, ["train", "--unlabelled", str(crops), "--out", out, *settings])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / PEOPLE_NAME).exists()
    result = CliRunner().invoke(bot, ["train", "--resume", "--out", out, "--set", "epochs=2"])
    assert result.exit_code == 0, result.output
    # The processor's rounding decides whether the second epoch finds other people.
    ended = "training ends here" in caplog.text
    assert [row["epoch"] for row in training_run.read_metrics(tmp_path / "run")] == (["1"] if ended else ["1", "2"])
    refused = ["train", "--unlabelled", str(crops), "--compatible-with", "box", "--out", str(tmp_path / "other")]
    assert "no earlier vectors" in str(CliRunner().invoke(bot, refused).exception)
