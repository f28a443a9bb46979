"""P x K sampling: every batch holds P identities with K images each (paper section 2, step 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt


def batches(labels: npt.NDArray[np.int64], p: int, k: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """One epoch of batches of p * k indices into `labels` [N], as the released code draws them.

    Each identity's images are shuffled and cut into chunks of k (fewer than k: resampled with
    replacement; a remainder is dropped). Batches take a chunk of each of p identities that still have
    one, until fewer than p identities remain.

    Raises:
        InputError: fewer than p identities.
    """
    chunks: dict[int, list[npt.NDArray[np.int64]]] = {}
    for identity in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == identity))
        if len(own) < k:
            own = rng.choice(own, size=k, replace=True)
        chunks[int(identity)] = [own[start : start + k] for start in range(0, len(own) - k + 1, k)]
    if len(chunks) < p:
        raise InputError(f"{len(chunks)} identities, but a batch takes p={p}; use --set p={len(chunks)} or less")
    left = sorted(chunks)
    while len(left) >= p:
        drawn = rng.choice(left, size=p, replace=False)
        yield np.concatenate([chunks[identity].pop(0) for identity in drawn])
        left = [identity for identity in left if chunks[identity]]
