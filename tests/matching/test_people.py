"""Appearances to people: clustering, what can never be one person, and names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bot_deploy.footage import Appearance
from bot_deploy.matching.people import NEVER, SeenAppearance, SeenPerson, _cluster, _distances, group_people

DIM = 32


def seen(
    vector: np.ndarray, start: float, camera: str = "door", name: str | None = None, *, has_clock: bool = True
) -> SeenAppearance:
    key = f"{camera}-00000000/{round(10 * start):04d}"
    appearance = Appearance(
        camera,
        start,
        start + 5,
        has_clock,
        Path(f"{camera}.mp4"),
        start,
        start + 5,
        (0, 1),
        (f"{key}/000001.jpg",),
        key,
    )
    return SeenAppearance(appearance, name, (vector / np.linalg.norm(vector)).astype(np.float32))


def groups(people: list[SeenPerson]) -> set[frozenset[float]]:
    return {frozenset(one.appearance.start for one in person.appearances) for person in people}


def test_people_are_found_again_on_other_cameras() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, DIM))
    appearances = [
        seen(centres[person] + 0.4 * rng.normal(size=DIM), 1000 * visit + 10 * person, f"cam{visit}")
        for person in range(12)
        for visit in range(3)
    ]
    people = group_people(appearances, 0.5)
    assert [person.number for person in people] == list(range(1, 13))
    assert groups(people) == {frozenset(1000 * visit + 10 * person for visit in range(3)) for person in range(12)}


def test_the_merges_are_those_of_average_linkage() -> None:
    """Against a naive loop: merge the two groups with the least mean distance, while it is within the limit."""
    rng = np.random.default_rng(1)
    for limit in (0.6, 0.8, 0.95):
        distances = _distances([seen(rng.normal(size=4), 10 * place) for place in range(25)])
        expected = [{place} for place in range(25)]
        while len(expected) > 1:
            pairs = [(first, second) for first in range(len(expected)) for second in range(first)]
            means = [
                np.mean([distances[a, b] for a in expected[first] for b in expected[second]]) for first, second in pairs
            ]
            if min(means) > limit:
                break
            first, second = pairs[int(np.argmin(means))]
            expected[second] |= expected.pop(first)
        labels = _cluster(distances, limit)
        found = [{place for place in range(25) if labels[place] == label} for label in set(labels)]
        assert sorted(map(sorted, found)) == sorted(map(sorted, expected))
        assert 1 < len(found) < 25


def test_two_people_in_one_view_are_never_one() -> None:
    same = np.ones(DIM)
    assert len(group_people([seen(same, 0), seen(same, 6)], 0.9)) == 1
    assert len(group_people([seen(same, 0), seen(same, 3)], 0.9)) == 2
    assert len(group_people([seen(same, 0), seen(same, 3, "till")], 0.9)) == 1
    # A third one, who is like both, does not join them.
    assert len(group_people([seen(same, 0), seen(same, 3), seen(same, 20)], -1.0)) == 2
    # Without a clock, times of two videos mean nothing.
    assert len(group_people([seen(same, 0, has_clock=False), seen(same, 3, "till", has_clock=False)], 0.9)) == 1


def test_a_name_joins_and_divides() -> None:
    first, second = np.eye(2, DIM)
    assert len(group_people([seen(first, 0, name="Anna"), seen(second, 10, name="Anna")], 0.9)) == 1
    people = group_people([seen(first, 0, name="Anna"), seen(first, 10, name="Bob"), seen(second, 20)], 0.9)
    assert [person.label for person in people] == ["Anna", "Bob", "person 3"]
    distances = _distances([seen(first, 0, name="Anna"), seen(first, 10, name="Bob")])
    assert distances[0, 1] == pytest.approx(NEVER)
