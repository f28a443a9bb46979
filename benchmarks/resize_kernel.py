"""Compares resize kernels: the effect of downscaling and of train/serve skew on the embeddings of real crops.

    python benchmarks/resize_kernel.py MODEL.onnx --data Market-1501.zip --frames FOLDER_OR_VIDEO ...

Prints a markdown table with three measurements:
1. Stability: people are cut from full-size frames and resized to the model's input. A crop that is shifted by one pixel
   should have the same embedding; with a kernel that aliases, it does not. Mean and 5 % quantile of the cosine.
2. Skew: a model is served with another kernel than it was trained with. Mean cosine between the kernels.
3. Accuracy: Market-1501 crops are enlarged 2.5 times, as from a better camera, and shrunk again by each kernel. Rank-1
   and mAP over a fixed part of the test split.
"""

from __future__ import annotations

from pathlib import Path

import click
import cv2
import numpy as np
from PIL import Image

from bot_deploy import images
from bot_deploy.datasets import open_dataset
from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.evaluation import metrics

QUERIES, OTHER_CROPS = 400, 2000
ENLARGEMENT = 2.5
FRAME_STEP = 20  # of a video, every 20th frame is used


def pillow_resize(kernel: Image.Resampling):  # noqa: ANN201
    return lambda image, size: np.asarray(Image.fromarray(image).resize(size[::-1], kernel))


def opencv_resize(kernel: int):  # noqa: ANN201
    return lambda image, size: cv2.resize(image, size[::-1], interpolation=kernel)


KERNELS = {
    "Pillow bilinear (antialiased)": pillow_resize(Image.Resampling.BILINEAR),
    "Pillow bicubic (antialiased)": pillow_resize(Image.Resampling.BICUBIC),
    "Pillow box": pillow_resize(Image.Resampling.BOX),
    "OpenCV area": opencv_resize(cv2.INTER_AREA),
    "OpenCV linear": opencv_resize(cv2.INTER_LINEAR),
    "OpenCV cubic": opencv_resize(cv2.INTER_CUBIC),
    "OpenCV nearest": opencv_resize(cv2.INTER_NEAREST),
}
OURS = "Pillow bilinear (antialiased)"


def read_frames(source: Path) -> list[images.Pixels]:
    """The images of a folder, or every 20th frame of a video, as RGB."""
    if source.is_dir():
        return [images.read_image(path) for path in images.find_images(source)]
    capture, frames, number = cv2.VideoCapture(str(source)), [], 0
    while True:
        success, frame = capture.read()
        if not success:
            return frames
        if number % FRAME_STEP == 0:
            frames.append(frame[..., ::-1].copy())
        number += 1


def detect_people(sources: tuple[Path, ...], min_height: int) -> list[tuple[images.Pixels, tuple[int, int, int, int]]]:
    """(frame, box) of each person that OpenCV's HOG detector finds with certainty and that is taller than the input."""
    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())
    people = []
    for source in sources:
        for frame in read_frames(source):
            boxes, weights = hog.detectMultiScale(frame, winStride=(8, 8), scale=1.05)
            for (x, y, w, h), weight in zip(boxes, np.ravel(weights), strict=True):
                # HOG boxes are larger than the person; the inner part is used.
                x, y, w, h = int(x + 0.15 * w), int(y + 0.05 * h), int(0.7 * w), int(0.9 * h)  # noqa: PLW2901
                inside = x > 1 and y > 1 and x + w + 1 < frame.shape[1] and y + h + 1 < frame.shape[0]
                if weight > 0.5 and h > min_height and inside:
                    people.append((frame, (x, y, w, h)))
    return people


def cut_crop(frame: images.Pixels, box: tuple[int, int, int, int], dx: int = 0, dy: int = 0) -> images.Pixels:
    x, y, w, h = box
    return np.ascontiguousarray(frame[y + dy : y + dy + h, x + dx : x + dx + w])


