r"""Switches of identity in tracks, with and without appearance, on synthetic footage with truth.

python benchmarks/tracking.py --detector yolox_nano_416.onnx [--model model.onnx] [--persons 30] [--groups 0.5]

The trackers of the library `trackers` get the same detections. None of them uses appearance, so `bot` adds it after
the tracker: a track whose crops change to another person is cut, as in `bot demo`.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
import numpy as np
from footage_parts.truth import MIN_HEIGHT, iou

from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.synthetic import generate_clip
from bot_deploy.telemetry import without_telemetry
from bot_deploy.video.detectors import Detections, Detector, open_detector
from bot_deploy.video.opencv import configure_opencv
from bot_deploy.video.sources import open_source
from bot_deploy.video.tracklets import TrackletBuilder
from bot_deploy.video.tracks import LOST_TRACK_S, TRACK_ACTIVATION_THRESHOLD

with without_telemetry():
    import supervision as sv
    from trackers import BoTSORTTracker, OCSORTTracker
    from trackers.eval import compute_clear_metrics, compute_identity_metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MIN_VISIBLE = 0.25  # share of a person that is seen, to be looked for
MIN_MIXED_BOXES = 3  # of a second person, for a track that mixes people
MIN_IOU = 0.5  # of a box with one of the truth, as in the MOT Challenge
BUFFER = round(30 * LOST_TRACK_S)  # frames at 30 frames/s

Box = tuple[float, ...]


class Person(NamedTuple):
    """A person on one frame, by the truth."""

    identity: int
    box: Box
    counts: bool  # seen well enough to be looked for


class Scores(NamedTuple):
    """Of one tracker on one camera."""

    tracks: int
    mixed: int  # tracks that show a second person
    switches: int
    fragments: int
    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def idf1(self) -> float:
        return 2 * self.true_positives / (2 * self.true_positives + self.false_positives + self.false_negatives)


@click.command()
@click.option("--detector", type=click.Path(path_type=Path), required=True, help="Detector, ONNX.")
@click.option("--model", type=click.Path(path_type=Path), help="Exported model; default: the built-in one.")
@click.option("--persons", default=30, help="Number of people in the clip.")
@click.option("--seconds", default=60.0, help="Length of the clip.")
@click.option("--groups", default=0.5, help="Share of people who walk in twos and threes.")
@click.option("--clip", type=click.Path(path_type=Path), help="Folder of the clip; it is made if it is missing.")
def main(detector: Path, model: Path | None, persons: int, seconds: float, groups: float, clip: Path | None) -> None:
    """Prints the table of benchmarks/README.md."""
    configure_opencv()
    embedder, person_detector = open_embedder(model), open_detector(detector)
    with tempfile.TemporaryDirectory() as temporary:
        folder = clip or Path(temporary) / "clip"
        if not folder.exists():
            generate_clip(folder, people=persons, cameras=3, seconds=seconds, fps=10, height=432, groups=groups)
        truth = read_people(folder / "truth.csv")
        parts = [
            score_video(video, truth[number], embedder, person_detector)
            for number, video in enumerate(sorted(folder.glob("cam*.mp4")), 1)
        ]
    print(
        "| tracks by | tracks | with a second person | switches | interruptions | IDF1 |\n| --- " + "| ---: " * 5 + "|"
    )
    for name in parts[0]:
        total = Scores(*map(sum, zip(*(part[name] for part in parts), strict=True)))
        print(
            f"| {name} | {total.tracks} | {total.mixed} | {total.switches} | {total.fragments} "
            f"| {100 * total.idf1:.1f} |"
        )


def read_people(path: Path) -> dict[int, dict[int, list[Person]]]:
    """Camera -> frame -> people, by the truth of `bot synthetic --clip`."""
    import csv

    people: dict[int, dict[int, list[Person]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            box = tuple(float(row[side]) for side in ("left", "top", "right", "bottom"))
            counts = float(row["visible"]) >= MIN_VISIBLE and box[3] - box[1] >= MIN_HEIGHT
            frames = people.setdefault(int(row["camera"]), {})
            frames.setdefault(int(row["frame"]), []).append(Person(int(row["identity"]), box, counts))
    return people


def score_video(
    video: Path, truth: dict[int, list[Person]], embedder: Embedder, detector: Detector
) -> dict[str, Scores]:
    """The scores of each tracker on the detections of one video."""
    frames = []  # number, people by the truth
    tracks: dict[str, list[list[tuple[int, Box]]]] = {"ByteTrack": [], "ByteTrack and appearance": []}
    with open_source(str(video)) as source:
        builder = TrackletBuilder(detector, embedder, source.fps, outlier_threshold(embedder))
        others = peers(source.fps)
        tracklets: dict[int, int] = {}  # id of the object -> number
        kept = []  # so that no id is used again
        for frame in source:
            (found,) = detector.detect_all([frame.pixels])
            due = builder.track(frame, found)
            boxes = builder.finish(due, embedder.embed([crop.pixels for crop in due]))
            for one in boxes:
                tracklets.setdefault(id(one.tracklet), len(tracklets))
                kept.append(one.tracklet)
            tracks["ByteTrack"].append([(one.tracklet.track_id, one.xyxy) for one in boxes])
            tracks["ByteTrack and appearance"].append([(tracklets[id(one.tracklet)], one.xyxy) for one in boxes])
            for name, update in others.items():
                tracks.setdefault(name, []).append(update(found, frame.time))
            frames.append(truth.get(frame.number, []))
    return {name: score(frames, boxes) for name, boxes in tracks.items()}


def outlier_threshold(embedder: Embedder) -> float:
    """The cosine below which two crops show different people, as in `bot demo`."""
    calibration = embedder.contract.calibration
    assert calibration is not None, "the model has no calibration; bot calibrate adds one"
    return calibration.reject_threshold


def peers(fps: float) -> dict[str, Callable[[Detections, float], list[tuple[int, Box]]]]:
    """Other trackers of the library, with the settings that `bot` gives to ByteTrack."""
    botsort = BoTSORTTracker(
        lost_track_buffer=BUFFER,
        frame_rate=fps,
        track_activation_threshold=TRACK_ACTIVATION_THRESHOLD,
        high_conf_det_threshold=TRACK_ACTIVATION_THRESHOLD,
        enable_cmc=False,  # the cameras stand still
    )
    ocsort = OCSORTTracker(
        lost_track_buffer=BUFFER,
        frame_rate=fps,
        minimum_consecutive_frames=2,
        high_conf_det_threshold=TRACK_ACTIVATION_THRESHOLD,
    )

    def run(tracker: BoTSORTTracker | OCSORTTracker) -> Callable[[Detections, float], list[tuple[int, Box]]]:
        def update(found: Detections, time: float) -> list[tuple[int, Box]]:
            result = tracker.update(sv.Detections(xyxy=found.xyxy, confidence=found.confidence), timestamp=time)
            ids = [] if result.tracker_id is None else result.tracker_id.tolist()
            return [(one, tuple(box)) for one, box in zip(ids, result.xyxy.tolist(), strict=True) if one >= 0]

        return update

    return {"BoT-SORT of `trackers`": run(botsort), "OC-SORT of `trackers`": run(ocsort)}


def score(frames: Iterable[list[Person]], tracks: Iterable[list[tuple[int, Box]]]) -> Scores:
    """CLEAR's switches and interruptions, and the counts of IDF1; boxes on people who do not count are left out."""
    true_ids, track_ids, similarity = [], [], []
    for people, boxes in zip(frames, tracks, strict=True):
        wanted = [person for person in people if person.counts]
        ignored = [person.box for person in people if not person.counts]
        used = [
            (track, box)
            for track, box in boxes
            if not any(iou(box, other) >= MIN_IOU for other in ignored)
            or any(iou(box, person.box) >= MIN_IOU for person in wanted)
        ]
        true_ids.append(np.array([person.identity for person in wanted], dtype=int))
        track_ids.append(np.array([track for track, _ in used], dtype=int))
        overlaps = [[iou(person.box, box) for _, box in used] for person in wanted]
        similarity.append(np.array(overlaps).reshape(len(wanted), len(used)))
    shown: dict[int, Counter[int]] = {}
    for people, boxes, overlaps in zip(true_ids, track_ids, similarity, strict=True):
        for column, track in enumerate(boxes.tolist()):
            if len(people) and overlaps[:, column].max() >= MIN_IOU:
                shown.setdefault(track, Counter())[int(people[overlaps[:, column].argmax()])] += 1
    mixed = sum(len(counts) > 1 and counts.most_common(2)[1][1] >= MIN_MIXED_BOXES for counts in shown.values())
    clear = compute_clear_metrics(true_ids, track_ids, similarity, MIN_IOU)
    identity = compute_identity_metrics(true_ids, track_ids, similarity, MIN_IOU)
    return Scores(len(shown), mixed, clear["IDSW"], clear["Frag"], identity["IDTP"], identity["IDFP"], identity["IDFN"])


if __name__ == "__main__":
    main()
