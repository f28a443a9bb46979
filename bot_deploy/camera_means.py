"""Camera means: what the embeddings of one camera have in common, which is taken out of them without any labels.

Light, background and view of a camera move all its embeddings in one direction. Without it, two crops of one person
from two cameras are nearer to each other.

Whitening goes further: directions in which all embeddings differ much, such as that of the light, count less.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.artifacts.contract import StoredCameraMean, decode_vectors, encode_vectors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from bot_deploy.artifacts.contract import Contract

    Vectors = npt.NDArray[np.float32]

NEW_CAMERA_PULL = 25  # appearances after which the mean of a new camera is as much its own as that of all crops
WHITENED_DIRECTIONS = 128  # of the greatest variance; all of them change rank-1 and mAP by less than 0.5
WHITENING_BLOCK = 8192  # crops
WHITENING_SHRINKAGE = 0.5  # share of equal variance in all directions
MIN_CAMERA_CROPS = 25  # below it, a camera's mean is that of the people on it and hurts
LISTED_CAMERAS, MAX_LISTED_NUMBER = 12, 99_999  # in messages; cameras that have a name only have higher numbers


@dataclass(frozen=True, eq=False)
class CameraMeans:
    """The mean embedding of each camera."""

    overall: Vectors  # [D], of the crops of all cameras
    of_camera: Mapping[int, Vectors]  # camera ID -> [D], pulled towards `overall` where it has few crops
    crops: Mapping[int, int]  # camera ID -> number of its crops
    whitening: Vectors | None = None  # A [R, D]: a vector x becomes x - A^T A x; None: no whitening

    def center(self, vectors: Vectors, cameras: Sequence[int | None]) -> Vectors:
        """Unit `vectors` [N, D] of the `cameras` [N], each minus the mean of its camera, scaled to unit length again.

        They are whitened before that, if there is a whitening. A camera that is None, or not among the means, is
        unknown.
        """
        return _unit_length(self._whiten(self.subtract(vectors, cameras)))

    def subtract(self, vectors: Vectors, cameras: Sequence[int | None]) -> Vectors:
        """`vectors` [N, D] minus the means of their `cameras` [N]."""
        rest = np.array(vectors, np.float32)
        numbers = np.array([-1 if camera is None else camera for camera in cameras], np.int64)
        for number in np.unique(numbers):
            rest[numbers == number] -= self.of_camera.get(int(number), self.overall)
        return rest

    def center_one(self, vector: Vectors, cameras: Sequence[int | None]) -> Vectors:
        """A unit `vector` [D] that stands for crops of `cameras` (None: unknown), minus the mean of their means."""
        known = [self.overall if camera is None else self.of_camera.get(camera, self.overall) for camera in cameras]
        means = known or [self.overall]
        rest = np.asarray(vector - np.mean(means, axis=0), np.float32)[None]
        centered: Vectors = _unit_length(self._whiten(rest))[0]
        return centered

    def direction(self, query: Vectors) -> Vectors:
        """The unit vector whose dot products with vectors as they are rank them nearly as the centered `query` [D].

        The dot product with a whitened vector is that of the whitened query with the vector, because I - A^T A is
        symmetric. Only means and lengths are left out.
        """
        if self.whitening is None:
            return query
        turned: Vectors = _unit_length(self._whiten(query[None]))[0]
        return turned

    def with_appearance(self, camera: int, vector: Vectors) -> CameraMeans:
        """These means after one more appearance on `camera`, whose unit `vector` [D] counts as one crop.

        A new camera starts from the mean of all crops, and after n appearances with mean m it has
        (n m + k M) / (n + k), with k = NEW_CAMERA_PULL: as `fit_camera_means`, but with a fixed pull.
        """
        seen, mean = self.crops.get(camera, 0), self.of_camera.get(camera, self.overall)
        moved = np.asarray(mean + (vector - mean) / (seen + 1 + NEW_CAMERA_PULL), np.float32)
        of_camera, crops = {**self.of_camera, camera: moved}, {**self.crops, camera: seen + 1}
        return replace(self, of_camera=of_camera, crops=crops)

    def _whiten(self, vectors: Vectors) -> Vectors:
        if self.whitening is None:
            return vectors
        return np.asarray(vectors - (vectors @ self.whitening.T) @ self.whitening, np.float32)


def fit_camera_means(vectors: Vectors, cameras: Sequence[int | None]) -> CameraMeans:
    """The means of unit `vectors` [N, D], N of at least 1, that the `cameras` [N] took; None: an unknown camera.

    The mean of few crops is that of a few people, so it is pulled towards the mean of all (empirical Bayes; Efron and
    Morris, 1975). With n crops of a camera, mean m, and the mean of all crops M, the result is (n m + k M) / (n + k).
    k is the variance within cameras over that between them: (1 - s) / (s - d), where s and d are the mean cosines of
    two crops from one camera and from two.
    """
    overall = vectors.mean(0, dtype=np.float64)
    numbers = np.array([-1 if camera is None else camera for camera in cameras], np.int64)
    known = numbers >= 0
    same, different = _mean_cosines(vectors[known], numbers[known])
    between = max(0.0, same - different) if np.isfinite(same - different) else 0.0
    of_camera: dict[int, Vectors] = {}
    crops: dict[int, int] = {}
    for number in np.unique(numbers[known]).tolist():
        own = vectors[numbers == number]
        weight = len(own) * between / (len(own) * between + 1 - same) if between else 0.0
        mean = weight * own.mean(0, dtype=np.float64) + (1 - weight) * overall
        of_camera[number], crops[number] = np.asarray(mean, np.float32), len(own)
    return CameraMeans(np.asarray(overall, np.float32), of_camera, crops)


def fit_whitening(means: CameraMeans, vectors: Vectors, cameras: Sequence[int | None]) -> Vectors:
    """The whitening [R, D] of unit `vectors` [N, D] of the `cameras` [N], after their `means` are taken out.

    C is the covariance of what is left. It is shrunk to S = (1 - s) C + s tr(C)/D I (Ledoit and Wolf, 2004), and
    whitening multiplies by S^(-1/2). The eigenvalues of S beyond the first R are replaced by their mean v, so
    S^(-1/2) is a multiple of I - A^T A: row i of A is sqrt(1 - sqrt(v / S_i)) times eigenvector i.
    """
    covariance = np.zeros((vectors.shape[1],) * 2)
    for start in range(0, len(vectors), WHITENING_BLOCK):  # float64 copies of all crops may not fit into memory
        rows = slice(start, start + WHITENING_BLOCK)
        rest = means.subtract(vectors[rows], cameras[rows]).astype(np.float64)
        covariance += rest.T @ rest / len(vectors)
    variances, directions = np.linalg.eigh(covariance)  # ascending
    shrunk = (1 - WHITENING_SHRINKAGE) * variances.clip(0) + WHITENING_SHRINKAGE * variances.mean()
    count = min(WHITENED_DIRECTIONS, len(shrunk) - 1)
    if count < 1 or not variances.mean() > 0:
        return np.zeros((0, vectors.shape[1]), np.float32)
    tail = shrunk[:-count].mean()
    share = 1 - np.sqrt(tail / shrunk[-count:])
    return np.asarray((np.sqrt(share.clip(0)) * directions[:, -count:]).T, np.float32)


def camera_means_of(contract: Contract) -> CameraMeans | None:
    """The camera means that `bot adapt` stored in `contract`; None if the model is not adapted."""
    if not contract.camera_means:
        return None
    whitening = decode_vectors(contract.whitening, contract.dim, "whitening") if contract.whitening else None
    decoded = {stored.camera: stored.decode(contract.dim) for stored in contract.camera_means}
    crops = {stored.camera: stored.crops for stored in contract.camera_means if stored.camera is not None}
    return CameraMeans(decoded[None], {camera: decoded[camera] for camera in crops}, crops, whitening)


def describe_means(means: CameraMeans) -> str:
    """To which cameras `means` belong, as a line for users."""
    numbers = sorted(means.of_camera)
    listed = len(numbers) <= LISTED_CAMERAS and all(number <= MAX_LISTED_NUMBER for number in numbers)
    cameras = ", ".join(map(str, numbers)) if listed else f"{len(numbers)} in all"
    whitened = ", and is whitened" if means.whitening is not None else ""
    return f"adapted to cameras ({cameras}): every embedding loses the mean of its camera{whitened}"


def note_on_cameras(means: CameraMeans, cameras: Iterable[int | None]) -> str:
    """A line for users if none of the `cameras` of crops is one of `means`; otherwise empty."""
    if any(camera in means.of_camera for camera in cameras):
        return ""
    return (
        "none of these crops is known to be from a camera that the model is adapted to, so each loses the mean of all "
        "cameras; names such as c2_0001.jpg tell the camera, and `bot adapt` measures others"
    )


def stored_means(means: CameraMeans, crops: int) -> tuple[StoredCameraMean, ...]:
    """`means`, measured on `crops` crops, as a contract holds them."""
    rows: list[tuple[int | None, int, Vectors]] = [
        (None, crops, means.overall),
        *((camera, means.crops[camera], mean) for camera, mean in sorted(means.of_camera.items())),
    ]
    return tuple(
        StoredCameraMean(camera=camera, crops=count, mean=encode_vectors(mean)) for camera, count, mean in rows
    )


def _unit_length(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def camera_gap(vectors: Vectors, cameras: Sequence[int]) -> float:
    """How much more alike two crops of one camera are than two of different cameras: a difference of mean cosines.

    Args:
        vectors: unit vectors [N, D] of crops from at least two cameras, two crops or more of some camera.
        cameras: camera IDs [N].
    """
    same, different = _mean_cosines(vectors, np.asarray(cameras, np.int64))
    return same - different


def _mean_cosines(vectors: Vectors, cameras: npt.NDArray[np.int64]) -> tuple[float, float]:
    """The mean cosine of two different crops from one camera, and from two cameras; NaN where there is no such pair."""
    # Of n unit vectors with sum s, the cosines of all ordered pairs of different ones sum up to |s|^2 - n.
    same_sum = same_pairs = 0.0
    for camera in np.unique(cameras):
        own = cameras == camera
        count = int(own.sum())
        same_sum += np.square(vectors.sum(0, np.float64, where=own[:, None])).sum() - _sum_of_squares(vectors, own)
        same_pairs += count * (count - 1)
    different_sum = np.square(vectors.sum(0, np.float64)).sum() - _sum_of_squares(vectors) - same_sum
    different_pairs = len(vectors) * (len(vectors) - 1) - same_pairs
    return (
        float(same_sum / same_pairs) if same_pairs else np.nan,
        float(different_sum / different_pairs) if different_pairs else np.nan,
    )


def _sum_of_squares(vectors: Vectors, rows: npt.NDArray[np.bool_] | None = None) -> float:
    """The sum of all squared numbers of `vectors` [N, D], or of its `rows` bool [N], in float64 and without a copy."""
    squares = np.einsum("nd,nd->n", vectors, vectors).astype(np.float64)
    return float(squares.sum() if rows is None else squares[rows].sum())
