r"""People in recorded video: appearances found, people counted, speed, against the truth of synthetic footage.

python benchmarks/footage.py score --detector yolox_nano_416.onnx [--model model.onnx] [--video FILE PEOPLE]...
python benchmarks/footage.py kills --detector yolox_nano_416.onnx
python benchmarks/footage.py quiet --detector yolox_nano_416.onnx
python benchmarks/footage.py busy --detector yolox_nano_416.onnx
python benchmarks/footage.py memory --detector yolox_nano_416.onnx
python benchmarks/footage.py live --detector yolox_nano_416.onnx
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import numpy as np
from footage_parts import live as live_run
from footage_parts import long_runs
from footage_parts.truth import Truth, Visit, read_truth, whose
from scipy.optimize import linear_sum_assignment

from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.footage import Appearance, Footage, index_footage
from bot_deploy.footage.records import footage_folder, read_records
from bot_deploy.gallery import LocalIndex, open_or_create_index
from bot_deploy.matching.match import match
from bot_deploy.matching.people import SeenPerson, choose_threshold, group_people, list_appearances
from bot_deploy.synthetic import generate_clip
from bot_deploy.video.detectors import Detector, open_detector
from bot_deploy.video.opencv import configure_opencv

DETECTOR = click.option("--detector", type=click.Path(path_type=Path), required=True, help="Detector, ONNX.")
MODEL = click.option("--model", type=click.Path(path_type=Path), help="Exported model; default: the built-in one.")
CLIP = click.option("--clip", type=click.Path(path_type=Path), help="Folder of the clip; it is made if it is missing.")
THREADS = click.option("--threads", default=0, help="CPU threads; 0 for all.")


@click.group()
def main() -> None:
    """Prints the tables of benchmarks/README.md."""
    configure_opencv()


@main.command()
@DETECTOR
@MODEL
@CLIP
@click.option("--persons", default=30, help="Number of people in the synthetic clip.")
@click.option("--seconds", default=90.0, help="Length of the synthetic clip.")
@click.option("--groups", default=0.0, help="Share of people who walk in twos and threes.")
@click.option("--changing-light", is_flag=True, help="The light of each camera changes.")
@click.option(
    "--video", "videos", multiple=True, type=(click.Path(path_type=Path), int), help="A video, and its people."
)
@click.option("--threshold", type=float, help="Cosine of one person; default: the calibrated one.")
def score(
    detector: Path,
    model: Path | None,
    clip: Path | None,
    persons: int,
    seconds: float,
    groups: float,
    changing_light: bool,
    videos: tuple[tuple[Path, int], ...],
    threshold: float | None,
) -> None:
    """Appearances found and people counted, on synthetic footage and in real videos."""
    embedder, person_detector = open_embedder(model), open_detector(detector)
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_clip(
            clip or Path(temporary) / "clip",
            people=persons,
            cameras=3,
            seconds=seconds,
            groups=groups,
            changing_light=changing_light,
        )
        score_clip(folder, Path(temporary) / "clip.gallery", embedder, person_detector, threshold)
        for number, (video, people) in enumerate(videos):
            count_people(video, people, Path(temporary) / f"{number}.gallery", embedder, person_detector, threshold)


@main.command()
@DETECTOR
@MODEL
@CLIP
@click.option("--persons", default=30, help="Number of people in the clip.")
@click.option("--seconds", default=90.0, help="Length of the clip.")
@click.option("--kills", default=30, help="Number of times that `bot index` is killed.")
def kills(detector: Path, model: Path | None, clip: Path | None, persons: int, seconds: float, kills: int) -> None:
    """Kills `bot index` at random moments; exits with 1 if an answer differs from that of a run without kills."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_clip(clip or Path(temporary) / "clip", people=persons, cameras=3, seconds=seconds)
        kill(folder, Path(temporary), open_embedder(model), detector, kills)


@main.command()
@DETECTOR
@MODEL
@THREADS
@click.option("--minutes", default=60.0, help="Length of the video.")
def quiet(detector: Path, model: Path | None, threads: int, minutes: float) -> None:
    """The time for a long quiet video of 768x432 at 25 frames/s, with people on a tenth of it."""
    long_runs.speed(
        open_embedder(model, threads=threads), open_detector(detector, threads=threads), minutes, busy=False
    )


@main.command()
@DETECTOR
@MODEL
@THREADS
@click.option("--minutes", default=5.0, help="Length of the video.")
def busy(detector: Path, model: Path | None, threads: int, minutes: float) -> None:
    """The time for a busy video of 768x432 at 25 frames/s, with up to six people in view all the time."""
    long_runs.speed(open_embedder(model, threads=threads), open_detector(detector, threads=threads), minutes, busy=True)


