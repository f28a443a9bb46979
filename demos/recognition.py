"""Frames to people with names: search the gallery for each tracklet, decide on a name, and enrol strangers."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from bot_deploy.camera_means import camera_means_of
from bot_deploy.choices import EMBED_EVERY_FRAMES
from bot_deploy.errors import BotError, InputError
from bot_deploy.matching.identify import Candidate, PersonIdentifier
from bot_deploy.matching.verdict import MATCH, NO_MATCH, UNCERTAIN
from bot_deploy.video.timing import StageTimer
from bot_deploy.video.tracklets import TrackletBuilder, process_together

from .enrolment import Enroller

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bot_deploy.embedder import Embedder, Vectors
    from bot_deploy.gallery import Index
    from bot_deploy.video.detectors import Detector
    from bot_deploy.video.sources import Frame
    from bot_deploy.video.tracklets import Tracklet, TrackletBox
    from bot_deploy.video.tracks import Xyxy

logger = logging.getLogger(__name__)

IDENTITY_SWITCH_MARGIN = 0.05  # cosine by which another person must be more similar before the name changes
MIN_EMBEDDINGS_TO_ENROL = 5  # of a track, before it is enrolled automatically
MIN_PARTIAL_EMBEDDINGS = 20  # of a track that never shows a whole person, before it gets a name
STRANGER_AFTER_S = 4.0  # seconds after which a track with only an uncertain candidate is a stranger
MAX_VIEWS = 5  # crops of one automatically enrolled person
MAX_VIEW_SIMILARITY = 0.7  # cosine; a crop more similar to an enrolled one shows nothing new


class TrackedPerson(NamedTuple):
    """A box on one frame with its decision, for display; it has the name of `candidate` only if that is "match"."""

    track_id: int
    xyxy: Xyxy
    decision: str  # "match", "uncertain" or "no match"
    candidate: Candidate | None

    @property
    def name(self) -> str | None:
        return self.candidate.name if self.candidate and self.decision == MATCH else None


class RecognitionEvent(NamedTuple):
    """A track got a new name; `kind` is "recognised" or "enrolled"."""

    kind: str
    person: TrackedPerson


class FrameResult(NamedTuple):
    """The people on one frame, and the names that are new on it."""

    persons: list[TrackedPerson]
    events: list[RecognitionEvent]


@dataclass
class TrackIdentity:
    """Who a tracklet is: its candidates, and the decision from all frames so far."""

    tracklet: Tracklet
    candidates: list[Candidate] = field(default_factory=list)  # best first
    gallery_size: int = 0  # images in the gallery when it was searched for the candidates
    decision: str = NO_MATCH
    candidate: Candidate | None = None
    reported_name: str | None = None  # in the last event
    is_enrolment_new: bool = False  # enrolled, but not reported yet
    views: list[Vectors] = field(default_factory=list)  # embeddings that were enrolled from this track

    @property
    def is_nameable(self) -> bool:
        """Whether it showed enough of the person. Heads at the frame's edge all look alike."""
        embedding = self.tracklet.embedding
        return embedding.from_whole_person or embedding.count >= MIN_PARTIAL_EMBEDDINGS

    @property
    def is_long(self) -> bool:
        return self.tracklet.last_seen - self.tracklet.first_seen >= STRANGER_AFTER_S

    @property
    def is_enrollable(self) -> bool:
        return self.is_nameable and (self.tracklet.embedding.count >= MIN_EMBEDDINGS_TO_ENROL or self.is_long)

    def has_name_of(self, candidate: Candidate) -> bool:
        """Whether the track already has the name of `candidate`."""
        return self.decision == MATCH and self.candidate is not None and self.candidate.name == candidate.name


