"""P x K sampling: each batch has P identities with K images each (paper section 2, step 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt


def draw_batches(
    labels: npt.NDArray[np.int64], p: int, k: int, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.int64]]:
    """Yields one epoch of batches of p * k indices into `labels` [N], as the released code draws them.

    The images of each identity are shuffled and cut into chunks of k; a remainder is dropped. An identity with fewer
    than k images is resampled with replacement. A batch takes one chunk from each of p identities that have chunks
    left. The epoch ends when fewer than p identities have any.

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
        raise InputError(
            f"{len(chunks)} identities, but a batch takes {p}; set identities_per_batch to {len(chunks)} or less",
            parameter="set",
        )
    left = sorted(chunks)
    while len(left) >= p:
        drawn = rng.choice(left, size=p, replace=False)
        yield np.concatenate([chunks[identity].pop(0) for identity in drawn])
        left = [identity for identity in left if chunks[identity]]
