r"""Our exports in the programs that they are for: their embeddings against ours, and their trackers on a real video.

python benchmarks/consumers.py --model box --video one-by-one-person-detection.mp4 --detector yolox_nano_416.onnx \\
        --ultralytics-python ENV/bin/python --boxmot-python ENV/bin/python --frames 700

Each program runs in an environment of its own, which this repository does not need. A program that is not named is
left out; OpenCV is here.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cv2
import numpy as np
import yaml

from bot_deploy.embedder import open_embedder
from bot_deploy.export import export, make_consumer
from bot_deploy.video.detectors import open_detector

if TYPE_CHECKING:
    from bot_deploy.embedder import Embedder

CLIENTS = Path(__file__).parent / "clients"
# Ultralytics' own botsort.yaml, with appearance.
TRACKER = {
    "tracker_type": "botsort",
    "track_high_thresh": 0.25,
    "track_low_thresh": 0.1,
    "new_track_thresh": 0.25,
    "track_buffer": 30,
    "match_thresh": 0.8,
    "fuse_score": True,
    "gmc_method": "sparseOptFlow",
    "proximity_thresh": 0.5,
    "appearance_thresh": 0.8,
    "with_reid": True,
}


def detect(video: Path, detector: Path, frames: int, out: Path) -> None:
    """Writes the people on the first `frames` frames of `video`, as the clients read them."""
    detect_people = open_detector(detector).detect
    capture, numbers, boxes, confidences = cv2.VideoCapture(str(video)), [], [], []
    for number in range(frames):
        read, frame = capture.read()
        if not read:
            break
        found = detect_people(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        numbers += [number] * len(found.xyxy)
        boxes += list(found.xyxy)
        confidences += list(found.confidence)
    capture.release()
    np.savez(
        out,
        frame=np.array(numbers, np.int64),
        xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        confidence=np.array(confidences, np.float32),
    )


def run_client(python: Path, client: str, model: Path, video: Path, detections: Path, out: Path) -> None:
    """Runs clients/CLIENT_client.py with the interpreter `python`; it writes `out`."""
    given = model
    if client == "ultralytics":
        given = out.with_suffix(".yaml")
        given.write_text(yaml.safe_dump({**TRACKER, "model": str(model)}))
    script = CLIENTS / f"{client}_client.py"
    subprocess.run([python, script, given, video, detections, out], check=True, stdout=subprocess.DEVNULL)


def crops_of(answer: np.lib.npyio.NpzFile) -> list[np.ndarray]:
    """The crops, BGR, that a client has embedded."""
    return [answer[f"crop{index}"] for index in range(len(answer["embeddings"]))]


def cosines(answer: np.lib.npyio.NpzFile, embedder: Embedder) -> np.ndarray:
    """The cosines [N] between a client's embeddings and ours of the same crops."""
    return (answer["embeddings"] * embedder.embed(crops_of(answer), color="BGR")).sum(1)


def run_opencv(model: Path, crops: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The embeddings [N, D] of `crops`, BGR, as OpenCV's dnn gives them."""
    network = cv2.dnn.readNetFromONNX(str(model))
    network.setInput(cv2.dnn.blobFromImages(crops, 1.0, size[::-1], swapRB=True))
    return network.forward()


@click.command()
@click.option("--model", default="box", show_default=True)
@click.option("--video", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--detector", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--data", default="synthetic", show_default=True, help="Crops for the parity of each export.")
@click.option("--frames", default=700, show_default=True)
@click.option("--ultralytics-python", type=click.Path(exists=True, path_type=Path))
@click.option("--boxmot-python", type=click.Path(exists=True, path_type=Path))
def main(
    model: str,
    video: Path,
    detector: Path,
    data: str,
    frames: int,
    ultralytics_python: Path | None,
    boxmot_python: Path | None,
) -> None:
    """Prints the table of benchmarks/README.md."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        detect(video, detector, frames, folder / "detections.npz")
        embedder, crops = open_embedder(model), None
        print("| program | crops | mean cosine | least cosine | tracks | longest track, frames | seconds |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for name, python in (("ultralytics", ultralytics_python), ("boxmot", boxmot_python)):
            if python is None:
                continue
            made = export(model, folder / name, data=data, consumer=make_consumer(name))[-1]
            out, started = folder / f"{name}.npz", time.perf_counter()
            run_client(python, name, made.path, video, folder / "detections.npz", out)
            seconds = time.perf_counter() - started
            with np.load(out) as answer:
                values, ids, crops = cosines(answer, embedder), answer["tracks"][:, 1], crops_of(answer)
                lengths = np.unique(ids, return_counts=True)[1]
                print(
                    f"| {name} {answer['version']} | {len(values)} | {values.mean():.4f} | {values.min():.4f} | "
                    f"{len(lengths)} | {lengths.max(initial=0)} | {seconds:.0f} |"
                )
        if crops:
            made = export(model, folder / "opencv", data=data, consumer=make_consumer("opencv"))[-1]
            started = time.perf_counter()
            rows = run_opencv(made.path, crops, embedder.contract.size)
            values = (rows * embedder.embed(crops, color="BGR")).sum(1)
            print(
                f"| OpenCV dnn {cv2.__version__} | {len(values)} | {values.mean():.4f} | {values.min():.4f} | | | "
                f"{time.perf_counter() - started:.0f} |"
            )


if __name__ == "__main__":
    main()
