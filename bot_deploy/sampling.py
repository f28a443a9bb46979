"""Chooses some of many items."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def evenly_spread(total: int, count: int) -> npt.NDArray[np.int64]:
    """At most `count` indices of `total` items, ascending, from the first item to the last."""
    return np.unique(np.linspace(0, max(total - 1, 0), min(count, total)).astype(np.int64))
