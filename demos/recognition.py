"""Frames to people with names: search the gallery for each tracklet, decide on a name, and enrol strangers."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from bot_deploy.choices import EMBED_EVERY_FRAMES
from bot_deploy.errors import BotError, InputError
from bot_deploy.matching.identify import Candidate, PersonIdentifier
from bot_deploy.matching.verdict import MATCH, NO_MATCH, UNCERTAIN
from bot_deploy.video.timing import StageTimer
from bot_deploy.video.tracklets import TrackletBuilder

from .enrolment import Enroller

if TYPE_CHECKING:
    from bot_deploy.embedder import Embedder, Vectors
    from bot_deploy.gallery import Gallery
    from bot_deploy.video.detectors import Detector
    from bot_deploy.video.sources import Frame
    from bot_deploy.video.tracklets import Appearance, Tracklet
    from bot_deploy.video.tracks import Xyxy

logger = logging.getLogger(__name__)

IDENTITY_SWITCH_MARGIN = 0.05  # cosine by which another person must be more similar before the name changes
MIN_EMBEDDINGS_TO_ENROL = 5  # of a track, before it is enrolled automatically
MIN_OCCLUDED_EMBEDDINGS = 20  # of a track that never shows a whole person, before it gets a name
STRANGER_AFTER_S = 4.0  # seconds after which a track with only an uncertain candidate is a stranger
MAX_VIEWS = 5  # crops of one automatically enrolled person
MAX_VIEW_SIMILARITY = 0.7  # cosine; a crop more similar to an enrolled one shows nothing new


class TrackedPerson(NamedTuple):
    """A person on one frame; `candidate` is the best one, and gives the name only if `decision` is "match"."""

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
class TrackState:
    """The identity of one tracklet so far."""

    tracklet: Tracklet
    candidates: list[Candidate] = field(default_factory=list)  # best first
    decision: str = NO_MATCH
    candidate: Candidate | None = None
    reported_name: str | None = None  # in the last event
    is_enrolment_new: bool = False  # enrolled, but not reported yet
    views: list[Vectors] = field(default_factory=list)  # embeddings that were enrolled from this track

    @property
    def is_nameable(self) -> bool:
        """Whether it showed enough of the person. Heads at the frame's edge all look alike."""
        embedding = self.tracklet.embedding
        return embedding.unoccluded or embedding.count >= MIN_OCCLUDED_EMBEDDINGS

    @property
    def is_long(self) -> bool:
        return self.tracklet.last_seen - self.tracklet.first_seen >= STRANGER_AFTER_S

    @property
    def is_enrollable(self) -> bool:
        return self.is_nameable and (self.tracklet.embedding.count >= MIN_EMBEDDINGS_TO_ENROL or self.is_long)

    def has_name_of(self, candidate: Candidate) -> bool:
        """Whether the track already has the name of `candidate`."""
        return self.decision == MATCH and self.candidate is not None and self.candidate.name == candidate.name


