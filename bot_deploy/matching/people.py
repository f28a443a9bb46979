"""Appearances to people: who is the same person on several cameras.

Agglomerative clustering by SciPy, average linkage over cosines. Two people in view of one camera at one time are never
one person, and neither are two people of different names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bot_deploy.errors import InputError, require_range

from .appearances import mean_vectors
from .identify import UNCALIBRATED_THRESHOLD
from .tracks import MIN_OVERLAP_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bot_deploy.artifacts.contract import Calibration
    from bot_deploy.embedder import Vectors
    from bot_deploy.footage import Appearance, Footage
    from bot_deploy.gallery import Gallery, Index

MAX_APPEARANCES = 10_000  # the distances of more would take over 800 MB
NEVER = 1e6  # a distance; the mean of up to a million distances with one such is above every threshold


@dataclass(frozen=True)
class SeenAppearance:
    """An appearance with what the index holds of it."""

    appearance: Appearance
    name: str | None  # identity of its crops
    vector: Vectors  # mean of its crops, [D], unit length


@dataclass(frozen=True)
class SeenPerson:
    """One person, by number from 1 in the order in which people appear."""

    number: int
    name: str | None
    appearances: tuple[SeenAppearance, ...]  # in the order of time

    @property
    def note(self) -> str:
        """How many appearances have the name themselves, where some have it from the others only; otherwise empty.

        `bot forget` removes those that have it.
        """
        named = sum(one.name is not None for one in self.appearances)
        return f"{named} of {len(self.appearances)} named" if 0 < named < len(self.appearances) else ""

    @property
    def label(self) -> str:
        """The name, or "person 3"."""
        return self.name or f"person {self.number}"


def list_appearances(gallery: Gallery, footage: Footage) -> list[SeenAppearance]:
    """All appearances in `gallery`, in the order of time.

    Raises:
        InputError: there are none, or too many to compare.
    """
    names: dict[str, str | None] = {}
    found: dict[str, Appearance] = {}
    for item in gallery.items():
        appearance = footage.find(item.path)
        if appearance:
            found[appearance.key] = appearance
            names[appearance.key] = item.identity
    if not found:
        raise InputError("no appearances of people; `bot index VIDEO... -o GALLERY` finds them in videos")
    if len(found) > MAX_APPEARANCES:
        raise InputError(f"{len(found)} appearances; at most {MAX_APPEARANCES} can be compared: index fewer videos")
    ordered = sorted(found.values(), key=lambda one: (one.start, one.camera, one.key))
    vectors = mean_vectors(gallery, [one.crops for one in ordered])
    return [SeenAppearance(one, names[one.key], vector) for one, vector in zip(ordered, vectors, strict=True)]


def choose_threshold(calibration: Calibration | None, threshold: float | None) -> float:
    """The cosine from which appearances show one person: `threshold`, the calibrated one, or a usual one."""
    if threshold is not None:
        require_range("threshold", threshold, -1, 1)
        return threshold
    return calibration.threshold if calibration else UNCALIBRATED_THRESHOLD


def group_people(appearances: Sequence[SeenAppearance], threshold: float) -> list[SeenPerson]:
    """The people of `appearances`; within one, the mean cosine of merged groups is at least `threshold`."""
    labels = _cluster(_distances(appearances), 1 - threshold)
    groups: dict[int, list[SeenAppearance]] = {}
    for one, label in zip(appearances, labels, strict=True):
        groups.setdefault(label, []).append(one)
    people = sorted(groups.values(), key=lambda group: min(one.appearance.start for one in group))
    return [
        SeenPerson(
            number,
            next((one.name for one in group if one.name), None),
            tuple(sorted(group, key=lambda one: one.appearance.start)),
        )
        for number, group in enumerate(people, start=1)
    ]


def name_people(index: Index, people: Sequence[SeenPerson], names: Mapping[str, str | None]) -> None:
    """Writes names to the crops in `index`, where searches and the live demo read them.

    Args:
        index: it holds the appearances.
        people: as `group_people` found them.
        names: by the number of a person, or by video and number of one appearance (entrance-1f0c6a2b/0012), which
            divides a wrong group; None removes a name.

    Raises:
        InputError: no such person or appearance.
    """
    by_number = {str(person.number): [one.appearance for one in person.appearances] for person in people}
    by_key = {one.appearance.short_key: [one.appearance] for person in people for one in person.appearances}
    name_of: dict[str, str | None] = {}  # by the path of a crop
    for who, name in names.items():
        appearances = by_number.get(who) or by_key.get(who)
        if appearances is None:
            raise InputError(f"{who}: no such person or appearance; there are {len(people)} people", parameter="name")
        name_of |= {path: name for appearance in appearances for path in appearance.crops}
    items = [item for item in index.items() if item.path in name_of]
    index.update_metadata([item._replace(identity=name_of[item.path]) for item in items])


def _cluster(distances: npt.NDArray[np.float64], limit: float) -> list[int]:
    """A label for each row of `distances` [N, N]."""
    if len(distances) == 1:
        return [0]
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    tree = linkage(squareform(distances, checks=False), method="average")
    labels: list[int] = fcluster(tree, max(limit, 0.0), criterion="distance").tolist()
    return labels


def _distances(appearances: Sequence[SeenAppearance]) -> npt.NDArray[np.float64]:
    """1 - cosine of each pair, 0 for one name, `NEVER` for what cannot be one person: [N, N]."""
    vectors = np.stack([one.vector for one in appearances]).astype(np.float64)
    distances = np.clip(1 - vectors @ vectors.T, 0, 2)
    starts = np.array([one.appearance.start for one in appearances])
    ends = np.array([one.appearance.end for one in appearances])
    numbers: dict[tuple[str, str], int] = {}
    views = np.array([numbers.setdefault(one.appearance.view, len(numbers)) for one in appearances])
    names = np.array([one.name or "" for one in appearances])
    overlap = np.minimum(ends[:, None], ends) - np.maximum(starts[:, None], starts)
    named = (names[:, None] != "") & (names != "")
    distances[named & (names[:, None] == names)] = 0
    distances[(views[:, None] == views) & (overlap > MIN_OVERLAP_S)] = NEVER
    distances[named & (names[:, None] != names)] = NEVER
    np.fill_diagonal(distances, 0)
    return distances
