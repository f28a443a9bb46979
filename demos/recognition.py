"""A frame to the people on it: detect, track, embed, name, and enrol those whom nobody knows."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from bot_deploy.choices import EMBED_EVERY_FRAMES
from bot_deploy.errors import BotError, InputError
from bot_deploy.matching.verdict import MATCH, NO_MATCH, UNCERTAIN
from bot_deploy.video.track_embedding import Average
from bot_deploy.video.tracks import Tracks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bot_deploy.embedder import Embedder, Vectors
    from bot_deploy.images import Pixels
    from bot_deploy.matching.identify import Candidate
    from bot_deploy.video.detectors import Detector
    from bot_deploy.video.sources import Frame
    from bot_deploy.video.tracks import Corners, Tracked

    from .enrolment import People

logger = logging.getLogger(__name__)

SETTLED = 5  # embeddings of whole people before a track is enrolled by itself
HALF_SETTLED = 20  # and of people who never show more than a half, as before a desk
LONG = 4.0  # seconds after which somebody who resembles nobody well enough is a stranger
HIDDEN = 0.3  # share of a box behind a nearer one, from which its crop shows two people
EDGE = 2  # pixels: a box that close to the frame's edge is cut by it
WIDEST = 0.7  # of its height; a box that is wider shows somebody who is bent, or cut
LOYAL = 0.05  # cosine by which somebody else must look more like the person before the name changes
VIEWS, NEW_VIEW = 5, 0.7  # pictures kept of an enrolled person, each with a cosine below this to the others
FORGOTTEN = 10.0  # seconds after which a lost track is dropped


class Sighting(NamedTuple):
    """A person on one frame; `who` is the best candidate, named only where `decision` is "match"."""

    track: int
    corners: Corners
    decision: str  # "match", "uncertain" or "no match"
    who: Candidate | None

    @property
    def name(self) -> str | None:
        return self.who.name if self.who and self.decision == MATCH else None


class Event(NamedTuple):
    """A track got a name: `kind` is "recognised" or "enrolled"."""

    kind: str
    sighting: Sighting


@dataclass
class Followed:
    """What is known of a track so far."""

    average: Average
    candidates: list[Candidate] = field(default_factory=list)
    decision: str = NO_MATCH
    who: Candidate | None = None
    told: str | None = None  # the name that was last reported
    enrolled: bool = False  # under a name that was not reported yet
    due: int = 0  # the frame from which it is embedded again
    began: float = 0.0  # when
    seen: float = 0.0  # when
    crop: Pixels | None = None  # the last that its average took in,
    vector: Vectors | None = None  # and its embedding
    views: list[Vectors] = field(default_factory=list)  # enrolled from this track

    @property
    def shown(self) -> bool:
        """Enough to be named: a whole person, or a part for long. Heads that enter the picture look all alike."""
        return self.average.clear or self.average.count >= HALF_SETTLED


class Live:
    """The people before a camera, frame by frame."""

    def __init__(
        self,
        detector: Detector,
        embedder: Embedder,
        people: People,
        fps: float,
        *,
        timed: bool = False,
        every: int = EMBED_EVERY_FRAMES,
        auto_enrol: bool = False,
    ) -> None:
        """`timed` where frames may have been dropped, so that their number is no clock."""
        self._detector, self._embedder, self._people = detector, embedder, people
        self._tracks = Tracks(fps)
        self._timed, self._every, self._auto_enrol = timed, every, auto_enrol
        self._followed: dict[int, Followed] = {}
        self._looked = 0  # frames
        self.events: list[Event] = []  # of the last frame, and since
        self.seconds: dict[str, float] = defaultdict(float)  # spent in each stage

    def look(self, frame: Frame) -> list[Sighting]:
        """Who is on `frame`; what is new about them is in `events`."""
        self.events = []
        self._looked += 1
        with self._stage("detect"):
            boxes = self._detector.detect(frame.pixels)
        with self._stage("track"):
            tracked = self._tracks.update(boxes, frame.time if self._timed else None)
        for one in tracked:
            new = Followed(Average(self._people.outlier_threshold), began=frame.time)
            followed = self._followed.setdefault(one.number, new)
            followed.seen = frame.time
        with self._stage("embed"):
            renewed = self._embed(frame, tracked)
        with self._stage("search"):
            for number in renewed:
                followed = self._followed[number]
                followed.candidates = self._people.candidates(followed.average.vector)
            self._name([one.number for one in tracked])
        if self._auto_enrol:
            with self._stage("enrol"):
                self._enrol_strangers(tracked, renewed)
        self._forget(frame.time)
        return self._report(tracked)

    def enrol(self, number: int, name: str | None = None) -> str:
        """Enrols the person of the track `number` under `name`, or an automatic one; returns the name.

        Raises:
            InputError: no such track (any more), or no usable name.
            RunError: the gallery cannot be written.
        """
        followed = self._followed.get(number)
        if followed is None or followed.crop is None or not followed.average.count:
            raise InputError(f"track {number} is gone, or was not looked at yet")
        name = name or self._people.next_name()
        followed.who = self._people.enrol(name, followed.crop, followed.average.vector)
        followed.decision, followed.views, followed.enrolled = MATCH, [followed.average.vector], True
        followed.told = None
        for other in self._followed.values():  # who was unknown may be the one who was just enrolled
            if other.average.count:
                other.candidates = self._people.candidates(other.average.vector)
        return name

    def _embed(self, frame: Frame, tracked: list[Tracked]) -> list[int]:
        """Embeds the tracks whose turn it is, in one batch; returns those whose average has changed."""
        due: list[tuple[int, Pixels, bool]] = []
        for one in tracked:
            followed = self._followed[one.number]
            clear = is_clear(one.corners, [other.corners for other in tracked if other is not one], frame.pixels)
            if self._looked >= followed.due and (clear or not followed.average.clear):
                due.append((one.number, cut(frame.pixels, one.corners), clear))
        vectors = self._embedder.embed([crop for _, crop, _ in due])
        for (number, crop, clear), vector in zip(due, vectors, strict=True):
            followed = self._followed[number]
            average, before = followed.average, followed.average.count
            if average.add(vector, clear=clear):  # the tracker has jumped to somebody else
                self._followed[number] = followed = Followed(average, began=frame.time, seen=frame.time)
            if average.count != before or followed.crop is None:
                followed.crop, followed.vector = crop, vector
            # The first few come quickly: a name is wanted at once.
            followed.due = self._looked + (self._every if average.count >= SETTLED else 1)
        return [number for number, _, _ in due]

    def _name(self, numbers: list[int]) -> None:
        """Gives each track of this frame the name it resembles most; nobody is in two places at once."""
        wishes = [
            (candidate.score + LOYAL * self._holds(number, candidate), number, candidate)
            for number in numbers
            for candidate in self._followed[number].candidates
        ]
        waiting, taken = dict.fromkeys(numbers), set()
        for _, number, candidate in sorted(wishes, key=lambda wish: -wish[0]):
            if number not in waiting or candidate.name in taken:
                continue
            del waiting[number]
            followed = self._followed[number]
            decision = self._people.decide(candidate.score)
            if decision == UNCERTAIN and self._holds(number, candidate):
                decision = MATCH  # a name that was given stays until the person is clearly somebody else
            elif decision == MATCH and not followed.shown and not self._holds(number, candidate):
                decision = UNCERTAIN
            followed.who, followed.decision = candidate, decision
            if decision == MATCH:
                taken.add(candidate.name)
        for number in waiting:
            self._followed[number].who, self._followed[number].decision = None, NO_MATCH

    def _holds(self, number: int, candidate: Candidate) -> bool:
        followed = self._followed[number]
        return followed.decision == MATCH and followed.who is not None and followed.who.name == candidate.name

    def _enrol_strangers(self, tracked: list[Tracked], renewed: list[int]) -> None:
        for number in [one.number for one in tracked]:
            followed = self._followed[number]
            # Somebody who may be known gets the time to turn round.
            long = followed.seen - followed.began >= LONG
            settled = followed.shown and (followed.average.count >= SETTLED or long)
            # A match that is somebody else's here, or that a large gallery makes doubtful, is nobody new.
            alike = bool(followed.candidates) and self._people.reaches_threshold(followed.candidates[0].score)
            if settled and not alike and (followed.decision == NO_MATCH or (followed.decision == UNCERTAIN and long)):
                self._enrol_stranger(number)
            elif settled and number in renewed and followed.views and followed.decision == MATCH and followed.who:
                self._add_view(followed, followed.who.name)

    def _enrol_stranger(self, number: int) -> None:
        try:
            self.enrol(number)
        except BotError as error:  # after hours, perhaps: those who are known are still recognised
            logger.warning(f"nobody is enrolled from here on: {error}")
            self._auto_enrol = False

    def _add_view(self, followed: Followed, name: str) -> None:
        """A person who was enrolled a moment ago has turned round: that view is kept too."""
        crop, vector = followed.crop, followed.vector
        assert crop is not None
        assert vector is not None
        if len(followed.views) < VIEWS and max(float(vector @ view) for view in followed.views) < NEW_VIEW:
            self._people.enrol(name, crop, vector)
            followed.views.append(vector)

    def _report(self, tracked: list[Tracked]) -> list[Sighting]:
        sightings = []
        for one in tracked:
            followed = self._followed[one.number]
            sighting = Sighting(one.number, one.corners, followed.decision, followed.who)
            sightings.append(sighting)
            if sighting.name is not None and sighting.name != followed.told:
                self.events.append(Event("enrolled" if followed.enrolled else "recognised", sighting))
                followed.told, followed.enrolled = sighting.name, False
        return sightings

    def _forget(self, now: float) -> None:
        for number in [number for number, one in self._followed.items() if now - one.seen > FORGOTTEN]:
            del self._followed[number]

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started


def cut(pixels: Pixels, corners: Corners) -> Pixels:
    """What of `pixels` uint8 [H, W, 3] lies inside the box: uint8 [h, w, 3], at least one pixel."""
    height, width = pixels.shape[:2]
    left, top = min(max(0, round(corners[0])), width - 1), min(max(0, round(corners[1])), height - 1)
    right, bottom = max(left + 1, round(corners[2])), max(top + 1, round(corners[3]))
    return pixels[top:bottom, left:right].copy()  # a view would keep the whole frame


def is_clear(corners: Corners, others: list[Corners], pixels: Pixels) -> bool:
    """Whether the box shows a whole person: not cut by the frame's edge, not behind somebody nearer."""
    left, top, right, bottom = corners
    height, width = pixels.shape[:2]
    if left < EDGE or top < EDGE or right > width - EDGE or bottom > height - EDGE:
        return False
    if right - left > WIDEST * (bottom - top):
        return False
    area = (right - left) * (bottom - top)
    for other in others:
        across = min(right, other[2]) - max(left, other[0])
        down = min(bottom, other[3]) - max(top, other[1])
        nearer = other[3] > bottom  # whose feet are lower in the picture
        if nearer and across > 0 and down > 0 and across * down > HIDDEN * area:
            return False
    return True
