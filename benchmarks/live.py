r"""The live demo on a real video and on real street scenes: who is enrolled, who is found, and how fast.

python benchmarks/live.py --model model.onnx --detector yolox_nano_416.onnx \\
        --video one-by-one-person-detection.mp4 --scene market_scene/ --data Market-1501.zip
"""

from __future__ import annotations

import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cv2

from bot_deploy import images
from bot_deploy.datasets import open_dataset
from bot_deploy.demos import webcam
from bot_deploy.demos.detectors import Detector, open_detector
from bot_deploy.demos.live import Live, Sighting
from bot_deploy.demos.people import open_people
from bot_deploy.demos.recorder import Recorder
from bot_deploy.demos.sources import Frame, open_source
from bot_deploy.embedder import Embedder, open_embedder

if TYPE_CHECKING:
    from bot_deploy.demos.tracks import Corners

# The first and the last frame of each person in the video, counted by eye; nobody comes twice.
PEOPLE = ((57, 199), (232, 449), (504, 699), (747, 862), (927, 1201), (1236, 1354))
SOUGHT = "0001"  # the identity of the scene's queries
HERS = 0.4  # IoU from which a box is that of the person
STAGES = ("read", "detect", "track", "embed", "search", "enrol", "draw", "record")


class Watched(Live):
    """Remembers who was seen on which frame."""

    def __init__(self, *arguments, **options) -> None:  # noqa: ANN002, ANN003
        super().__init__(*arguments, **options)
        self.seen: list[tuple[Frame, list[Sighting]]] = []

    def look(self, frame: Frame) -> list[Sighting]:
        sightings = super().look(frame)
        self.seen.append((frame, sightings))
        return sightings


@click.command()
@click.option("--model", type=click.Path(path_type=Path), required=True)
@click.option("--detector", type=click.Path(path_type=Path), required=True)
@click.option("--video", type=click.Path(path_type=Path), required=True)
@click.option("--scene", type=click.Path(path_type=Path), required=True)
@click.option("--data", required=True)
@click.option("--min-score", type=float)
def main(model: Path, detector: Path, video: Path, scene: Path, data: str, min_score: float | None) -> None:
    """Prints the tables of benchmarks/README.md."""
    embedder, finder = open_embedder(model), open_detector(detector)
    walk(video, finder, embedder, min_score)
    search(scene, data, finder, embedder, min_score)


def walk(video: Path, detector: Detector, embedder: Embedder, least: float | None) -> None:
    """The whole loop, recording and all, with --auto-enrol and an empty gallery."""
    with tempfile.TemporaryDirectory() as folder, open_source(str(video)) as source:
        people = open_people(f"{folder}/people.gallery", embedder, least)
        live = Watched(detector, embedder, people, source.fps, auto_enrol=True)
        with Recorder(Path(folder) / "out.mp4", Path(folder) / "events.jsonl", source.fps) as recorder:
            summary = webcam.run(source, live, recorder)
        print(f"{video.name}, {detector.name}; {people.rule}; gallery of {len(people.gallery)} pictures at the end")
        people.gallery.close()
    print(f"| frames/s | {' | '.join(STAGES)} |")
    print("| ---: |" + " ---: |" * len(STAGES))
    shares = [f"{100 * summary.stages.get(stage, 0) / summary.seconds:.0f} %" for stage in STAGES]
    print(f"| {summary.fps:.1f} | {' | '.join(shares)} |\n")
    print("| person | frames | tracked on | named on | tracks | names |")
    print("| ---: | ---: | ---: | ---: | ---: | --- |")
    switches = changes = 0
    owners: Counter[str] = Counter()
    for number, (first, last) in enumerate(PEOPLE, start=1):
        inside = [sightings for frame, sightings in live.seen if first <= frame.number <= last]
        # There is one person; the largest box is theirs, others are what the detector imagines.
        mains = [max(found, key=lambda one: one.corners[3] - one.corners[1]) for found in inside if found]
        tracks, names = [one.track for one in mains], [one.name for one in mains if one.name is not None]
        switches += sum(one != other for one, other in pairwise(tracks))
        changes += sum(one != other for one, other in pairwise(names))
        owners.update(set(names))
        cells = last - first + 1, len(mains), len(names), len(set(tracks)), ", ".join(dict.fromkeys(names)) or "none"
        print(f"| {number} | {' | '.join(map(str, cells))} |")
    shared = sum(count > 1 for count in owners.values())
    print(
        f"\n{len(PEOPLE)} people, {len(set(summary.enrolled))} enrolled, id switches {switches}, changes of name "
        f"{changes}, names that more than one person got {shared}\n"
    )


