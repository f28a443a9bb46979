"""The best crops of a track: whole, sharp, large, spread over its time, and unlike each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels

    from .tracks import Xyxy

MAX_CANDIDATES = 12  # crops of a track that are embedded
FIRST_SPAN_S = 0.5  # of a candidate's time; doubled whenever there are too many candidates
MAX_CROPS = 5  # of an appearance
SHARPNESS_SIZE = (64, 128)  # width and height at which crops of all sizes are compared; small ones are blurred there
MAX_SIMILARITY = 0.97  # cosine; a crop more similar to a chosen one shows nothing new


@dataclass(frozen=True, eq=False)
class Candidate:
    """A crop of a track that may become one of its best."""

    pixels: Pixels  # uint8 RGB [h, w, 3]
    number: int  # of its frame
    time: float  # of its frame, in seconds
    xyxy: Xyxy
    is_whole: bool
    quality: float  # sharpness by the detector's confidence

    @property
    def rank(self) -> tuple[bool, float]:
        """Larger is better: a whole person, before a sharp picture of half of one."""
        return self.is_whole, self.quality


class Candidates:
    """The best crop of each span of a track's time, at most `MAX_CANDIDATES`."""

    def __init__(self, start: float) -> None:
        self._start, self._span = start, FIRST_SPAN_S
        self._best: dict[int, Candidate] = {}  # by the number of the span

    def add(self, candidate: Candidate) -> None:
        """Keeps `candidate` if it is the best of its span."""
        span = int((candidate.time - self._start) / self._span)
        if span not in self._best or candidate.rank > self._best[span].rank:
            self._best[span] = candidate
        if len(self._best) > MAX_CANDIDATES:  # two neighbouring spans become one
            self._span *= 2
            earlier, self._best = self._best, {}
            for kept in earlier.values():
                self.add(kept)

    def in_order(self, begin: float = -math.inf, end: float = math.inf) -> list[Candidate]:
        """Those from `begin` to `end` by time; only crops of the whole person, if there is one."""
        ordered = [self._best[span] for span in sorted(self._best) if begin <= self._best[span].time <= end]
        return [candidate for candidate in ordered if candidate.is_whole] or ordered


def sharpness(crop: Pixels) -> float:
    """The variance of the Laplacian of `crop` uint8 RGB [h, w, 3] at a fixed size: blurred and small crops have less.

    Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000.
    """
    import cv2

    grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), SHARPNESS_SIZE, interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def choose_crops(candidates: Sequence[Candidate], vectors: Vectors) -> list[int]:
    """The places of at most `MAX_CROPS` of `candidates` [N], whose unit vectors are `vectors` [N, D], in order.

    The first is the best one. Each further one is the least similar to those before, weighted by its quality.
    """
    qualities = np.array([candidate.quality for candidate in candidates])
    chosen = [max(range(len(candidates)), key=lambda place: candidates[place].rank)]
    while len(chosen) < min(MAX_CROPS, len(candidates)):
        similarity = (vectors @ vectors[chosen].T).max(axis=1)
        novelty = np.clip(1 - similarity, 0, None) * np.sqrt(qualities / max(qualities.max(), 1e-9))
        novelty[similarity > MAX_SIMILARITY] = 0
        novelty[chosen] = 0
        place = int(novelty.argmax())
        if novelty[place] <= 0:
            break
        chosen.append(place)
    return sorted(chosen)