class _CameraTracks:
    """The tracks of one camera, and who they are."""

    def __init__(self, builder: TrackletBuilder) -> None:
        self.builder = builder
        self.identities: dict[int, TrackIdentity] = {}  # by track id

    def identity_of(self, box: TrackletBox) -> TrackIdentity:
        return self.identities[box.tracklet.track_id]

    def update_identities(self) -> None:
        """One `TrackIdentity` for each tracklet; a new tracklet under an old track id gets a new one."""
        self.identities = {
            track_id: identity
            if (identity := self.identities.get(track_id)) and identity.tracklet is tracklet
            else TrackIdentity(tracklet)
            for track_id, tracklet in self.builder.tracklets.items()
        }


class LiveRecognizer:
    """Recognises the people on the frames of one camera or of several, which share detector, model and gallery."""

    def __init__(
        self,
        detector: Detector,
        embedder: Embedder,
        gallery: Index,
        *fps: float,
        threshold: float | None = None,
        embed_every: int = EMBED_EVERY_FRAMES,
        auto_enrol: bool = False,
    ) -> None:
        """Starts without tracks.

        Args:
            detector: finds the people.
            embedder: embeds their crops; its calibration gives the threshold of a match.
            gallery: the known people; also the place to enrol.
            fps: frames per second of each camera, without pauses.
            threshold: cosine from which a person is recognised, in place of the calibration.
            embed_every: frames between two embeddings of a track.
            auto_enrol: whether strangers are enrolled automatically.
        """
        self.identifier = PersonIdentifier(
            gallery, embedder.contract.calibration, threshold, camera_means_of(embedder.contract)
        )
        self.enroller = Enroller(gallery)
        self.timer = StageTimer()
        outlier_threshold = self.identifier.outlier_threshold
        self._cameras = [
            _CameraTracks(
                TrackletBuilder(detector, embedder, rate, outlier_threshold, embed_every=embed_every, timer=self.timer)
            )
            for rate in fps
        ]
        self._auto_enrol = auto_enrol

    def process_frame(self, frame: Frame) -> FrameResult:
        """The people on `frame` of the first camera, and the names that are new.

        Raises:
            RunError: the gallery cannot be read, for instance while its server restarts.
        """
        return self.process_frames({0: frame})[0]

    def process_frames(self, frames: Mapping[int, Frame]) -> dict[int, FrameResult]:
        """What `process_frame` returns, for one frame of each of several cameras, by the number of the camera from 0.

        Detector and model get the frames in one batch. Whoever is enrolled on one is known on all.

        Raises:
            RunError: as `process_frame`.
        """
        cameras = {number: self._cameras[number] for number in frames}
        found = process_together([camera.builder for camera in cameras.values()], list(frames.values()))
        boxes = dict(zip(cameras, found, strict=True))
        with self.timer.measure("search"):
            for number, camera in cameras.items():
                camera.update_identities()
                for box in boxes[number]:
                    if box.is_embedded:
                        self._search(camera.identity_of(box))
        for number, camera in cameras.items():
            with self.timer.measure("search"):
                self._assign_names([camera.identity_of(box) for box in boxes[number]])
            if self._auto_enrol:
                with self.timer.measure("enrol"):
                    for box in boxes[number]:
                        self._enrol_if_stranger(camera.identity_of(box), is_embedded=box.is_embedded)
        return {number: _result(camera, boxes[number]) for number, camera in cameras.items()}

    def enrol(self, track_id: int, name: str | None = None, camera: int = 0) -> str:
        """Enrols the person of a track of a camera under `name`, or an automatic name; returns the name.

        Raises:
            InputError: the track does not exist or has no embedding yet, or the name cannot be used.
            RunError: the gallery cannot be written.
        """
        identity = self._cameras[camera].identities.get(track_id)
        if identity is None or identity.tracklet.crop is None or not identity.tracklet.embedding.count:
            raise InputError(f"track {track_id} is gone, or has no embedding yet")
        return self._enrol(identity, name)

    def _enrol(self, identity: TrackIdentity, name: str | None) -> str:
        crop, embedding = identity.tracklet.crop, identity.tracklet.embedding.vector
        assert crop is not None
        if name:
            identity.candidate = self.enroller.enrol(name, crop, embedding)
        else:
            identity.candidate = self.enroller.enrol_stranger(crop, embedding)
        identity.decision, identity.views = MATCH, [embedding]
        identity.is_enrolment_new, identity.reported_name = True, None
        # An unknown track, of any camera, may show the person who was just enrolled.
        for other in (other for camera in self._cameras for other in camera.identities.values()):
            if other.tracklet.embedding.count:
                self._search(other)
        return identity.candidate.name

    def _search(self, identity: TrackIdentity) -> None:
        identity.gallery_size = len(self.identifier.gallery)
        identity.candidates = self.identifier.candidates(identity.tracklet.embedding.vector)

    def _assign_names(self, identities: list[TrackIdentity]) -> None:
        """Gives each track its most similar candidate; no person has two tracks on one frame."""
        pairs = [
            (candidate.score + IDENTITY_SWITCH_MARGIN * identity.has_name_of(candidate), identity, candidate)
            for identity in identities
            for candidate in identity.candidates
        ]
        unassigned = {identity.tracklet.track_id: identity for identity in identities}
        taken_names: set[str] = set()
        for _, identity, candidate in sorted(pairs, key=lambda pair: -pair[0]):
            if identity.tracklet.track_id not in unassigned or candidate.name in taken_names:
                continue
            del unassigned[identity.tracklet.track_id]
            identity.decision, identity.candidate = self._decide_track(identity, candidate), candidate
            if identity.decision == MATCH:
                taken_names.add(candidate.name)
        for identity in unassigned.values():
            identity.decision, identity.candidate = NO_MATCH, None

    def _decide_track(self, identity: TrackIdentity, candidate: Candidate) -> str:
        decision = self.identifier.decide_score(candidate.score, identity.gallery_size)
        if identity.has_name_of(candidate):
            # A name stays until the track clearly shows another person.
            return MATCH if decision == UNCERTAIN else decision
        return UNCERTAIN if decision == MATCH and not identity.is_nameable else decision

    def _enrol_if_stranger(self, identity: TrackIdentity, *, is_embedded: bool) -> None:
        if not identity.is_enrollable:
            return
        if self._is_stranger(identity):
            self._enrol_stranger(identity)
        elif is_embedded and identity.views and identity.decision == MATCH and identity.candidate:
            self._enrol_new_view(identity, identity.candidate.name)

    def _is_stranger(self, identity: TrackIdentity) -> bool:
        # The best candidate may have another track here, or be uncertain only because the gallery is large.
        if identity.candidates and self.identifier.reaches_threshold(identity.candidates[0].score):
            return False
        # A track with an uncertain candidate gets the time to show the person from another side.
        return identity.decision == NO_MATCH or (identity.decision == UNCERTAIN and identity.is_long)

    def _enrol_stranger(self, identity: TrackIdentity) -> None:
        try:
            self._enrol(identity, None)
        except BotError as error:  # a full disk after hours, for instance; recognition continues
            logger.warning(f"automatic enrolment stops: {error}")
            self._auto_enrol = False

    def _enrol_new_view(self, identity: TrackIdentity, name: str) -> None:
        """Adds the last crop of a person enrolled from this track, if it shows another side of the person."""
        crop, embedding = identity.tracklet.crop, identity.tracklet.crop_embedding
        assert crop is not None
        assert embedding is not None
        is_new = max(float(embedding @ view) for view in identity.views) < MAX_VIEW_SIMILARITY
        if is_new and len(identity.views) < MAX_VIEWS:
            self.enroller.enrol(name, crop, embedding)
            identity.views.append(embedding)


def _result(camera: _CameraTracks, boxes: list[TrackletBox]) -> FrameResult:
    result = FrameResult([], [])
    for box in boxes:
        identity = camera.identity_of(box)
        person = TrackedPerson(identity.tracklet.track_id, box.xyxy, identity.decision, identity.candidate)
        result.persons.append(person)
        if person.name is not None and person.name != identity.reported_name:
            kind = "enrolled" if identity.is_enrolment_new else "recognised"
            result.events.append(RecognitionEvent(kind, person))
            identity.reported_name, identity.is_enrolment_new = person.name, False
    return result
