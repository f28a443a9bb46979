"""Any number of images through a graph that takes only one batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels


def in_fixed_batches(compute: Callable[[Pixels], Vectors], size: int) -> Callable[[Pixels], Vectors]:
    """`compute`, which takes exactly `size` images, for any number of them; black images fill the last batch."""

    def run(batch: Pixels) -> Vectors:
        parts = []
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            missing = size - len(part)
            full = np.pad(part, [(0, missing), (0, 0), (0, 0), (0, 0)]) if missing else part
            parts.append(compute(full)[: len(part)])
        return np.concatenate(parts)

    return run
