"""Tracklets: frames of coloured rectangles to tracks with embeddings."""

from __future__ import annotations

import numpy as np
from helpers.fake_camera import BLUE, DETECTOR, RED, Box, crop_of, embed, embedder, frames_of, scene, vector_of

from bot_deploy.embedder import Embedder
from bot_deploy.video.detectors import Detections, Detector
from bot_deploy.video.track_embedding import OUTLIERS_TO_RESTART
from bot_deploy.video.tracklets import EMBEDDINGS_AT_START, LOST_TRACKLET_S, TrackletBuilder

OUTLIER_THRESHOLD = 0.45


def walker(x: float) -> Box:
    return x, 60, x + 50, 210


def builder(detector: Detector = DETECTOR, model: Embedder | None = None, embed_every: int = 1) -> TrackletBuilder:
    return TrackletBuilder(detector, model or embedder(), 10, OUTLIER_THRESHOLD, embed_every=embed_every)


def test_each_person_has_a_tracklet_with_embedding_and_crop() -> None:
    tracklets = builder()
    pictures = [scene((RED, walker(10 + step)), (BLUE, walker(200))) for step in range(4)]
    seen = [tracklets.process_frame(frame) for frame in frames_of(pictures)]
    assert seen[0] == []  # ByteTrack needs two detections
    assert {box.xyxy[0] for box in seen[-1]} == {13, 200}
    for box in seen[-1]:
        tracklet, colour = box.tracklet, RED if box.xyxy[0] == 13 else BLUE
        assert box.is_embedded
        assert (tracklet.first_seen, tracklet.last_seen) == (0.1, 0.3)
        np.testing.assert_allclose(tracklet.embedding.vector, vector_of(colour), atol=1e-6)
        np.testing.assert_array_equal(tracklet.crop, crop_of(colour)[:150, :50])


def test_a_track_is_embedded_on_its_first_frames_and_then_every_few() -> None:
    batches: list[int] = []

    def embed_and_count(pictures: np.ndarray) -> np.ndarray:
        batches.append(len(pictures))
        return embed(pictures)

    tracklets = builder(model=Embedder(embedder().contract, "a fake", embed_and_count), embed_every=5)
    for frame in frames_of([scene((RED, walker(10)), (BLUE, walker(100)))] * 41):
        tracklets.process_frame(frame)
    # Both people are in one batch, from the second frame on: five in a row, then every fifth frame.
    assert batches == [2] * (EMBEDDINGS_AT_START + (40 - EMBEDDINGS_AT_START) // 5)


def test_a_track_that_jumps_to_another_person_gets_a_new_tracklet() -> None:
    box = Detections(np.array([walker(100)], np.float32), np.array([0.9], np.float32))
    tracklets = builder(Detector("a fake", lambda _: box))
    red, blue = scene((RED, walker(100))), scene((BLUE, walker(100)))
    results = [tracklets.process_frame(frame) for frame in frames_of([red] * 9 + [blue] * OUTLIERS_TO_RESTART)]
    before, (last,) = [box.tracklet for (box,) in results[1:-1]], results[-1]
    assert all(tracklet is before[0] for tracklet in before)
    assert last.tracklet is not before[0]
    assert last.tracklet.track_id == before[0].track_id
    np.testing.assert_allclose(last.tracklet.embedding.vector, vector_of(BLUE), atol=1e-6)


def test_lost_tracks_are_dropped_after_some_seconds() -> None:
    tracklets = builder()
    pictures = [scene((RED, walker(10)))] * 3 + [scene()] * round(10 * LOST_TRACKLET_S)
    for frame in frames_of(pictures):
        tracklets.process_frame(frame)
    assert list(tracklets.tracklets) == [1]
    for frame in frames_of([scene()], first=len(pictures)):
        tracklets.process_frame(frame)
    assert tracklets.tracklets == {}
