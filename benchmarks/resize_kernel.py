"""Which resize kernel: what downscaling and train/serve skew do to the embeddings of real crops.

    python benchmarks/resize_kernel.py MODEL.onnx --data Market-1501.zip --frames FOLDER_OR_VIDEO ...

Prints markdown. Three questions:
1. Stability: people cut from full-size frames, shrunk to the model's size. The same person cut one pixel
   aside should give the same embedding; a kernel that aliases does not. Mean and worst 5 % cosine.
2. Skew: a model served with another kernel than it was trained with. Mean cosine between kernels.
3. Accuracy: Market-1501 crops enlarged to 2.5 times their size (a better camera) and shrunk again by
   each kernel. Rank-1 and mAP over a fixed part of the test split.
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

QUERIES, DISTRACTORS = 400, 2000
ENLARGED = 2.5


def by_pillow(kernel: Image.Resampling):  # noqa: ANN201
    return lambda image, size: np.asarray(Image.fromarray(image).resize(size[::-1], kernel))


def by_opencv(kernel: int):  # noqa: ANN201
    return lambda image, size: cv2.resize(image, size[::-1], interpolation=kernel)


KERNELS = {
    "Pillow bilinear (antialiased)": by_pillow(Image.Resampling.BILINEAR),
    "Pillow bicubic (antialiased)": by_pillow(Image.Resampling.BICUBIC),
    "Pillow box": by_pillow(Image.Resampling.BOX),
    "OpenCV area": by_opencv(cv2.INTER_AREA),
    "OpenCV linear": by_opencv(cv2.INTER_LINEAR),
    "OpenCV cubic": by_opencv(cv2.INTER_CUBIC),
    "OpenCV nearest": by_opencv(cv2.INTER_NEAREST),
}
OURS = "Pillow bilinear (antialiased)"


def frames(source: Path) -> list[images.Pixels]:
    """Pictures of a folder, or every 20th frame of a video, as RGB."""
    if source.is_dir():
        return [images.read_image(path) for path in images.find_images(source)]
    capture, found, number = cv2.VideoCapture(str(source)), [], 0
    while True:
        more, frame = capture.read()
        if not more:
            return found
        if number % 20 == 0:
            found.append(frame[..., ::-1].copy())
        number += 1


def people(sources: tuple[Path, ...], least_height: int) -> list[tuple[images.Pixels, tuple[int, int, int, int]]]:
    """(frame, box) of every person that OpenCV's HOG detector is sure of and that must be shrunk."""
    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())
    found = []
    for source in sources:
        for frame in frames(source):
            boxes, weights = hog.detectMultiScale(frame, winStride=(8, 8), scale=1.05)
            for (x, y, w, h), weight in zip(boxes, np.ravel(weights), strict=True):
                # HOG's boxes are generous; the inner part is the person.
                x, y, w, h = int(x + 0.15 * w), int(y + 0.05 * h), int(0.7 * w), int(0.9 * h)  # noqa: PLW2901
                inside = x > 1 and y > 1 and x + w + 1 < frame.shape[1] and y + h + 1 < frame.shape[0]
                if weight > 0.5 and h > least_height and inside:
                    found.append((frame, (x, y, w, h)))
    return found


def cut(frame: images.Pixels, box: tuple[int, int, int, int], dx: int = 0, dy: int = 0) -> images.Pixels:
    x, y, w, h = box
    return np.ascontiguousarray(frame[y + dy : y + dy + h, x + dx : x + dx + w])


def stability(embedder: Embedder, found: list) -> dict[str, tuple[float, float]]:
    result = {}
    for name, kernel in KERNELS.items():
        here = embedder.embed([kernel(cut(*person), embedder.contract.size) for person in found])
        aside = [
            embedder.embed([kernel(cut(*person, dx, dy), embedder.contract.size) for person in found])
            for dx, dy in ((1, 0), (0, 1), (1, 1))
        ]
        cosines = np.concatenate([(here * other).sum(1) for other in aside])
        result[name] = float(cosines.mean()), float(np.quantile(cosines, 0.05))
    return result


def skew(embedder: Embedder, found: list) -> dict[str, float]:
    embedded = {
        name: embedder.embed([kernel(cut(*person), embedder.contract.size) for person in found])
        for name, kernel in KERNELS.items()
    }
    return {name: float((embedded[OURS] * vectors).sum(1).mean()) for name, vectors in embedded.items()}


def accuracy(embedder: Embedder, data: str) -> dict[str, tuple[float, float]]:
    dataset = open_dataset(data)
    rng = np.random.default_rng(0)
    query = [dataset.query[row] for row in rng.choice(len(dataset.query), QUERIES, replace=False)]
    wanted = {crop.identity for crop in query}
    true = [crop for crop in dataset.gallery if crop.identity in wanted]
    others = [crop for crop in dataset.gallery if crop.identity not in wanted]
    gallery = [*true, *(others[row] for row in rng.choice(len(others), DISTRACTORS, replace=False))]
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
        size = (int(picture.shape[1] * ENLARGED), int(picture.shape[0] * ENLARGED))
        large.append(cv2.resize(picture, size, interpolation=cv2.INTER_LANCZOS4))
    result = {}
    for name, kernel in KERNELS.items():
        vectors = embedder.embed([kernel(picture, embedder.contract.size) for picture in large])
        scores = metrics.evaluate(metrics.DotProducts(native, vectors), *labels)
        result[name] = 100 * float(scores.cmc[0]), 100 * scores.mAP
    return result


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True)
@click.option("--frames", "sources", required=True, multiple=True, type=click.Path(path_type=Path))
def main(model: Path, data: str, sources: tuple[Path, ...]) -> None:
    """Print the comparison of resize kernels as markdown."""
    embedder = open_embedder(model)
    found = people(sources, least_height=int(1.2 * embedder.contract.height))
    heights = sorted(box[3] for _, box in found)
    print(f"{len(found)} people of {heights[0]} to {heights[-1]} pixels (median {heights[len(heights) // 2]}),")
    print(f"model input {embedder.contract.height}x{embedder.contract.width}\n")
    stable, skewed, accurate = stability(embedder, found), skew(embedder, found), accuracy(embedder, data)
    print("| kernel | moved by a pixel: mean cosine | worst 5 % | cosine with ours | rank-1 | mAP |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in KERNELS:
        mean, worst = stable[name]
        rank1, mean_ap = accurate[name]
        print(f"| {name} | {mean:.4f} | {worst:.4f} | {skewed[name]:.4f} | {rank1:.2f} | {mean_ap:.2f} |")


if __name__ == "__main__":
    main()