def search(folder: Path, data: str, detector: Detector, embedder: Embedder, least: float | None) -> None:
    """Two crops of one person as the gallery, sixteen frames to find the person on."""
    crops = {crop.path.name: crop.path for part in ("query", "gallery") for crop in getattr(open_dataset(data), part)}
    with tempfile.TemporaryDirectory() as place, open_source(str(folder)) as source:
        gallery = Path(place) / SOUGHT
        gallery.mkdir()
        for crop in sorted((folder / "query").glob("*.jpg")):
            (gallery / crop.name).write_bytes(crop.read_bytes())
        people = open_people(place, embedder, least)
        live = Watched(detector, embedder, people, source.fps)
        with Recorder(None, None, source.fps) as recorder:
            webcam.run(source, live, recorder)
        print(f"{SOUGHT} on the frames of {folder.name}; {people.rule}")
        people.gallery.close()
    print(
        "| frame | the person is there | people found | best score | best box is the person's (IoU) | named wrongly |"
    )
    print("| --- | --- | ---: | ---: | --- | ---: |")
    there = found = alarms = 0
    for frame, sightings in live.seen:
        stem = Path(frame.name).stem
        boxes = [where(images.load(path), frame.pixels) for name, path in crops.items() if f"{SOUGHT}_{stem}" in name]
        hits = {one.track: max((overlap(one.corners, box) for box in boxes), default=0.0) for one in sightings}
        best = max((one for one in sightings if one.who), key=lambda one: one.who.score, default=None)  # type: ignore[union-attr]
        wrong = sum(one.name is not None and hits[one.track] < HERS for one in sightings)
        there, alarms = there + bool(boxes), alarms + wrong
        score, right = f"{best.who.score:.3f}" if best and best.who else "", ""
        if best and boxes:
            right = f"{'yes' if hits[best.track] >= HERS else 'no'} ({hits[best.track]:.2f})"
            found += best.name is not None and hits[best.track] >= HERS
        print(f"| {stem} | {'yes' if boxes else 'no'} | {len(sightings)} | {score} | {right} | {wrong} |")
    print(f"\nfound and named on {found} of {there} frames; {alarms} false alarms on {len(live.seen)} frames")


def where(crop: images.Pixels, frame: images.Pixels) -> Corners:
    """The place of `frame` that `crop` was cut from and shrunk to 128 rows."""
    best = -1.0, (0.0, 0.0, 0.0, 0.0)
    for height in range(120, 520, 8):
        scale = 128 / height
        small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        if small.shape[0] < crop.shape[0]:
            break
        score, (left, top) = cv2.minMaxLoc(cv2.matchTemplate(small, crop, cv2.TM_CCOEFF_NORMED))[1::2]
        corners = left / scale, top / scale, left / scale + height / 2, top / scale + height
        best = max(best, (score, corners))
    return best[1]


def overlap(one: Corners, other: Corners) -> float:
    """IoU."""
    across, down = (min(one[side + 2], other[side + 2]) - max(one[side], other[side]) for side in (0, 1))
    common = max(0.0, across) * max(0.0, down)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return common / (areas - common)


if __name__ == "__main__":
    main()
