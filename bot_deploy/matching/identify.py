"""Identification: which person of a gallery an embedding shows, and whether the score is a match."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bot_deploy.camera_means import MIN_CAMERA_CROPS
from bot_deploy.datasets.names import SPECIAL_LABELS
from bot_deploy.errors import require_range
from bot_deploy.footage.records import is_footage_crop
from bot_deploy.video.track_embedding import find_outlier_threshold

from .centered_gallery import CenteredGallery
from .verdict import MATCH, NO_MATCH, OTHER_CAMERAS, UNCERTAIN, make_verdict, other_cameras

if TYPE_CHECKING:
    from collections.abc import Collection

    from bot_deploy.artifacts.contract import Calibration
    from bot_deploy.camera_means import CameraMeans
    from bot_deploy.embedder import Vectors
    from bot_deploy.gallery import Gallery, GalleryItem

UNCALIBRATED_THRESHOLD = 0.6  # cosine from which a score is a match, for a model without a calibration
UNCERTAIN_MARGIN = 0.15  # cosine; without a calibration, a score this far below the threshold is uncertain
MIN_CANDIDATES = 4  # people that a search returns, if the gallery has so many
SEARCH_SIZE = 24  # gallery images that the first search returns
MAX_SEARCH_SIZE = 12288  # gallery images that the last search returns
SEARCH_GROWTH = 8  # factor from one search to the next, while too few people are among the images


class Candidate(NamedTuple):
    """A person of the gallery who may be the one that an embedding shows."""

    name: str
    score: float  # cosine with this person's most similar image
    crop_path: Path  # of that image


class PersonIdentifier:
    """Finds the people of a gallery that look like an embedding, and decides whether a score is a match."""

    def __init__(
        self,
        gallery: Gallery,
        calibration: Calibration | None,
        threshold: float | None = None,
        means: CameraMeans | None = None,
    ) -> None:
        """Uses the thresholds of `calibration`; `threshold`, the lowest cosine of a match, replaces them.

        `means` are those of an adapted model.
        """
        self.gallery = gallery
        self.means = means  # with those of cameras that were learned since
        crops = means.crops if means else {}
        self._adapted_cameras = frozenset(camera for camera, count in crops.items() if count >= MIN_CAMERA_CROPS)
        self._searched = CenteredGallery(gallery, means) if means else gallery
        if threshold is not None:
            require_range("threshold", threshold, -1, 1)
        self._calibration = calibration if threshold is None else None
        self._threshold = UNCALIBRATED_THRESHOLD if threshold is None else threshold
        if self._calibration:
            self._threshold = self._calibration.threshold

    @property
    def outlier_threshold(self) -> float:
        """Cosine below which two images of one track do not show the same person; see `find_outlier_threshold`."""
        if self._calibration or self.means:
            return find_outlier_threshold(self._calibration, is_adapted=self.means is not None)
        return self._threshold - UNCERTAIN_MARGIN

    def describe_rule(self, cameras: Collection[int | None] = (None,)) -> str:
        """The rule for a match on crops of these `cameras`, as a phrase; None: an unknown camera."""
        if not self._calibration:
            source = "not calibrated; `bot calibrate` finds a threshold"
        elif not self._calibration.cameras or other_cameras(self._calibration, cameras):
            source = OTHER_CAMERAS
        else:
            source = "calibrated"
        return f"a match needs a cosine of {self._threshold:.3f} or more; {source}"

    def learn_camera(self, camera: int, embedding: Vectors) -> None:
        """Takes an appearance on `camera`, with the unit vector `embedding` [D], into the mean of that camera.

        Nothing changes if the model is not adapted, or is adapted to this camera.
        """
        if self.means and camera not in self._adapted_cameras:
            self.means = self.means.with_appearance(camera, embedding)
            self._searched = CenteredGallery(self.gallery, self.means)

    def candidates(self, embedding: Vectors, camera: int | None = None) -> list[Candidate]:
        """The people most similar to the unit vector `embedding` [D], best first; each with the best score.

        `camera` took the crop; None: an unknown one.
        """
        if self.means:
            embedding = self.means.center_one(embedding, () if camera is None else (camera,))
        top = SEARCH_SIZE
        while True:
            hits = self._searched.search(embedding, top)
            people: dict[str, Candidate] = {}
            for hit in hits:
                name = person_name(hit.item)
                if name is not None:
                    people.setdefault(name, Candidate(name, hit.score, self.gallery.root / hit.item.path))
            # Many images of one person can fill the first search.
            if len(people) >= MIN_CANDIDATES or len(hits) < top or top >= MAX_SEARCH_SIZE:
                return list(people.values())
            top *= SEARCH_GROWTH

    def decide_score(self, score: float, gallery_size: int) -> str:
        """`verdict.MATCH`, `UNCERTAIN` or `NO_MATCH` for the score of a candidate among `gallery_size` images.

        Without a calibration, fixed thresholds decide: a live demo has to name people. `verdict.make_verdict`, for
        `bot match`, says "uncalibrated" instead.
        """
        if self._calibration:
            return make_verdict(self._calibration, score, gallery_size).decision
        if score >= self._threshold:
            return MATCH
        return UNCERTAIN if score >= self._threshold - UNCERTAIN_MARGIN else NO_MATCH

    def reaches_threshold(self, score: float) -> bool:
        """Whether `score` reaches the threshold of a match, whatever the size of the gallery."""
        return score >= self._threshold


def person_name(item: GalleryItem) -> str | None:
    """The identity of `item`, or the stem of its file name.

    None for Market-1501's junk and distractors, and for people in videos who have no name yet.
    """
    if item.identity in SPECIAL_LABELS or (item.identity is None and is_footage_crop(item.path)):
        return None
    return item.identity or Path(item.path).stem
