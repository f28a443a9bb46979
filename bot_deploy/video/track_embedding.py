"""The embedding of a track: the mean of its crops' embeddings, without outliers."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bot_deploy.artifacts.contract import Calibration
    from bot_deploy.embedder import Vectors

MEAN_WINDOW = 30  # embeddings; once there are so many, each new one lowers the weight of the older ones
UNCALIBRATED_OUTLIER = 0.45  # cosine of two crops of one track, for a model without a threshold of such cosines
OUTLIERS_TO_RESTART = 3  # similar outliers in a row that mean: the track now follows another person


def find_outlier_threshold(calibration: Calibration | None, *, is_adapted: bool) -> float:
    """Cosine of two images of one track, as they are embedded, below which they do not show the same person.

    The thresholds of an adapted model are for cosines without the means of cameras, and those that were measured
    without labels are of strangers: both say nothing about two crops of one track.
    """
    is_known = calibration is not None and calibration.is_labelled and not is_adapted
    return calibration.reject_threshold if calibration and is_known else UNCALIBRATED_OUTLIER


class TrackEmbedding:
    """The mean direction of the embeddings of one track.

    An embedding is an outlier when its cosine with the mean is below `outlier_threshold`: a passer-by, a blurred frame.
    Outliers do not change the mean. After `OUTLIERS_TO_RESTART` similar outliers in a row, the mean starts again with
    them. Unoccluded crops replace occluded ones, and later occluded crops are ignored.
    """

    def __init__(self, outlier_threshold: float) -> None:
        self.outlier_threshold = outlier_threshold
        self.count = 0  # embeddings since the last start
        self.from_whole_person = False  # whether the crops of the mean show the whole person
        self._sum: Vectors = np.zeros(0, np.float32)
        self._outliers: list[Vectors] = []

    @property
    def vector(self) -> Vectors:
        """float32 [D] of length 1; undefined before the first `add`."""
        return self._sum / np.float32(np.linalg.norm(self._sum))

    def add(self, embedding: Vectors, *, whole_person: bool) -> bool:
        """Adds the unit vector `embedding` [D] of a crop; `whole_person` if the crop shows the whole person.

        Returns whether the mean started again, because the track now follows another person.
        """
        if self.from_whole_person and not whole_person:
            return False
        if not self.count or (whole_person and not self.from_whole_person):
            self._start([embedding], whole_person=whole_person)
            return False
        if self._similar(embedding, self.vector):
            self._outliers.clear()
            previous = self._sum
            if self.count >= MEAN_WINDOW:
                previous = previous * np.float32((MEAN_WINDOW - 1) / MEAN_WINDOW)
            self._sum = previous + embedding
            self.count += 1
            return False
        if self._outliers and not self._similar(embedding, self._outliers[-1]):
            self._outliers.clear()
        self._outliers.append(embedding)
        if len(self._outliers) < OUTLIERS_TO_RESTART or not all(
            self._similar(earlier, later) for earlier, later in pairwise(self._outliers)
        ):
            return False
        self._start(self._outliers, whole_person=whole_person)
        return True

    def _similar(self, first: Vectors, second: Vectors) -> bool:
        return float(first @ second) >= self.outlier_threshold

    def _start(self, embeddings: list[Vectors], *, whole_person: bool) -> None:
        self._sum = np.sum(embeddings, axis=0, dtype=np.float32)
        self.count, self.from_whole_person, self._outliers = len(embeddings), whole_person, []
