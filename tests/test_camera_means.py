"""Camera means against plain loops, and what a contract keeps of them."""

from __future__ import annotations

import base64
import dataclasses

import numpy as np
import pytest
from helpers.random_gallery import contract, random_unit_vectors

from bot_deploy.artifacts.contract import encode_vectors, from_json
from bot_deploy.camera_means import (
    camera_gap,
    camera_means_of,
    fit_camera_means,
    fit_whitening,
    stored_means,
)
from bot_deploy.errors import InputError

CAMERAS = [None if number % 9 == 0 else number % 3 for number in range(60)]


@pytest.fixture
def vectors() -> np.ndarray:
    """Random unit vectors, with a common part for each camera."""
    random = random_unit_vectors(np.random.default_rng(1), 60)
    shifts = np.eye(4, random.shape[1], dtype=np.float32)[[3 if camera is None else camera for camera in CAMERAS]]
    moved = random + 0.5 * shifts
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def mean_cosines(vectors: np.ndarray, cameras: list[int | None]) -> tuple[float, float]:
    """The mean cosines of pairs from one camera, and from two."""
    same, different = [], []
    for a, camera in enumerate(cameras):
        for b in range(a):
            if camera is not None and cameras[b] is not None:
                (same if camera == cameras[b] else different).append(float(vectors[a] @ vectors[b]))
    return float(np.mean(same)), float(np.mean(different))


def test_the_means_are_those_of_a_loop(vectors: np.ndarray) -> None:
    means = fit_camera_means(vectors, CAMERAS)
    same, different = mean_cosines(vectors, CAMERAS)
    pull = (1 - same) / (same - different)
    assert pull > 0
    for camera in range(3):
        rows = [row for row, number in zip(vectors, CAMERAS, strict=True) if number == camera]
        expected = [
            (sum(float(row[d]) for row in rows) + pull * float(np.mean(vectors[:, d], dtype=np.float64)))
            / (len(rows) + pull)
            for d in range(vectors.shape[1])
        ]
        assert means.of_camera[camera] == pytest.approx(expected, abs=1e-6)
        assert means.crops[camera] == len(rows)
    assert set(means.of_camera) == {0, 1, 2}


@pytest.mark.parametrize("cameras", [[None] * 60, [4] * 60, list(range(60))])
def test_without_two_cameras_and_pairs_there_is_one_mean(vectors: np.ndarray, cameras: list[int | None]) -> None:
    means = fit_camera_means(vectors, cameras)
    assert all(mean == pytest.approx(means.overall) for mean in means.of_camera.values())
    assert set(means.of_camera) == {camera for camera in cameras if camera is not None}


def test_a_vector_loses_the_mean_of_its_camera(vectors: np.ndarray) -> None:
    means = fit_camera_means(vectors, CAMERAS)
    centered = means.center(vectors, CAMERAS)
    for row, camera in enumerate(CAMERAS):
        rest = vectors[row] - (means.overall if camera is None else means.of_camera[camera])
        assert centered[row] == pytest.approx(rest / np.linalg.norm(rest), abs=1e-6)
    other = means.center(vectors[:1], [77])  # a camera that has no mean
    assert other == pytest.approx(means.center(vectors[:1], [None]))


def test_a_query_of_several_cameras_loses_the_mean_of_their_means(vectors: np.ndarray) -> None:
    means = fit_camera_means(vectors, CAMERAS)
    rest = vectors[0] - (means.of_camera[1] + means.of_camera[2]) / 2
    assert means.center_one(vectors[0], [1, 2]) == pytest.approx(rest / np.linalg.norm(rest), abs=1e-6)
    rest = vectors[0] - (2 * means.of_camera[1] + means.of_camera[2] + means.overall) / 4
    assert means.center_one(vectors[0], [1, 2, 1, None]) == pytest.approx(rest / np.linalg.norm(rest), abs=1e-6)
    assert means.center_one(vectors[0], []) == pytest.approx(means.center(vectors[:1], [None])[0])


def test_a_new_camera_learns_from_its_appearances(vectors: np.ndarray) -> None:
    means = fit_camera_means(vectors, CAMERAS)
    learned = means
    for vector in vectors[:10]:
        learned = learned.with_appearance(77, vector)
    expected = (vectors[:10].sum(0) + 25 * means.overall) / (10 + 25)
    assert learned.of_camera[77] == pytest.approx(expected, abs=1e-6)
    assert learned.crops[77] == 10
    assert 77 not in means.of_camera
    assert all((learned.of_camera[camera] == means.of_camera[camera]).all() for camera in range(3))


def test_the_gap_is_that_of_all_pairs(vectors: np.ndarray) -> None:
    same, different = mean_cosines(vectors[:20], CAMERAS[1:21])
    rows = [row for row, camera in enumerate(CAMERAS[1:21]) if camera is not None]
    gap = camera_gap(vectors[rows], [camera for camera in CAMERAS[1:21] if camera is not None])
    assert gap == pytest.approx(same - different, abs=1e-6)


