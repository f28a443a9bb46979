"""What tracks say about who is who, without labels.

Two tracks in view of one camera at one time are two people: their crops are impostor pairs. One track is one person:
its crops far apart in time are genuine pairs. Two tracks of two cameras that are each other's nearest by far are one
person as well: their crops are genuine pairs too.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .pairs import PairScores, count_bins

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from bot_deploy.embedder import Vectors
    from bot_deploy.footage import Appearance, Footage
    from bot_deploy.gallery import Gallery

ROWS_AT_ONCE = 1024  # of a matrix of distances
MIN_LENGTH = 1e-12  # of a mean vector
MIN_OVERLAP_S = 0.5  # seconds together in view, from which two tracks on one camera are two people
MIN_GAP_S = 2.0  # between the two crops of a genuine pair; neighbouring frames are always alike
# The nearest track is at most this far, of the second nearest (1 - cosine): the ratio test of Lowe, IJCV 2004.
MAX_DISTANCE_RATIO = 0.7
MAX_TIME_APART_S, MAX_COVERED = 0.2, 0.5  # see `_may_be_one`


@dataclass(frozen=True, eq=False)
class Track:
    """One person in view of one camera, without a name. Times are in seconds."""

    camera: Hashable
    view: Hashable  # the same for tracks whose times can be compared, on one camera
    start: float
    end: float
    vectors: Vectors  # of its crops, [N, D], unit length
    times: npt.NDArray[np.float64]  # of its crops, [N]
    boxes: npt.NDArray[np.float64]  # of its crops on their frames: left, top, right, bottom, [N, 4]


@dataclass(frozen=True, eq=False)
class TrackScores:
    """Cosines of impostor pairs [M], with the numbers of their tracks, and of genuine pairs."""

    impostors: npt.NDArray[np.float32]
    first: npt.NDArray[np.int64]  # [M]
    second: npt.NDArray[np.int64]  # [M]
    genuine: npt.NDArray[np.float32]  # [K], of one track
    tracks: int  # that share a view with another one
    across: npt.NDArray[np.float32]  # [L], genuine pairs of tracks on two cameras
    pairs_across: int  # of tracks
    share_across: float  # of the pairs that there could be, if everybody were on all cameras once

    def histograms(self, *, across: bool = False) -> PairScores:
        """The scores; the genuine pairs are those of one track, or those `across` cameras."""
        return PairScores(count_bins(self.across if across else self.genuine), count_bins(self.impostors))


def read_tracks(gallery: Gallery, footage: Footage) -> list[Track]:
    """The appearances in `gallery` as tracks, with the vectors that `gallery` gives."""
    found: dict[str, Appearance] = {}
    held: Mapping[str, list[int]] = defaultdict(list)  # places of the crops that are still there, by appearance
    for item in gallery.items():
        appearance = footage.find(item.path)
        if appearance and not item.error and item.path in appearance.crops:
            found[appearance.key] = appearance
            held[appearance.key].append(appearance.crops.index(item.path))
    ordered = sorted(found.values(), key=lambda one: (one.view, one.start, one.key))
    places = [sorted(held[one.key]) for one in ordered]
    vectors = gallery.vectors([one.crops[place] for one, own in zip(ordered, places, strict=True) for place in own])
    parts = np.split(vectors, np.cumsum([len(own) for own in places])[:-1]) if ordered else []
    tracks = []
    for one, own, part in zip(ordered, places, parts, strict=True):
        looks = [one.looks[place] for place in own]
        shift = one.start - one.video_start  # of the video's clock
        times, boxes = [look.time + shift for look in looks], [look.box for look in looks]
        tracks.append(
            Track(one.camera, one.view, one.start, one.end, part, np.array(times), np.array(boxes, np.float64))
        )
    return tracks


def score_tracks(tracks: Sequence[Track]) -> TrackScores:
    """The scores of all pairs that `tracks` give."""
    impostors, first, second = [], [], []
    for left, right in _pairs_in_view(tracks):
        cosines = (tracks[left].vectors @ tracks[right].vectors.T).ravel()
        impostors.append(cosines)
        first.append(np.full(len(cosines), left))
        second.append(np.full(len(cosines), right))
    genuine = []
    for track in tracks:
        apart = np.triu(np.abs(track.times[:, None] - track.times) >= MIN_GAP_S, 1)
        genuine.append((track.vectors @ track.vectors.T)[apart])
    pairs, possible = pair_across_cameras(tracks)
    across = [(tracks[left].vectors @ tracks[right].vectors.T).ravel() for left, right in pairs]
    none, no_tracks = np.zeros(0, np.float32), np.zeros(0, np.int64)
    return TrackScores(
        np.concatenate([none, *impostors]),
        np.concatenate([no_tracks, *first]),
        np.concatenate([no_tracks, *second]),
        np.concatenate([none, *genuine]),
        len(np.unique(np.concatenate([no_tracks, *first, *second]))),
        np.concatenate([none, *across]),
        len(pairs),
        len(pairs) / max(possible, 1),
    )


def pair_across_cameras(tracks: Sequence[Track]) -> tuple[list[tuple[int, int]], int]:
    """The numbers of each two tracks of two cameras that show one person, and how many such pairs there could be.

    By their mean vectors, each is the other's nearest of that camera, and nearer by far than the second nearest.
    """
    of_camera: dict[Hashable, list[int]] = defaultdict(list)
    for number, track in enumerate(tracks):
        of_camera[track.camera].append(number)
    several = [numbers for numbers in of_camera.values() if len(numbers) > 1]
    pairs: list[tuple[int, int]] = []
    possible = 0
    for first, second in combinations(several, 2):
        units, others = (_mean_vectors([tracks[number] for number in numbers]) for numbers in (first, second))
        there, back = _find_nearest_by_far(units, others), _find_nearest_by_far(others, units)
        pairs += [(first[row], second[at]) for row, at in enumerate(there) if at >= 0 and back[at] == row]
        possible += min(len(first), len(second))
    return pairs, possible


def _mean_vectors(tracks: Sequence[Track]) -> Vectors:
    """The mean vector of each track, of unit length [N, D]."""
    means = np.stack([track.vectors.mean(0) for track in tracks])
    lengths = np.linalg.norm(means, axis=1, keepdims=True).clip(MIN_LENGTH)
    return np.asarray(means / lengths, np.float32)


def _find_nearest_by_far(vectors: Vectors, others: Vectors) -> npt.NDArray[np.intp]:
    """The row of the nearest of `others` [M, D], M > 1, for each of `vectors` [N, D]; -1: the second is near too."""
    found = []
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        distances = 1 - vectors[start : start + ROWS_AT_ONCE] @ others.T
        first, second = np.partition(distances, 1, axis=1)[:, :2].T
        found.append(np.where(first < MAX_DISTANCE_RATIO * second, distances.argmin(1), -1))
    return np.concatenate(found)


def _pairs_in_view(tracks: Sequence[Track]) -> Iterator[tuple[int, int]]:
    """The numbers of each two tracks that are two people."""
    views: dict[Hashable, list[int]] = defaultdict(list)
    for number in sorted(range(len(tracks)), key=lambda number: tracks[number].start):
        views[tracks[number].view].append(number)
    for numbers in views.values():
        present: list[int] = []
        for number in numbers:
            track = tracks[number]
            present = [other for other in present if tracks[other].end - track.start > MIN_OVERLAP_S]
            for other in present:
                if track.end - track.start > MIN_OVERLAP_S and not _may_be_one(track, tracks[other]):
                    yield other, number
            present.append(number)


def _may_be_one(track: Track, other: Track) -> bool:
    """Whether a box of one covers most of a box of the other at nearly the same time: a detector may find one twice."""
    near = np.abs(track.times[:, None] - other.times) <= MAX_TIME_APART_S
    corners = (
        np.minimum(track.boxes[:, None, 2:], other.boxes[:, 2:]),
        np.maximum(track.boxes[:, None, :2], other.boxes[:, :2]),
    )
    common = np.prod(np.clip(corners[0] - corners[1], 0, None), axis=2)
    sizes = [np.prod(one.boxes[:, 2:] - one.boxes[:, :2], axis=1) for one in (track, other)]
    return bool((near & (common > MAX_COVERED * np.minimum(sizes[0][:, None], sizes[1]))).any())