@main.command()
@DETECTOR
@MODEL
@THREADS
@click.option("--hours", default=10.0, help="Length of the video.")
def memory(detector: Path, model: Path | None, threads: int, hours: float) -> None:
    """Memory while a very long video is read; exits with 1 if it grows."""
    long_runs.memory(open_embedder(model, threads=threads), open_detector(detector, threads=threads), hours)


@main.command()
@DETECTOR
@MODEL
@THREADS
@CLIP
@click.option("--cameras", default=4, help="Number of cameras, at most 6.")
@click.option("--persons", default=8, help="Number of people in the clip.")
@click.option("--seconds", default=60.0, help="Length of the clip.")
def live(
    detector: Path, model: Path | None, threads: int, clip: Path | None, cameras: int, persons: int, seconds: float
) -> None:
    """Several cameras live from files: frames/s of each, and who is named on the cameras after the first."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_clip(clip or Path(temporary) / "clip", people=persons, cameras=cameras, seconds=seconds)
        live_run.watch(folder, open_embedder(model, threads=threads), open_detector(detector, threads=threads))


def make_clip(
    folder: Path, *, people: int, cameras: int, seconds: float, groups: float = 0.0, changing_light: bool = False
) -> Path:
    """The synthetic clip in `folder`, which is made if it is missing."""
    if not folder.exists():
        generate_clip(
            folder,
            people=people,
            cameras=cameras,
            seconds=seconds,
            fps=12,
            height=432,
            groups=groups,
            changing_light=changing_light,
        )
    return folder


def kill(folder: Path, out: Path, embedder: Embedder, detector: Path, kills: int) -> None:
    """Kills `bot index` at random moments, and compares the answer with that of a run without kills."""
    rng = random.Random(0)
    command = [
        sys.executable,
        "-m",
        "bot_deploy",
        "index",
        *map(str, sorted(folder.glob("cam*.mp4"))),
        "--threads",
        "1",
    ]
    command += ["--detector", str(detector), "-o"]
    started = time.perf_counter()
    subprocess.run([*command, str(out / "whole.gallery")], check=True, capture_output=True)
    seconds = time.perf_counter() - started
    done, finished, same = 0, 0, 0
    while done < kills:
        shutil.rmtree(out / "killed.gallery", ignore_errors=True)
        while True:
            process = subprocess.Popen(
                [*command, str(out / "killed.gallery")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            try:
                process.communicate(timeout=rng.uniform(0.1, 1) * seconds if done < kills else None)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                done += 1
        assert process.returncode == 0
        finished += 1
        same += answers(folder, out / "killed.gallery", embedder) == answers(folder, out / "whole.gallery", embedder)
    print(f"{done} kills in {finished} runs; {same} of them have the same rankings as a run without kills")
    if same < finished:
        raise SystemExit(1)


def answers(folder: Path, gallery: Path, embedder: Embedder) -> list[list[tuple[str, float]]]:
    """The ranking of all appearances for each person of the clip."""
    with LocalIndex(gallery) as opened:
        rankings = [
            match(list(person.glob("*.png")), opened, embedder, 1000)
            for person in sorted((folder / "gallery").iterdir())
        ]
    return [
        [(str(one.path.relative_to(gallery.absolute())), one.score) for one in ranking.matches] for ranking in rankings
    ]


def index(videos: list[Path], out: Path, embedder: Embedder, detector: Detector) -> LocalIndex:
    """The index of `videos`; prints the speed."""
    started = time.perf_counter()
    gallery = open_or_create_index(out, embedder.contract, footage_folder(str(out)))
    assert isinstance(gallery, LocalIndex)
    update = index_footage(gallery, videos, embedder, detector)
    wall = time.perf_counter() - started
    seconds = sum(video.seconds for video in update.videos)
    stages = ", ".join(f"{stage} {100 * value / wall:.0f} %" for stage, value in update.stages.items())
    print(f"{seconds:.0f} s of video in {wall:.1f} s, {seconds / wall:.1f} times real time ({stages})")
    return gallery


def score_clip(folder: Path, out: Path, embedder: Embedder, detector: Detector, threshold: float | None) -> None:
    """Appearances, ranks and people of a synthetic clip against its truth."""
    truth = read_truth(folder / "truth.csv")
    with index(sorted(folder.glob("cam*.mp4")), out, embedder, detector) as gallery:
        seen = list_appearances(gallery, Footage(gallery))
        who = {one.appearance.key: identify(one.appearance, out, truth) for one in seen}
        found = [visit for visit in truth.visits if any(covers(one.appearance, who, visit) for one in seen)]
        real = sum(identity is not None for identity in who.values())
        print(
            "| visits by the truth | found | appearances | of a person | recall | precision |\n" + "| ---: " * 6 + "|"
        )
        print(
            f"| {len(truth.visits)} | {len(found)} | {len(seen)} | {real} | {len(found) / len(truth.visits):.3f} | "
            f"{real / max(len(seen), 1):.3f} |\n"
        )
        queries = sorted((folder / "gallery").iterdir())
        precisions, complete = [], 0
        for query in queries:
            right = sum(identity == query.name for identity in who.values())
            if not right:
                continue
            shots = sorted(query.glob("*.png"))
            ranking = match(list(shots), gallery, embedder, len(seen))
            hits = [one.appearance is not None and who[one.appearance.key] == query.name for one in ranking.matches]
            places = np.flatnonzero(hits)
            precisions.append(float(np.mean((np.arange(len(places)) + 1) / (places + 1))))
            complete += int(places[-1] < 2 * right)
        print("| queries | mAP of appearances | every appearance in the first 2 n ranks |\n" + "| ---: " * 3 + "|")
        print(f"| {len(precisions)} | {100 * np.mean(precisions):.1f} | {complete / len(precisions):.3f} |\n")
        print(
            "| threshold | people by the truth | people counted | pairwise F1 | IDF1 by seconds |\n"
            + "| ---: " * 5
            + "|"
        )
        chosen = choose_threshold(embedder.contract.calibration, threshold)
        for value in sorted({chosen, *np.arange(0.3, 0.8, 0.05).round(2)}):
            people = group_people(seen, float(value))
            mark = " (chosen)" if value == chosen else ""
            print(
                f"| {value:.3f}{mark} | {len({visit.identity for visit in truth.visits})} | {len(people)} | "
                f"{pairwise_f1(people, who):.3f} | {idf1(people, who, truth):.3f} |"
            )


def identify(appearance: Appearance, out: Path, truth: Truth) -> str | None:
    """Whom most crops of `appearance` show, by the truth; None for nobody."""
    votes: Counter[str | None] = Counter()
    name, number = appearance.key.split("/")[-2:]
    for folder, record in read_records(footage_folder(str(out))):
        if folder.name == name:
            (entry,) = (one for one in record.appearances if one.number == int(number))
            for crop in entry.crops:
                votes[whose(truth, appearance.camera, crop.frame, crop.box)] += 1
    return votes.most_common(1)[0][0]


def covers(appearance: Appearance, who: dict[str, str | None], visit: Visit) -> bool:
    """Whether `appearance` is of the person of `visit`, in the time of it."""
    overlap = min(appearance.video_end, visit.end) - max(appearance.video_start, visit.start)
    return who[appearance.key] == visit.identity and appearance.camera == visit.camera and overlap > 0


def pairwise_f1(people: list[SeenPerson], who: dict[str, str | None]) -> float:
    """F1 of the pairs of appearances that are put together."""
    entries = [
        (person.number, who[one.appearance.key])
        for person in people
        for one in person.appearances
        if who[one.appearance.key]
    ]
    groups, identities = (np.array([entry[side] for entry in entries]) for side in (0, 1))
    pairs = ~np.eye(len(entries), dtype=bool)
    together, same = (groups[:, None] == groups) & pairs, (identities[:, None] == identities) & pairs
    return float(2 * (together & same).sum() / max((together.sum() + same.sum()), 1))


def idf1(people: list[SeenPerson], who: dict[str, str | None], truth: Truth) -> float:
    """IDF1 (Ristani et al., ECCV 2016 workshops), in seconds in view instead of boxes."""
    identities = sorted({visit.identity for visit in truth.visits})
    true_seconds = sum(visit.end - visit.start for visit in truth.visits)
    found_seconds = sum(one.appearance.end - one.appearance.start for person in people for one in person.appearances)
    overlap = np.zeros((len(people), len(identities)))
    for row, person in enumerate(people):
        for one in person.appearances:
            for visit in truth.visits:
                if covers(one.appearance, who, visit):
                    together = min(one.appearance.video_end, visit.end) - max(one.appearance.video_start, visit.start)
                    overlap[row, identities.index(visit.identity)] += together
    rows, columns = linear_sum_assignment(-overlap)
    return float(2 * overlap[rows, columns].sum() / (true_seconds + found_seconds))


def count_people(
    video: Path, truth: int, out: Path, embedder: Embedder, detector: Detector, threshold: float | None
) -> None:
    """Counts the people in a real video."""
    print(f"\n{video.name}: {truth} people by the published or counted truth")
    with index([video], out, embedder, detector) as gallery:
        seen = list_appearances(gallery, Footage(gallery))
        for folder, record in read_records(footage_folder(str(out))):
            reasons = Counter(one.reason.partition(" (")[0] for one in record.left_out)
            print(f"{folder.name}: {len(seen)} appearances; left out: {dict(reasons)}")
        print("| threshold | people counted |\n| ---: | ---: |")
        for value in sorted(
            {choose_threshold(embedder.contract.calibration, threshold), *np.arange(0.3, 0.8, 0.1).round(2)}
        ):
            print(f"| {value:.3f} | {len(group_people(seen, float(value)))} |")


if __name__ == "__main__":
    main()
