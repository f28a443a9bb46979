"""Compares k-reciprocal re-ranking, ours and the released algorithm: time, peak memory and scores.

    python benchmarks/rerank.py [--model MODEL.onnx --data Market-1501.zip] [--dim 2048]

Each algorithm runs in its own process, one after the other. Memory is the growth of the peak after the embeddings are
loaded (Linux only). `released` is written from the paper and from the behaviour of the authors' code: full distance
matrices, float16 encodings, one image after another.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from features import add_options, load_embeddings

from bot_deploy.evaluation.metrics import evaluate
from bot_deploy.evaluation.rerank import k_reciprocal


def released_distances(query, gallery, k1=20, k2=6, lambda_value=0.3):  # noqa: ANN001, ANN201
    """Distances [Q, G] as the authors' program computes them."""
    vectors, queries = np.concatenate([query, gallery]), len(query)
    squares = np.square(vectors).sum(axis=1)
    original = squares[:, None] + squares - 2 * (vectors @ vectors.T)
    original = (original / original.max(axis=0)).T
    ranking = np.argsort(original).astype(np.int32)

    def reciprocal_neighbours(image: int, k: int) -> np.ndarray:
        forward = ranking[image, : k + 1]
        return forward[(ranking[forward, : k + 1] == image).any(axis=1)]

    encodings = np.zeros(original.shape, np.float16)
    for image in range(len(vectors)):
        neighbours = reciprocal_neighbours(image, k1)
        expanded_set = [neighbours]
        for neighbour in neighbours:
            candidates = reciprocal_neighbours(neighbour, int(np.around(k1 / 2)))
            if len(np.intersect1d(candidates, neighbours)) > 2 / 3 * len(candidates):
                expanded_set.append(candidates)
        members = np.unique(np.concatenate(expanded_set))
        weights = np.exp(-original[image, members])
        encodings[image, members] = weights / weights.sum()
    original = original[:queries]
    if k2 != 1:
        expanded = np.zeros_like(encodings)
        for image in range(len(vectors)):
            expanded[image] = encodings[ranking[image, :k2]].mean(axis=0)
        encodings = expanded
        del expanded
    images_with = [np.flatnonzero(column) for column in encodings.T]
    jaccard = np.zeros(original.shape, np.float16)
    for image in range(queries):
        common = np.zeros(len(vectors), np.float16)
        for member in np.flatnonzero(encodings[image]):
            images = images_with[member]
            common[images] += np.minimum(encodings[image, member], encodings[images, member])
        jaccard[image] = 1 - common / (2 - common)
    return ((1 - lambda_value) * jaccard + lambda_value * original)[:, queries:]


ALGORITHMS = {"released": released_distances, "ours": k_reciprocal}


def peak_memory() -> int:
    """Peak memory of this process in MiB. On Linux, ru_maxrss would include the peak of the parent process."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def measure(algorithm: str, folder: Path) -> None:
    """Run one algorithm on the embeddings in `folder`, and save its distances there."""
    query, gallery = np.load(folder / "query.npy"), np.load(folder / "gallery.npy")
    before, started = peak_memory(), time.perf_counter()
    distances = ALGORITHMS[algorithm](query, gallery)
    print(f"{time.perf_counter() - started} {time.process_time()} {peak_memory() - before}")
    np.save(folder / f"{algorithm}.npy", distances)


def labels_of(embeddings: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [embeddings[name] for name in ("query_ids", "gallery_ids", "query_cams", "gallery_cams")]


@click.command()
@add_options
def main(**source) -> None:  # noqa: ANN003
    """Print the comparison as markdown."""
    embeddings = load_embeddings(**source)
    query, gallery = embeddings["query"], embeddings["gallery"]
    print(
        f"{len(query)} x {len(gallery)}, {query.shape[1]}-d; {(query.nbytes + gallery.nbytes) >> 20} MiB of embeddings"
    )
    print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| re-ranked by | seconds | CPU seconds | memory over the embeddings, MiB | rank-1 | mAP |")
    print("| --- | --- | --- | --- | --- | --- |")
    plain = evaluate(query @ gallery.T, *labels_of(embeddings))
    print(f"| nothing | | | | {100 * plain.cmc[0]:.2f} | {100 * plain.mAP:.3f} |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "query.npy", query)
        np.save(folder / "gallery.npy", gallery)
        distances = {}
        for algorithm in ALGORITHMS:
            command = [sys.executable, __file__, "--measure", algorithm, name]
            process = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, cpu, memory = map(float, process.stdout.split())
            distances[algorithm] = np.load(folder / f"{algorithm}.npy")
            score = evaluate(-distances[algorithm], *labels_of(embeddings))
            row = f"{seconds:.1f} | {cpu:.1f} | {memory:.0f} | {100 * score.cmc[0]:.2f} | {100 * score.mAP:.3f}"
            print(f"| {algorithm} | {row} |", flush=True)
    difference = np.abs(distances["released"] - distances["ours"])
    print(f"\ndistances differ by {difference.mean():.5f} on average, {difference.max():.3f} at most")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