class LiveRecognizer:
    """Recognises the people on the frames of one source, in order."""

    def __init__(
        self,
        detector: Detector,
        embedder: Embedder,
        gallery: Gallery,
        fps: float,
        *,
        min_score: float | None = None,
        every: int = EMBED_EVERY_FRAMES,
        auto_enrol: bool = False,
    ) -> None:
        """Starts without tracks.

        Args:
            detector: finds the people.
            embedder: embeds their crops; its calibration gives the threshold of a match.
            gallery: the known people; also the place to enrol.
            fps: frames per second of the source, without pauses.
            min_score: lowest cosine of a match, in place of the calibration.
            every: frames between two embeddings of a track.
            auto_enrol: whether strangers are enrolled automatically.
        """
        self.identifier = PersonIdentifier(gallery, embedder.contract.calibration, min_score)
        self.enroller = Enroller(gallery)
        self.timer = StageTimer()
        self._builder = TrackletBuilder(
            detector,
            embedder,
            fps,
            self.identifier.outlier_threshold,
            every=every,
            timer=self.timer,
        )
        self._auto_enrol = auto_enrol
        self._states: dict[int, TrackState] = {}  # by track id

    def process_frame(self, frame: Frame) -> FrameResult:
        """The people on `frame`, and the names that are new.

        Raises:
            RunError: the gallery cannot be read, for instance while its server restarts.
        """
        appearances = self._builder.process_frame(frame)
        self._update_states()
        with self.timer.measure("search"):
            for appearance in appearances:
                if appearance.is_embedded:
                    self._search(self._state_of(appearance))
            self._assign_names([self._state_of(appearance) for appearance in appearances])
        if self._auto_enrol:
            with self.timer.measure("enrol"):
                for appearance in appearances:
                    self._enrol_if_stranger(self._state_of(appearance), is_embedded=appearance.is_embedded)
        return self._result(appearances)

    def enrol(self, track_id: int, name: str | None = None) -> str:
        """Enrols the person of a track under `name`, or under an automatic name; returns the name.

        Raises:
            InputError: the track does not exist or has no embedding yet, or the name cannot be used.
            RunError: the gallery cannot be written.
        """
        state = self._states.get(track_id)
        if state is None or state.tracklet.crop is None or not state.tracklet.embedding.count:
            raise InputError(f"track {track_id} is gone, or has no embedding yet")
        crop, embedding = state.tracklet.crop, state.tracklet.embedding.vector
        if name:
            state.candidate = self.enroller.enrol(name, crop, embedding)
        else:
            state.candidate = self.enroller.enrol_stranger(crop, embedding)
        state.decision, state.views = MATCH, [embedding]
        state.is_enrolment_new, state.reported_name = True, None
        for other in self._states.values():  # an unknown track may show the person who was just enrolled
            if other.tracklet.embedding.count:
                self._search(other)
        return state.candidate.name

    def _state_of(self, appearance: Appearance) -> TrackState:
        return self._states[appearance.tracklet.track_id]

    def _update_states(self) -> None:
        """One state for each tracklet; a new tracklet under an old track id gets a new state."""
        self._states = {
            track_id: state
            if (state := self._states.get(track_id)) and state.tracklet is tracklet
            else TrackState(tracklet)
            for track_id, tracklet in self._builder.tracklets.items()
        }

    def _search(self, state: TrackState) -> None:
        state.candidates = self.identifier.candidates(state.tracklet.embedding.vector)

    def _assign_names(self, states: list[TrackState]) -> None:
        """Gives each track its most similar candidate; no person has two tracks on one frame."""
        pairs = [
            (candidate.score + IDENTITY_SWITCH_MARGIN * state.has_name_of(candidate), state, candidate)
            for state in states
            for candidate in state.candidates
        ]
        unassigned = {state.tracklet.track_id: state for state in states}
        taken_names: set[str] = set()
        for _, state, candidate in sorted(pairs, key=lambda pair: -pair[0]):
            if state.tracklet.track_id not in unassigned or candidate.name in taken_names:
                continue
            del unassigned[state.tracklet.track_id]
            state.decision, state.candidate = self._decide(state, candidate), candidate
            if state.decision == MATCH:
                taken_names.add(candidate.name)
        for state in unassigned.values():
            state.decision, state.candidate = NO_MATCH, None

    def _decide(self, state: TrackState, candidate: Candidate) -> str:
        decision = self.identifier.decide(candidate.score)
        if state.has_name_of(candidate):
            # A name stays until the track clearly shows another person.
            return MATCH if decision == UNCERTAIN else decision
        return UNCERTAIN if decision == MATCH and not state.is_nameable else decision

    def _enrol_if_stranger(self, state: TrackState, *, is_embedded: bool) -> None:
        if not state.is_enrollable:
            return
        if self._is_stranger(state):
            self._enrol_stranger(state.tracklet.track_id)
        elif is_embedded and state.views and state.decision == MATCH and state.candidate:
            self._enrol_new_view(state, state.candidate.name)

    def _is_stranger(self, state: TrackState) -> bool:
        # The best candidate may have another track here, or be uncertain only because the gallery is large.
        if state.candidates and self.identifier.reaches_threshold(state.candidates[0].score):
            return False
        # A track with an uncertain candidate gets the time to show the person from another side.
        return state.decision == NO_MATCH or (state.decision == UNCERTAIN and state.is_long)

    def _enrol_stranger(self, track_id: int) -> None:
        try:
            self.enrol(track_id)
        except BotError as error:  # a full disk after hours, for instance; recognition continues
            logger.warning(f"automatic enrolment stops: {error}")
            self._auto_enrol = False

    def _enrol_new_view(self, state: TrackState, name: str) -> None:
        """Adds the last crop of a person enrolled from this track, if it shows another side of the person."""
        crop, embedding = state.tracklet.crop, state.tracklet.crop_embedding
        assert crop is not None
        assert embedding is not None
        is_new = max(float(embedding @ view) for view in state.views) < MAX_VIEW_SIMILARITY
        if is_new and len(state.views) < MAX_VIEWS:
            self.enroller.enrol(name, crop, embedding)
            state.views.append(embedding)

    def _result(self, appearances: list[Appearance]) -> FrameResult:
        result = FrameResult([], [])
        for appearance in appearances:
            state = self._state_of(appearance)
            person = TrackedPerson(state.tracklet.track_id, appearance.xyxy, state.decision, state.candidate)
            result.persons.append(person)
            if person.name is not None and person.name != state.reported_name:
                result.events.append(RecognitionEvent("enrolled" if state.is_enrolment_new else "recognised", person))
                state.reported_name, state.is_enrolment_new = person.name, False
        return result
