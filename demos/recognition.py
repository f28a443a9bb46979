"""Frames to people with names: search the gallery for each tracklet, decide on a name, and enrol strangers."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from bot_deploy.camera_means import camera_means_of
from bot_deploy.choices import EMBED_EVERY_FRAMES
from bot_deploy.errors import BotError, InputError
from bot_deploy.matching.identify import Candidate, PersonIdentifier
from bot_deploy.matching.verdict import MATCH, NO_MATCH, UNCERTAIN
from bot_deploy.video.timing import StageTimer
from bot_deploy.video.tracklets import FrameStamp, TrackletBuilder, process_together
from bot_deploy.video.tracks import LOST_TRACK_S

from .enrolment import Enroller, crop_stem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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
LEFT = "left"  # the event at the end of an appearance
MAX_VIEWS = 5  # crops of one automatically enrolled person
MAX_VIEW_SIMILARITY = 0.7  # cosine; a crop more similar to an enrolled one shows nothing new


class TrackedPerson(NamedTuple):
    """A box on one frame with its decision, for display; it has the name of `candidate` only if that is "match"."""

    track_id: int
    xyxy: Xyxy
    decision: str  # "match", "uncertain" or "no match"
    candidate: Candidate | None
    first_seen: float = 0.0  # seconds of the source; this appearance
    last_seen: float = 0.0

    @property
    def name(self) -> str | None:
        return self.candidate.name if self.candidate and self.decision == MATCH else None


class RecognitionEvent(NamedTuple):
    """What happened to a track.

    `kind` is "recognised" or "enrolled" for a new name, "uncertain" for somebody who may be the candidate, and "left"
    at the end of an appearance with one of these.
    """

    kind: str
    person: TrackedPerson
    frame: FrameStamp  # the last one that shows the person


class FrameResult(NamedTuple):
    """The people on one frame, and the names that are new on it."""

    persons: list[TrackedPerson]
    events: list[RecognitionEvent]


@dataclass
class TrackIdentity:
    """Who a tracklet is: its candidates, and the decision from all frames so far."""

    tracklet: Tracklet
    camera: int | None = None  # its number in a gallery; None: unknown
    candidates: list[Candidate] = field(default_factory=list)  # best first
    gallery_size: int = 0  # images in the gallery when it was searched for the candidates
    decision: str = NO_MATCH
    candidate: Candidate | None = None
    reported_name: str | None = None  # in the last event
    is_enrolment_new: bool = False  # enrolled, but not reported yet
    is_uncertain_reported: bool = False
    has_ended: bool = False  # the appearance
    last_xyxy: Xyxy = (0.0, 0.0, 0.0, 0.0)
    last_frame: FrameStamp | None = None  # None before the first box
    is_learned: bool = False  # it is in the mean of its camera
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
    def is_settled(self) -> bool:
        """Whether there are enough embeddings to decide on."""
        return self.tracklet.embedding.count >= MIN_EMBEDDINGS_TO_ENROL or self.is_long

    @property
    def is_enrollable(self) -> bool:
        return self.is_nameable and self.is_settled

    @property
    def is_doubtful(self) -> bool:
        """Whether it may be the candidate, and nobody was told."""
        return self.decision == UNCERTAIN and self.reported_name is None and not self.is_uncertain_reported

    @property
    def person(self) -> TrackedPerson:
        """The last box, with the decision so far."""
        tracklet = self.tracklet
        return TrackedPerson(
            tracklet.track_id,
            self.last_xyxy,
            self.decision,
            self.candidate,
            tracklet.first_seen,
            tracklet.last_seen,
        )

    def has_name_of(self, candidate: Candidate) -> bool:
        """Whether the track already has the name of `candidate`."""
        return self.decision == MATCH and self.candidate is not None and self.candidate.name == candidate.name


class _CameraTracks:
    """The tracks of one camera, and who they are."""

    def __init__(self, builder: TrackletBuilder, number: int | None) -> None:
        self.builder, self.number = builder, number
        self.identities: dict[int, TrackIdentity] = {}  # by track id
        self._ended: list[TrackIdentity] = []  # whose track shows somebody else now, or is gone

    def identity_of(self, box: TrackletBox) -> TrackIdentity:
        return self.identities[box.tracklet.track_id]

    def update(self, frame: Frame, boxes: list[TrackletBox]) -> None:
        """Takes the tracklets of the next frame; a new one under an old track id is somebody else."""
        earlier = self.identities
        self.identities = {
            track_id: identity
            if (identity := earlier.get(track_id)) and identity.tracklet is tracklet
            else TrackIdentity(tracklet, self.number)
            for track_id, tracklet in self.builder.tracklets.items()
        }
        for box in boxes:
            identity = self.identity_of(box)
            identity.last_xyxy, identity.last_frame = box.xyxy, FrameStamp(frame.number, frame.time, frame.clock)
        self._ended += [identity for key, identity in earlier.items() if identity is not self.identities.get(key)]

    def report(self, boxes: list[TrackletBox], now: float) -> list[RecognitionEvent]:
        """What is new on a frame of the time `now`, which shows `boxes`."""
        lost = [one for one in self.identities.values() if now - one.tracklet.last_seen > LOST_TRACK_S]
        ended, self._ended = [*self._ended, *lost], []
        present = [self.identity_of(box) for box in boxes]
        return [*(event for one in ended for event in _end(one)), *(event for one in present for event in _news(one))]

    def finish(self) -> list[RecognitionEvent]:
        """The ends of all appearances."""
        return [event for identity in [*self._ended, *self.identities.values()] for event in _end(identity)]


def _news(identity: TrackIdentity) -> list[RecognitionEvent]:
    """The event of a track that is in view, if there is one."""
    person = identity.person
    if person.name is not None and person.name != identity.reported_name:
        kind = "enrolled" if identity.is_enrolment_new else "recognised"
        identity.reported_name, identity.is_enrolment_new = person.name, False
    elif identity.is_settled and identity.is_doubtful:
        kind, identity.is_uncertain_reported = UNCERTAIN, True
    else:
        return []
    assert identity.last_frame is not None
    return [RecognitionEvent(kind, person, identity.last_frame)]


def _end(identity: TrackIdentity) -> list[RecognitionEvent]:
    """The events at the end of an appearance; none if it had no event, or has ended before."""
    if identity.has_ended or identity.last_frame is None:
        return []
    identity.has_ended = True
    if identity.is_doubtful:  # it was too short to say so before
        kinds = [UNCERTAIN, LEFT]
    else:
        kinds = [LEFT] if identity.reported_name is not None or identity.is_uncertain_reported else []
    return [RecognitionEvent(kind, identity.person, identity.last_frame) for kind in kinds]


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
        camera_numbers: Sequence[int | None] = (),
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
            camera_numbers: of each camera, as in a gallery; enrolled crops have them, and an adapted model uses its
                mean of that camera, or learns one. (): unknown.
        """
        self.identifier = PersonIdentifier(
            gallery, embedder.contract.calibration, threshold, camera_means_of(embedder.contract)
        )
        self.enroller = Enroller(gallery)
        self.timer = StageTimer()
        outlier_threshold = self.identifier.outlier_threshold
        self._cameras = [
            _CameraTracks(
                TrackletBuilder(detector, embedder, rate, outlier_threshold, embed_every=embed_every, timer=self.timer),
                number,
            )
            for rate, number in zip(fps, camera_numbers or [None] * len(fps), strict=True)
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
                camera.update(frames[number], boxes[number])
                for box in boxes[number]:
                    if box.is_embedded:
                        self._learn(camera.identity_of(box))
                        self._search(camera.identity_of(box))
        for number, camera in cameras.items():
            with self.timer.measure("search"):
                self._assign_names([camera.identity_of(box) for box in boxes[number]])
            if self._auto_enrol:
                with self.timer.measure("enrol"):
                    for box in boxes[number]:
                        self._enrol_if_stranger(camera.identity_of(box), is_embedded=box.is_embedded)
        return {
            number: FrameResult(
                [camera.identity_of(box).person for box in boxes[number]],
                camera.report(boxes[number], frames[number].time),
            )
            for number, camera in cameras.items()
        }

    def finish(self) -> dict[int, list[RecognitionEvent]]:
        """The ends of the appearances that have not ended, by the number of the camera."""
        return {number: camera.finish() for number, camera in enumerate(self._cameras)}

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
        stem = _stem(identity.tracklet)
        if name:
            identity.candidate = self.enroller.enrol(name, crop, embedding, stem, identity.camera)
        else:
            identity.candidate = self.enroller.enrol_stranger(crop, embedding, stem, identity.camera)
        identity.decision, identity.views = MATCH, [embedding]
        identity.is_enrolment_new, identity.reported_name = True, None
        # An unknown track, of any camera, may show the person who was just enrolled.
        for other in (other for camera in self._cameras for other in camera.identities.values()):
            if other.tracklet.embedding.count:
                self._search(other)
        return identity.candidate.name

    def _learn(self, identity: TrackIdentity) -> None:
        """Takes a person who is seen well enough into the mean of the camera, once."""
        is_new = identity.is_enrollable and not identity.is_learned and not identity.tracklet.why_no_person
        if is_new and identity.camera is not None:
            self.identifier.learn_camera(identity.camera, identity.tracklet.embedding.vector)
            identity.is_learned = True

    def _search(self, identity: TrackIdentity) -> None:
        identity.gallery_size = len(self.identifier.gallery)
        identity.candidates = self.identifier.candidates(identity.tracklet.embedding.vector, identity.camera)

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
        is_unknown = identity.decision == NO_MATCH or (identity.decision == UNCERTAIN and identity.is_long)
        return is_unknown and not identity.tracklet.why_no_person  # a post, for instance

    def _enrol_stranger(self, identity: TrackIdentity) -> None:
        with self._stop_enrolment_on_errors():
            self._enrol(identity, None)

    @contextlib.contextmanager
    def _stop_enrolment_on_errors(self) -> Iterator[None]:
        """A full disk after hours, for instance, ends automatic enrolment; recognition continues."""
        try:
            yield
        except BotError as error:
            logger.warning(f"automatic enrolment stops: {error}")
            self._auto_enrol = False

    def _enrol_new_view(self, identity: TrackIdentity, name: str) -> None:
        """Adds the last crop of a person enrolled from this track, if it shows another side of the person."""
        crop, embedding = identity.tracklet.crop, identity.tracklet.crop_embedding
        assert crop is not None
        assert embedding is not None
        is_new = max(float(embedding @ view) for view in identity.views) < MAX_VIEW_SIMILARITY
        if is_new and len(identity.views) < MAX_VIEWS:
            with self._stop_enrolment_on_errors():
                self.enroller.enrol(name, crop, embedding, _stem(identity.tracklet), identity.camera)
                identity.views.append(embedding)


def _stem(tracklet: Tracklet) -> str:
    """The name of the file of the crop: when it was filmed, not when it is enrolled."""
    frame = tracklet.crop_frame
    assert frame is not None
    return crop_stem(frame.clock, frame.number)
