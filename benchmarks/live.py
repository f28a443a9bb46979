r"""The live demo on a real video and on real street scenes: who is enrolled, who is found, and how fast.

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

from bot_deploy.demos import app
from bot_deploy.demos.enrolment import open_people
from bot_deploy.demos.recognition import Live, Sighting
from bot_deploy.demos.recorder import Recorder
from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.video.detectors import Detector, open_detector
from bot_deploy.video.sources import Frame, open_source

if TYPE_CHECKING:
    from bot_deploy.video.tracks import Corners

# The first and the last frame of each person in the video, counted by eye; nobody comes twice.
PEOPLE = ((57, 199), (232, 449), (504, 699), (747, 862), (927, 1201), (1236, 1354))
SOUGHT = "0001"  # the identity of the scene's queries
# She walks through all sixteen frames; where, by eye: left, top, right, bottom.
HER = {
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
HERS = 0.4  # IoU from which a box is hers
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
@click.option("--min-score", type=float)
def main(model: Path, detector: Path, video: Path, scene: Path, min_score: float | None) -> None:
    """Prints the tables of benchmarks/README.md."""
    embedder, finder = open_embedder(model), open_detector(detector)
    walk(video, finder, embedder, min_score)
    search(scene, finder, embedder, min_score)


def walk(video: Path, detector: Detector, embedder: Embedder, least: float | None) -> None:
    """The whole loop, recording and all, with --auto-enrol and an empty gallery."""
    with tempfile.TemporaryDirectory() as folder, open_source(str(video)) as source:
        people = open_people(f"{folder}/people.gallery", embedder, least)
        live = Watched(detector, embedder, people, source.fps, auto_enrol=True)
        with Recorder(Path(folder) / "out.mp4", Path(folder) / "events.jsonl", source.fps) as recorder:
            summary = app.run(source, live, recorder)
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


def search(folder: Path, detector: Detector, embedder: Embedder, least: float | None) -> None:
    """Two crops of one person as the gallery, sixteen frames to find her on."""
    with tempfile.TemporaryDirectory() as place, open_source(str(folder)) as source:
        gallery = Path(place) / SOUGHT
        gallery.mkdir()
        for crop in sorted((folder / "query").glob("*.jpg")):
            (gallery / crop.name).write_bytes(crop.read_bytes())
        people = open_people(place, embedder, least)
        live = Watched(detector, embedder, people, source.fps)
        with Recorder(None, None, source.fps) as recorder:
            app.run(source, live, recorder)
        print(f"{SOUGHT} on the frames of {folder.name}; {people.rule}")
        people.gallery.close()
    print("| frame | people found | best score | that box is hers (IoU) | named | others named |")
    print("| --- | ---: | ---: | --- | --- | ---: |")
    found = alarms = 0
    for frame, sightings in live.seen:
        stem = Path(frame.name).stem
        hits = {one.track: overlap(one.corners, HER[stem]) for one in sightings}
        scored = [(one.who.score, one) for one in sightings if one.who]
        score, best = max(scored, key=lambda pair: pair[0])
        hers = hits[best.track] >= HERS
        wrong = sum(one.name is not None and hits[one.track] < HERS for one in sightings)
        found, alarms = found + (hers and best.name is not None), alarms + wrong
        right = f"{'yes' if hers else 'no'} ({hits[best.track]:.2f})"
        print(f"| {stem} | {len(sightings)} | {score:.3f} | {right} | {'yes' if best.name else 'no'} | {wrong} |")
    print(f"\nfound and named on {found} of {len(HER)} frames; {alarms} false alarms on {len(live.seen)} frames")


def overlap(one: Corners, other: Corners) -> float:
    """IoU."""
    across, down = (min(one[side + 2], other[side + 2]) - max(one[side], other[side]) for side in (0, 1))
    common = max(0.0, across) * max(0.0, down)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return common / (areas - common)


if __name__ == "__main__":
    main()
