"""Evenly spread indices: the ends, no index twice, even distances."""

from __future__ import annotations

import numpy as np
import pytest

from bot_deploy.sampling import evenly_spread


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [
        (13, 4, [0, 4, 8, 12]),
        (10, 3, [0, 4, 9]),
        (5, 5, [0, 1, 2, 3, 4]),
        (3, 200, [0, 1, 2]),
        (1, 4, [0]),
        (7, 1, [0]),
        (0, 4, []),
    ],
)
def test_by_hand(total: int, count: int, expected: list[int]) -> None:
    assert evenly_spread(total, count).tolist() == expected


@pytest.mark.parametrize("total", [2, 199, 200, 201, 12_936])
def test_as_many_as_asked_for_at_even_distances(total: int) -> None:
    chosen = evenly_spread(total, 200)
    assert len(chosen) == min(200, total)
    assert (chosen[0], chosen[-1]) == (0, total - 1)
    assert np.ptp(np.diff(chosen)) <= 1
