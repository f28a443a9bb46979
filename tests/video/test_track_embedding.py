"""The mean of a track's embeddings."""

from __future__ import annotations

import numpy as np
import pytest

from bot_deploy.video.track_embedding import MEMORY, SWAPPED, Average


def unit(*numbers: float) -> np.ndarray:
    vector = np.array(numbers, np.float32)
    return vector / np.float32(np.linalg.norm(vector))


def near(rng: np.random.Generator, centre: np.ndarray, spread: float) -> np.ndarray:
    return unit(*(centre + spread * rng.normal(size=len(centre))))


def test_it_is_the_mean_direction() -> None:
    rng = np.random.default_rng(0)
    vectors = [near(rng, unit(1, 0, 0, 0), 0.2) for _ in range(MEMORY)]
    average = Average(0.3)
    for vector in vectors:
        assert not average.add(vector, clear=True)
    assert average.count == MEMORY
    np.testing.assert_allclose(average.vector, unit(*np.mean(vectors, axis=0)), atol=1e-6)


def test_what_is_long_ago_fades_at_the_rate_of_its_memory() -> None:
    average = Average(0.0)
    total = np.zeros(2)
    for number in range(3 * MEMORY):
        vector = unit(1, 0) if number < MEMORY else unit(1, 1)
        average.add(vector, clear=True)
        total = total * ((MEMORY - 1) / MEMORY if number >= MEMORY else 1) + vector
    np.testing.assert_allclose(average.vector, unit(*total), atol=1e-5)
    assert average.vector @ unit(1, 1) > 0.99


def test_an_outlier_does_not_enter() -> None:
    average = Average(0.5)
    for _ in range(4):
        average.add(unit(1, 0, 0), clear=True)
    average.add(unit(0, 1, 0), clear=True)
    average.add(unit(0, 1, 0), clear=True)
    average.add(unit(1, 0.1, 0), clear=True)  # the person again: those two are forgotten
    assert not average.add(unit(0, 1, 0), clear=True)
    assert not average.add(unit(0, 1, 0), clear=True)
    np.testing.assert_allclose(average.vector, unit(*(4 * unit(1, 0, 0) + unit(1, 0.1, 0))), atol=1e-6)


def test_outliers_that_agree_are_somebody_else() -> None:
    average = Average(0.5)
    for _ in range(10):
        average.add(unit(1, 0, 0), clear=True)
    told = [average.add(unit(0, 1, 0.1 * number), clear=True) for number in range(SWAPPED)]
    assert told == [False] * (SWAPPED - 1) + [True]
    assert average.count == SWAPPED
    expected = sum(unit(0, 1, 0.1 * number) for number in range(SWAPPED))
    np.testing.assert_allclose(average.vector, unit(*expected), atol=1e-6)


def test_outliers_that_do_not_agree_are_noise() -> None:
    average = Average(0.5)
    average.add(unit(1, 0, 0, 0), clear=True)
    for number in range(9):
        assert not average.add(np.eye(4, dtype=np.float32)[1 + number % 3], clear=True)
    np.testing.assert_allclose(average.vector, unit(1, 0, 0, 0))


@pytest.mark.parametrize("parts", [1, 7])
def test_a_whole_person_replaces_a_part_and_no_part_enters_afterwards(parts: int) -> None:
    average = Average(0.3)
    for _ in range(parts):
        average.add(unit(1, 1), clear=False)
    assert (average.count, average.clear) == (parts, False)
    average.add(unit(1, 0.5), clear=True)
    assert (average.count, average.clear) == (1, True)
    assert not average.add(unit(1, 1), clear=False)
    assert average.count == 1
    np.testing.assert_allclose(average.vector, unit(1, 0.5), atol=1e-6)