def test_a_contract_keeps_them(vectors: np.ndarray) -> None:
    means = fit_camera_means(vectors, CAMERAS)
    adapted = dataclasses.replace(contract(), camera_means=stored_means(means, len(vectors)))
    read = from_json(adapted.to_json(), "x.onnx")
    assert read == adapted
    again = camera_means_of(read)
    assert again is not None
    assert again.crops == means.crops
    assert again.center(vectors, CAMERAS) == pytest.approx(means.center(vectors, CAMERAS), abs=1e-3)  # of float16
    assert camera_means_of(contract()) is None


def test_whitening_is_the_inverse_root_of_the_shrunk_covariance(vectors: np.ndarray) -> None:
    means = fit_camera_means(vectors, CAMERAS)
    rest = [
        row - (means.overall if camera is None else means.of_camera[camera])
        for row, camera in zip(vectors.astype(np.float64), CAMERAS, strict=True)
    ]
    covariance = sum(np.outer(row, row) for row in rest) / len(rest)
    dim = len(covariance)
    values, directions = np.linalg.eigh(0.5 * covariance + 0.5 * np.trace(covariance) / dim * np.eye(dim))
    root = sum(np.outer(column, column) / np.sqrt(value) for value, column in zip(values, directions.T, strict=True))
    expected = np.array([root @ row / np.linalg.norm(root @ row) for row in rest])
    whitened = dataclasses.replace(means, whitening=fit_whitening(means, vectors, CAMERAS))
    assert whitened.center(vectors, CAMERAS) == pytest.approx(expected, abs=1e-4)
    assert whitened.center_one(vectors[1], [1]) == pytest.approx(expected[1], abs=1e-4)
    assert means.center(vectors, CAMERAS) != pytest.approx(expected, abs=1e-2)
    # Vectors without the means rank in the direction of the query as whitened ones do, but for their lengths.
    turned = root @ expected[0]
    assert whitened.direction(expected[0].astype(np.float32)) == pytest.approx(
        turned / np.linalg.norm(turned), abs=1e-4
    )
    assert (means.direction(vectors[0]) == vectors[0]).all()


def test_only_the_directions_of_the_greatest_variance_are_whitened() -> None:
    vectors = random_unit_vectors(np.random.default_rng(2), 400, 200)
    vectors[:, :3] *= 5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    means = fit_camera_means(vectors, [None] * 400)
    whitening = fit_whitening(means, vectors, [None] * 400)
    assert whitening.shape == (128, 200)
    whitened = dataclasses.replace(means, whitening=whitening).center(vectors, [None] * 400)
    spread, before = whitened.std(0), means.center(vectors, [None] * 400).std(0)
    assert before[:3].mean() > 4 * before[3:].mean()
    assert spread[:3].mean() < 2 * spread[3:].mean()


def test_equal_vectors_have_nothing_to_whiten() -> None:
    vectors = np.eye(1, 8, dtype=np.float32).repeat(50, 0)
    assert fit_whitening(fit_camera_means(vectors, [1] * 50), vectors, [1] * 50).shape == (0, 8)


def test_a_contract_keeps_whitening(vectors: np.ndarray) -> None:
    means = fit_camera_means(vectors, CAMERAS)
    whitened = dataclasses.replace(means, whitening=fit_whitening(means, vectors, CAMERAS))
    assert whitened.whitening is not None
    fields = {"camera_means": stored_means(whitened, 60), "whitening": encode_vectors(whitened.whitening)}
    read = camera_means_of(from_json(dataclasses.replace(contract(), **fields).to_json(), "x.onnx"))
    assert read is not None
    assert read.center(vectors, CAMERAS) == pytest.approx(whitened.center(vectors, CAMERAS), abs=2e-3)  # of float16
    one_number = base64.b64encode(b"ab").decode()
    for damage in (one_number, "?", encode_vectors(whitened.whitening * np.float32(np.inf))):
        with pytest.raises(InputError, match="its contract is damaged"):
            from_json(dataclasses.replace(contract(), **{**fields, "whitening": damage}).to_json(), "x.onnx")
    with pytest.raises(InputError, match="its contract is damaged"):
        from_json(dataclasses.replace(contract(), whitening=fields["whitening"]).to_json(), "x.onnx")


@pytest.mark.parametrize("damage", ["camera", "number", "length", "base64", "nan", "twice"])
def test_damaged_means_are_refused(damage: str, vectors: np.ndarray) -> None:
    first, *others = stored_means(fit_camera_means(vectors, CAMERAS), len(vectors))
    nan = stored_means(fit_camera_means(vectors * np.float32(np.nan), CAMERAS), 60)[0]
    wrong = {
        "camera": (*others,),
        "number": (first, dataclasses.replace(others[0], camera=-1)),
        "length": (dataclasses.replace(first, mean=first.mean[:16]),),
        "base64": (dataclasses.replace(first, mean="?" + first.mean[1:]),),
        "nan": (nan,),
        "twice": (first, others[0], others[0]),
    }
    with pytest.raises(InputError, match="its contract is damaged"):
        from_json(dataclasses.replace(contract(), camera_means=wrong[damage]).to_json(), "x.onnx")
