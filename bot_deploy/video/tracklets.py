"""Frames to tracklets: detect the people, track them, and embed each track every few frames."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from bot_deploy.choices import EMBED_EVERY_FRAMES
from bot_deploy.errors import require_range

from .crops import crop_box, shows_whole_person
from .likeness import divide_track
from .timing import StageTimer
from .track_embedding import TrackEmbedding
from .tracks import PersonTracker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bot_deploy.embedder import Embedder, Vectors
    from bot_deploy.images import Pixels

    from .detectors import Detections, Detector
    from .sources import Frame
    from .tracks import TrackedBox, Xyxy

EMBEDDINGS_AT_START = 5  # of a track, one on each frame; after them, one every few frames
KEPT_BOXES = 60  # of a track, which show whether it is a person
LOST_TRACKLET_S = 10.0  # longer than ByteTrack continues a track, so that its person can still be enrolled


class FrameStamp(NamedTuple):
    """Which frame, and when."""

    number: int
    time: float  # seconds of the source
    clock: float | None  # seconds since 1970; None if unknown


@dataclass
class Tracklet:
    """A track with its appearance: the mean embedding of one person over the frames, and the last good crop."""

    track_id: int
    embedding: TrackEmbedding
    first_seen: float  # time of the frame, in seconds
    last_seen: float
    crop: Pixels | None = None  # the last one in the mean embedding, uint8 RGB [h, w, 3]
    crop_embedding: Vectors | None = None  # [D], of this crop alone
    crop_frame: FrameStamp | None = None  # of its frame
    next_embedding_frame: int = 0  # number of processed frames from which the track is embedded again
    boxes: deque[TrackedBox] = field(default_factory=lambda: deque(maxlen=KEPT_BOXES))  # the last ones

    @property
    def why_no_person(self) -> str:
        """Why its last boxes are no person, as in recorded video; "" for a person."""
        return divide_track(list(self.boxes))[-1].reason


class TrackletBox(NamedTuple):
    """A box on one frame and the tracklet that it belongs to."""

    tracklet: Tracklet
    xyxy: Xyxy
    is_embedded: bool  # whether the crop of this frame was embedded


class DueCrop(NamedTuple):
    """A crop to embed."""

    track_id: int
    pixels: Pixels  # uint8 RGB [h, w, 3]
    whole_person: bool


class TrackletBuilder:
    """Processes the frames of one source in order and keeps a tracklet for each track."""

    def __init__(
        self,
        detector: Detector,
        embedder: Embedder,
        fps: float,
        outlier_threshold: float,
        *,
        embed_every: int = EMBED_EVERY_FRAMES,
        timer: StageTimer | None = None,
    ) -> None:
        """Starts without tracklets.

        Args:
            detector: finds the people.
            embedder: embeds their crops.
            fps: frames per second of the source, without pauses.
            outlier_threshold: cosine below which two crops do not show the same person.
            embed_every: frames between two embeddings of a track.
            timer: adds up the stages "detect", "track" and "embed".

        Raises:
            InputError: `fps`, `outlier_threshold` or `embed_every` is not a number in its range.
        """
        require_range("embed_every", embed_every, 1, 1e9)
        require_range("outlier_threshold", outlier_threshold, -2, 1)
        self.detector, self.embedder, self.timer = detector, embedder, timer or StageTimer()
        self._outlier_threshold = outlier_threshold
        self._tracker = PersonTracker(fps)
        self._embed_every = embed_every
        self._frames = 0  # processed
        self._stamp = FrameStamp(0, 0.0, None)  # of the last frame
        self._boxes: list[TrackedBox] = []  # on it
        self.tracklets: dict[int, Tracklet] = {}  # by track id; lost ones stay for `LOST_TRACKLET_S`

    def process_frame(self, frame: Frame) -> list[TrackletBox]:
        """The people on `frame`.

        A track that jumps to another person gets a new tracklet with the same track id.
        """
        return process_together([self], [frame])[0]

    def track(self, frame: Frame, detections: Detections) -> list[DueCrop]:
        """Follows the `detections` on `frame`; returns the crops to embed, for `finish`."""
        self._frames += 1
        self._stamp = FrameStamp(frame.number, frame.time, frame.clock)
        self._boxes = boxes = self._tracker.update(detections, frame.time)
        frame_size = frame.pixels.shape[0], frame.pixels.shape[1]
        due = []
        for box in boxes:
            if box.track_id not in self.tracklets:
                self._start_tracklet(box.track_id, TrackEmbedding(self._outlier_threshold), frame.time)
            tracklet = self.tracklets[box.track_id]
            tracklet.last_seen = frame.time
            tracklet.boxes.append(box)
            others = [other.xyxy for other in boxes if other is not box]
            whole_person = shows_whole_person(box.xyxy, others, frame_size)
            if self._frames >= tracklet.next_embedding_frame and (
                whole_person or not tracklet.embedding.from_whole_person
            ):
                due.append(DueCrop(box.track_id, crop_box(frame.pixels, box.xyxy), whole_person))
        return due

    def finish(self, due: Sequence[DueCrop], embeddings: Vectors) -> list[TrackletBox]:
        """The people on the frame that `track` took, with the `embeddings` [N, D] of its crops `due`."""
        for (track_id, crop, whole_person), embedding in zip(due, embeddings, strict=True):
            tracklet = self.tracklets[track_id]
            mean, count_before = tracklet.embedding, tracklet.embedding.count
            if mean.add(embedding, whole_person=whole_person):  # the track now follows another person
                tracklet = self._start_tracklet(track_id, mean, self._stamp.time)
            if mean.count != count_before or tracklet.crop is None:
                tracklet.crop, tracklet.crop_embedding, tracklet.crop_frame = crop, embedding, self._stamp
            wait_frames = self._embed_every if mean.count >= EMBEDDINGS_AT_START else 1
            tracklet.next_embedding_frame = self._frames + wait_frames
        self._drop_lost_tracks(self._stamp.time)
        embedded_ids = {track_id for track_id, _, _ in due}
        return [
            TrackletBox(self.tracklets[box.track_id], box.xyxy, box.track_id in embedded_ids) for box in self._boxes
        ]

    def _start_tracklet(self, track_id: int, embedding: TrackEmbedding, time: float) -> Tracklet:
        tracklet = self.tracklets[track_id] = Tracklet(track_id, embedding, first_seen=time, last_seen=time)
        return tracklet

    def _drop_lost_tracks(self, now: float) -> None:
        lost = [key for key, tracklet in self.tracklets.items() if now - tracklet.last_seen > LOST_TRACKLET_S]
        for track_id in lost:
            del self.tracklets[track_id]


def process_together(builders: Sequence[TrackletBuilder], frames: Sequence[Frame]) -> list[list[TrackletBox]]:
    """The people on one frame of each of several sources: `TrackletBuilder.process_frame`, in batches.

    The builders share detector, embedder and timer.
    """
    if not builders:
        return []
    first = builders[0]
    with first.timer.measure("detect"):
        detections = first.detector.detect_all([frame.pixels for frame in frames])
    with first.timer.measure("track"):
        due = [builder.track(frame, found) for builder, frame, found in zip(builders, frames, detections, strict=True)]
    with first.timer.measure("embed"):
        vectors = first.embedder.embed([crop.pixels for crops in due for crop in crops])
    boxes, place = [], 0
    for builder, crops in zip(builders, due, strict=True):
        boxes.append(builder.finish(crops, vectors[place : place + len(crops)]))
        place += len(crops)
    return boxes
