"""Several cameras live, from the files of a synthetic clip."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy.demos import app
from bot_deploy.demos.cameras import name_cameras
from bot_deploy.demos.enrolment import open_enrolment_gallery
from bot_deploy.demos.recognition import FrameResult, LiveRecognizer, TrackedPerson
from bot_deploy.demos.recorder import Recorder
from bot_deploy.video.sources.together import open_sources
from footage_parts.truth import Visit, read_truth, whose

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bot_deploy.embedder import Embedder
    from bot_deploy.video.detectors import Detector
    from bot_deploy.video.sources import Frame


class RecordingRecognizer(LiveRecognizer):
    """A recognizer that keeps the people on every frame."""

    history: list[tuple[int, Frame, list[TrackedPerson]]]

    def process_frames(self, frames: Mapping[int, Frame]) -> dict[int, FrameResult]:
        results = super().process_frames(frames)
        self.history += [(number, frames[number], result.persons) for number, result in results.items()]
        return results


def watch(folder: Path, embedder: Embedder, detector: Detector) -> None:
    """Enrols whoever comes first, and compares the names on all cameras with the truth."""
    truth = read_truth(folder / "truth.csv")
    addresses = [str(video) for video in sorted(folder.glob("cam*.mp4"))]
    with tempfile.TemporaryDirectory() as temporary, open_sources(addresses) as sources:
        gallery = open_enrolment_gallery(f"{temporary}/people.gallery", embedder)
        cameras = name_cameras(sources, addresses)
        rates = [source.fps for source in sources]
        recognizer = RecordingRecognizer(detector, embedder, gallery, *rates, auto_enrol=True)
        recognizer.history = []
        with Recorder(None, Path(temporary) / "events.jsonl", max(rates)) as recorder:
            summary = app.run(cameras, recognizer, recorder)
        gallery.close()
    each = ", ".join(f"{name} {frames / summary.seconds:.1f}" for name, frames in summary.cameras.items())
    stages = ", ".join(f"{stage} {100 * value / summary.seconds:.0f} %" for stage, value in summary.stages.items())
    print(f"{len(cameras)} cameras, {summary.frames} frames in {summary.seconds:.1f} s; frames/s of each: {each}")
    print(f"stages: {stages}\n")

    shown: Counter[tuple[str, str]] = Counter()  # (name, whom its boxes show by the truth) -> boxes
    first: dict[str, tuple[float, str]] = {}  # name -> time and camera where it appears first
    boxes = []  # camera, time, whom by the truth, name
    for number, frame, persons in recognizer.history:
        camera = cameras[number].name
        for person in persons:
            identity = whose(truth, camera, frame.number, person.xyxy)
            boxes.append((camera, frame.time, identity, person.name))
            if person.name is not None and identity is not None:
                shown[person.name, identity] += 1
                first.setdefault(person.name, (frame.time, camera))
    owner = {name: identity for (name, identity), _ in reversed(shown.most_common())}  # of most of its boxes
    right = wrong = unnamed = 0
    visits: dict[Visit, bool] = {}  # of people who were enrolled before, on another camera -> named there
    for visit in truth.visits:
        names = [name for name, identity in owner.items() if identity == visit.identity]
        if any(first[name][0] < visit.start and first[name][1] != visit.camera for name in names):
            visits[visit] = any(
                camera == visit.camera and visit.start <= time <= visit.end and name in names and whom == visit.identity
                for camera, time, whom, name in boxes
            )
    for _, _, identity, name in boxes:
        if identity is not None:
            right += name is not None and owner.get(name) == identity
            wrong += name is not None and owner.get(name) != identity
            unnamed += name is None
    people = len({visit.identity for visit in truth.visits})
    print(
        "| cameras | people | names enrolled | of different people | later visits to other cameras | named there | "
        "boxes named right | wrong | unnamed |\n" + "| ---: " * 9 + "|"
    )
    cells = (len(cameras), people, len(set(summary.enrolled)), len(set(owner.values())), len(visits))
    print(f"| {' | '.join(map(str, cells))} | {sum(visits.values())} | {right} | {wrong} | {unnamed} |")
