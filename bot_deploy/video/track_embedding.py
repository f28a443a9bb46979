"""What a track looks like: the mean of its embeddings, and what is kept out of it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bot_deploy.embedder import Vectors

MEMORY = 30  # embeddings the mean goes back to
SWAPPED = 3  # outliers in a row that agree: the tracker has jumped to somebody else


class Average:
    """The mean direction of a track's embeddings.

    An embedding whose cosine with it is below `outlier` does not enter: a passer-by, a blurred frame. When `SWAPPED`
    of them in a row are like each other, they are the person now. Crops of the whole person replace those of a part.
    """

    def __init__(self, outlier: float) -> None:
        self.outlier = outlier
        self.count = 0  # embeddings since it last began anew
        self.clear = False  # whether they show the whole person
        self._sum: Vectors = np.zeros(0, np.float32)
        self._odd: list[Vectors] = []

    @property
    def vector(self) -> Vectors:
        """float32 [D] of length 1; there is none before the first `add`."""
        return self._sum / np.float32(np.linalg.norm(self._sum))

    def add(self, vector: Vectors, *, clear: bool) -> bool:
        """Takes in the unit `vector` [D] of a crop, `clear` if that shows the whole person.

        Returns whether the track now shows somebody else.
        """
        if self.clear and not clear:
            return False
        if not self.count or (clear and not self.clear):
            self._begin([vector], clear=clear)
            return False
        if float(vector @ self.vector) >= self.outlier:
            self._odd.clear()
            kept = self._sum if self.count < MEMORY else self._sum * np.float32((MEMORY - 1) / MEMORY)
            self._sum = kept + vector
            self.count += 1
            return False
        if self._odd and float(vector @ self._odd[-1]) < self.outlier:
            self._odd.clear()
        self._odd.append(vector)
        if len(self._odd) < SWAPPED or any(float(one @ other) < self.outlier for one, other in pairwise(self._odd)):
            return False
        self._begin(self._odd, clear=clear)
        return True

    def _begin(self, vectors: list[Vectors], *, clear: bool) -> None:
        self._sum, self.count, self.clear = np.sum(vectors, axis=0, dtype=np.float32), len(vectors), clear
        self._odd = []
