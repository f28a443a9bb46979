r"""The live demo on a real video and on real street scenes: who is enrolled, who is recognised, and the speed.

python benchmarks/live.py --model model.onnx --detector yolox_nano_416.onnx \\
        --video one-by-one-person-detection.mp4 --scene market_scene/
"""

from __future__ import annotations

import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot_deploy.commands.options import NumberRange
from bot_deploy.demos import app
from bot_deploy.demos.cameras import Camera
from bot_deploy.demos.enrolment import open_enrolment_gallery
from bot_deploy.demos.recognition import FrameResult, LiveRecognizer, TrackedPerson
from bot_deploy.demos.recorder import Recorder
from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.video.detectors import Detector, open_detector
from bot_deploy.video.opencv import configure_opencv
from bot_deploy.video.sources import Frame, open_source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bot_deploy.video.tracks import Xyxy

# The first and the last frame of each person in the video, counted by eye; nobody appears twice.
PEOPLE = ((57, 199), (232, 449), (504, 699), (747, 862), (927, 1201), (1236, 1354))
QUERY_IDENTITY = "0001"  # of the scene's queries
# The queried woman walks through all sixteen frames. Her boxes, by eye: left, top, right, bottom.
QUERY_BOXES = {
    "c1s1_001051": (1222, 414, 1358, 748),
    "c1s1_002301": (847, 444, 947, 707),
    "c1s1_002326": (772, 448, 884, 721),
    "c1s1_002351": (697, 449, 817, 732),
    "c1s1_002376": (599, 446, 712, 794),
    "c1s1_002401": (483, 454, 622, 834),
    "c1s1_009376": (1751, 349, 1913, 796),
    "c1s1_009451": (1415, 425, 1520, 735),
    "c1s1_009476": (1372, 435, 1482, 716),
    "c1s1_009526": (1514, 423, 1625, 667),
    "c1s1_014601": (1770, 405, 1836, 572),
    "c1s1_014776": (1424, 440, 1499, 666),
    "c1s1_014901": (1089, 433, 1224, 832),
    "c3s1_000501": (983, 435, 1061, 605),
    "c3s1_000551": (1152, 425, 1224, 619),
    "c3s1_001626": (1629, 419, 1711, 612),
}
MIN_IOU = 0.4  # of a box with hers, for the same person
STAGES = ("read", "detect", "track", "embed", "search", "enrol", "draw", "record")


class RecordingRecognizer(LiveRecognizer):
    """A recognizer that keeps the result of every frame."""

    def __init__(self, *arguments, **options) -> None:  # noqa: ANN002, ANN003
        super().__init__(*arguments, **options)
        self.history: list[tuple[Frame, list[TrackedPerson]]] = []

    def process_frames(self, frames: Mapping[int, Frame]) -> dict[int, FrameResult]:
        results = super().process_frames(frames)
        self.history += [(frames[number], result.persons) for number, result in results.items()]
        return results


@click.command()
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Exported model.")
@click.option("--detector", type=click.Path(path_type=Path), required=True, help="YOLOX-style detector, ONNX.")
@click.option("--video", type=click.Path(path_type=Path), required=True, help="Video in which the people walk past.")
@click.option("--scene", type=click.Path(path_type=Path), required=True, help="Folder of frames; `query` holds crops.")
@click.option(
    "--threshold",
    type=NumberRange(-1, 1),
    help="Cosine from which a person is recognised; default: the calibrated one.",
)
def main(model: Path, detector: Path, video: Path, scene: Path, threshold: float | None) -> None:
    """Prints the tables of benchmarks/README.md."""
    configure_opencv()
    embedder, person_detector = open_embedder(model), open_detector(detector)
    enrol_in_video(video, person_detector, embedder, threshold)
    search_scene(scene, person_detector, embedder, threshold)