def measure_stability(embedder: Embedder, people: list) -> dict[str, tuple[float, float]]:
    """Mean and 5 % quantile of the cosine between a crop and the same crop shifted by one pixel, by kernel."""
    result = {}
    for name, kernel in KERNELS.items():
        original = embedder.embed([kernel(cut_crop(*person), embedder.contract.size) for person in people])
        shifted = [
            embedder.embed([kernel(cut_crop(*person, dx, dy), embedder.contract.size) for person in people])
            for dx, dy in ((1, 0), (0, 1), (1, 1))
        ]
        cosines = np.concatenate([(original * other).sum(1) for other in shifted])
        result[name] = float(cosines.mean()), float(np.quantile(cosines, 0.05))
    return result


def measure_skew(embedder: Embedder, people: list) -> dict[str, float]:
    """Mean cosine with the embeddings of our kernel, by kernel."""
    embedded = {
        name: embedder.embed([kernel(cut_crop(*person), embedder.contract.size) for person in people])
        for name, kernel in KERNELS.items()
    }
    return {name: float((embedded[OURS] * vectors).sum(1).mean()) for name, vectors in embedded.items()}


def measure_accuracy(embedder: Embedder, data: str) -> dict[str, tuple[float, float]]:
    """Rank-1 and mAP in percent with an enlarged and resized gallery, by kernel."""
    dataset = open_dataset(data)
    rng = np.random.default_rng(0)
    query = [dataset.query[row] for row in rng.choice(len(dataset.query), QUERIES, replace=False)]
    query_ids = {crop.identity for crop in query}
    matches = [crop for crop in dataset.gallery if crop.identity in query_ids]
    others = [crop for crop in dataset.gallery if crop.identity not in query_ids]
    gallery = [*matches, *(others[row] for row in rng.choice(len(others), OTHER_CROPS, replace=False))]
    native = embedder.embed([images.read_image(crop.path) for crop in query])
    labels = (
        [c.identity for c in query],
        [c.identity for c in gallery],
        [c.camera for c in query],
        [c.camera for c in gallery],
    )
    large = []
    for crop in gallery:
        picture = images.read_image(crop.path)
        size = (int(picture.shape[1] * ENLARGEMENT), int(picture.shape[0] * ENLARGEMENT))
        large.append(cv2.resize(picture, size, interpolation=cv2.INTER_LANCZOS4))
    result = {}
    for name, kernel in KERNELS.items():
        vectors = embedder.embed([kernel(picture, embedder.contract.size) for picture in large])
        scores = metrics.evaluate(metrics.DotProducts(native, vectors), *labels)
        result[name] = 100 * float(scores.cmc[0]), 100 * scores.mAP
    return result


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True, help="Data set for rank-1 and mAP.")
@click.option(
    "--frames",
    "sources",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of images or video with people; repeat it for several.",
)
def main(model: Path, data: str, sources: tuple[Path, ...]) -> None:
    """Print the comparison of resize kernels as markdown."""
    embedder = open_embedder(model)
    people = detect_people(sources, min_height=int(1.2 * embedder.contract.height))
    heights = sorted(box[3] for _, box in people)
    print(f"{len(people)} people of {heights[0]} to {heights[-1]} pixels (median {heights[len(heights) // 2]}),")
    print(f"model input {embedder.contract.height}x{embedder.contract.width}\n")
    stabilities, skews = measure_stability(embedder, people), measure_skew(embedder, people)
    accuracies = measure_accuracy(embedder, data)
    print("| kernel | shifted by a pixel: mean cosine | 5 % quantile | cosine with ours | rank-1 | mAP |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in KERNELS:
        mean, worst = stabilities[name]
        rank1, mean_ap = accuracies[name]
        print(f"| {name} | {mean:.4f} | {worst:.4f} | {skews[name]:.4f} | {rank1:.2f} | {mean_ap:.2f} |")


if __name__ == "__main__":
    main()
