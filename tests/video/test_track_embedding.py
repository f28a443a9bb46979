"""The mean of a track's embeddings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bot_deploy.artifacts import read_contract
from bot_deploy.models import box
from bot_deploy.video.track_embedding import (
    MEAN_WINDOW,
    OUTLIERS_TO_RESTART,
    TrackEmbedding,
    find_outlier_threshold,
)


def unit(*numbers: float) -> np.ndarray:
    vector = np.array(numbers, np.float32)
    return vector / np.float32(np.linalg.norm(vector))


def near(rng: np.random.Generator, centre: np.ndarray, spread: float) -> np.ndarray:
    return unit(*(centre + spread * rng.normal(size=len(centre))))


def test_it_is_the_mean_direction() -> None:
    rng = np.random.default_rng(0)
    vectors = [near(rng, unit(1, 0, 0, 0), 0.2) for _ in range(MEAN_WINDOW)]
    mean = TrackEmbedding(0.3)
    for vector in vectors:
        assert not mean.add(vector, whole_person=True)
    assert mean.count == MEAN_WINDOW
    np.testing.assert_allclose(mean.vector, unit(*np.mean(vectors, axis=0)), atol=1e-6)


def test_older_embeddings_lose_weight_beyond_the_window() -> None:
    mean = TrackEmbedding(0.0)
    total = np.zeros(2)
    for number in range(3 * MEAN_WINDOW):
        vector = unit(1, 0) if number < MEAN_WINDOW else unit(1, 1)
        mean.add(vector, whole_person=True)
        total = total * ((MEAN_WINDOW - 1) / MEAN_WINDOW if number >= MEAN_WINDOW else 1) + vector
    np.testing.assert_allclose(mean.vector, unit(*total), atol=1e-5)
    assert mean.vector @ unit(1, 1) > 0.99


def test_an_outlier_does_not_change_the_mean() -> None:
    mean = TrackEmbedding(0.5)
    for _ in range(4):
        mean.add(unit(1, 0, 0), whole_person=True)
    mean.add(unit(0, 1, 0), whole_person=True)
    mean.add(unit(0, 1, 0), whole_person=True)
    mean.add(unit(1, 0.1, 0), whole_person=True)  # the person again: the two outliers no longer count
    assert not mean.add(unit(0, 1, 0), whole_person=True)
    assert not mean.add(unit(0, 1, 0), whole_person=True)
    np.testing.assert_allclose(mean.vector, unit(*(4 * unit(1, 0, 0) + unit(1, 0.1, 0))), atol=1e-6)


def test_similar_outliers_restart_the_mean() -> None:
    mean = TrackEmbedding(0.5)
    for _ in range(10):
        mean.add(unit(1, 0, 0), whole_person=True)
    restarted = [mean.add(unit(0, 1, 0.1 * number), whole_person=True) for number in range(OUTLIERS_TO_RESTART)]
    assert restarted == [False] * (OUTLIERS_TO_RESTART - 1) + [True]
    assert mean.count == OUTLIERS_TO_RESTART
    expected = sum(unit(0, 1, 0.1 * number) for number in range(OUTLIERS_TO_RESTART))
    np.testing.assert_allclose(mean.vector, unit(*expected), atol=1e-6)


def test_outliers_that_differ_are_ignored() -> None:
    mean = TrackEmbedding(0.5)
    mean.add(unit(1, 0, 0, 0), whole_person=True)
    for number in range(9):
        assert not mean.add(np.eye(4, dtype=np.float32)[1 + number % 3], whole_person=True)
    np.testing.assert_allclose(mean.vector, unit(1, 0, 0, 0))


@pytest.mark.parametrize("occluded_count", [1, 7])
def test_unoccluded_crops_replace_occluded_ones(occluded_count: int) -> None:
    mean = TrackEmbedding(0.3)
    for _ in range(occluded_count):
        mean.add(unit(1, 1), whole_person=False)
    assert (mean.count, mean.from_whole_person) == (occluded_count, False)
    mean.add(unit(1, 0.5), whole_person=True)
    assert (mean.count, mean.from_whole_person) == (1, True)
    assert not mean.add(unit(1, 1), whole_person=False)
    assert mean.count == 1
    np.testing.assert_allclose(mean.vector, unit(1, 0.5), atol=1e-6)


def test_the_threshold_of_an_outlier_is_for_cosines_as_they_are_embedded() -> None:
    calibration = read_contract(box.PATH).calibration
    assert calibration
    assert find_outlier_threshold(calibration, is_adapted=False) == calibration.reject_threshold
    for other, is_adapted in ((calibration, True), (replace(calibration, is_labelled=False), False), (None, False)):
        assert find_outlier_threshold(other, is_adapted=is_adapted) == 0.45