def enrol_in_video(video: Path, detector: Detector, embedder: Embedder, threshold: float | None) -> None:
    """Runs the whole demo with recording, automatic enrolment and an empty gallery."""
    with tempfile.TemporaryDirectory() as folder, open_source(str(video)) as source:
        gallery = open_enrolment_gallery(f"{folder}/people.gallery", embedder)
        recognizer = RecordingRecognizer(detector, embedder, gallery, source.fps, threshold=threshold, auto_enrol=True)
        with Recorder(Path(folder) / "out.mp4", Path(folder) / "events.jsonl", source.fps) as recorder:
            summary = app.run([Camera(source, "camera")], recognizer, recorder)
        rule = recognizer.identifier.describe_rule()
        print(f"{video.name}, {detector.name}; {rule}; {len(gallery)} crops in the gallery")
        gallery.close()
    print(f"| frames/s | {' | '.join(STAGES)} |")
    print("| ---: |" + " ---: |" * len(STAGES))
    shares = [f"{100 * summary.stages.get(stage, 0) / summary.seconds:.0f} %" for stage in STAGES]
    print(f"| {summary.fps:.1f} | {' | '.join(shares)} |\n")
    print("| person | frames | tracked on | named on | tracks | names |")
    print("| ---: | ---: | ---: | ---: | ---: | --- |")
    track_switches = name_changes = 0
    people_with_name: Counter[str] = Counter()
    for number, (first, last) in enumerate(PEOPLE, start=1):
        results = [persons for frame, persons in recognizer.history if first <= frame.number <= last]
        # One person is on the frame. The largest box shows this person; other boxes are false detections.
        main_persons = [
            max(persons, key=lambda person: person.xyxy[3] - person.xyxy[1]) for persons in results if persons
        ]
        tracks = [person.track_id for person in main_persons]
        names = [person.name for person in main_persons if person.name is not None]
        track_switches += sum(before != after for before, after in pairwise(tracks))
        name_changes += sum(before != after for before, after in pairwise(names))
        people_with_name.update(set(names))
        distinct_names = ", ".join(dict.fromkeys(names)) or "none"
        cells = last - first + 1, len(main_persons), len(names), len(set(tracks)), distinct_names
        print(f"| {number} | {' | '.join(map(str, cells))} |")
    shared_names = sum(count > 1 for count in people_with_name.values())
    print(
        f"\n{len(PEOPLE)} people, {len(set(summary.enrolled))} enrolled, id switches {track_switches}, "
        f"name changes {name_changes}, names of more than one person {shared_names}\n"
    )


def search_scene(folder: Path, detector: Detector, embedder: Embedder, threshold: float | None) -> None:
    """Recognises one person, with two crops in the gallery, on sixteen frames."""
    with tempfile.TemporaryDirectory() as temporary, open_source(str(folder)) as source:
        crops = Path(temporary) / QUERY_IDENTITY
        crops.mkdir()
        for crop in sorted((folder / "query").glob("*.jpg")):
            (crops / crop.name).write_bytes(crop.read_bytes())
        gallery = open_enrolment_gallery(temporary, embedder)
        recognizer = RecordingRecognizer(detector, embedder, gallery, source.fps, threshold=threshold)
        with Recorder(None, None, source.fps) as recorder:
            app.run([Camera(source, "camera")], recognizer, recorder)
        print(f"{QUERY_IDENTITY} on the frames of {folder.name}; {recognizer.identifier.describe_rule()}")
        gallery.close()
    print("| frame | people detected | best score | the best box is hers (IoU) | named | others named |")
    print("| --- | ---: | ---: | --- | --- | ---: |")
    named_frames = false_alarms = 0
    for frame, persons in recognizer.history:
        stem = Path(frame.file_name).stem
        overlaps = {person.track_id: iou(person.xyxy, QUERY_BOXES[stem]) for person in persons}
        scored = [(person.candidate.score, person) for person in persons if person.candidate]
        score, best = max(scored, key=lambda pair: pair[0])
        is_hers = overlaps[best.track_id] >= MIN_IOU
        others_named = sum(person.name is not None and overlaps[person.track_id] < MIN_IOU for person in persons)
        named_frames += is_hers and best.name is not None
        false_alarms += others_named
        hers = f"{'yes' if is_hers else 'no'} ({overlaps[best.track_id]:.2f})"
        print(f"| {stem} | {len(persons)} | {score:.3f} | {hers} | {'yes' if best.name else 'no'} | {others_named} |")
    frames = len(recognizer.history)
    print(f"\nnamed on {named_frames} of {len(QUERY_BOXES)} frames; {false_alarms} false alarms on {frames} frames")


def iou(first: Xyxy, second: Xyxy) -> float:
    """Intersection over union of two boxes."""
    width, height = (min(first[side + 2], second[side + 2]) - max(first[side], second[side]) for side in (0, 1))
    intersection = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return intersection / (areas - intersection)


if __name__ == "__main__":
    main()
