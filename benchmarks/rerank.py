"""k-reciprocal re-ranking, ours against the released algorithm: seconds, peak memory, and what they score.

    python benchmarks/rerank.py [--model MODEL.onnx --data Market-1501.zip] [--dim 2048]

Each runs in a process of its own, one after the other; memory is the growth of its peak from when the
embeddings are there (Linux). `released` is written here from the paper and from what the released code computes:
whole matrices, float16 encodings, one image after the other.
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
from features import features, options

from bot_deploy.evaluation.metrics import evaluate
from bot_deploy.evaluation.rerank import k_reciprocal


def released(query, gallery, k1=20, k2=6, lambda_value=0.3):  # noqa: ANN001, ANN201
    """Distances [Q, G] as the authors' program computes them."""
    everyone, queries = np.concatenate([query, gallery]), len(query)
    squares = np.square(everyone).sum(axis=1)
    original = squares[:, None] + squares - 2 * (everyone @ everyone.T)
    original = (original / original.max(axis=0)).T
    ranking = np.argsort(original).astype(np.int32)

    def mutual(image: int, k: int) -> np.ndarray:
        forward = ranking[image, : k + 1]
        return forward[(ranking[forward, : k + 1] == image).any(axis=1)]

    encodings = np.zeros(original.shape, np.float16)
    for image in range(len(everyone)):
        core = mutual(image, k1)
        grown = [core]
        for neighbour in core:
            theirs = mutual(neighbour, int(np.around(k1 / 2)))
            if len(np.intersect1d(theirs, core)) > 2 / 3 * len(theirs):
                grown.append(theirs)
        members = np.unique(np.concatenate(grown))
        weights = np.exp(-original[image, members])
        encodings[image, members] = weights / weights.sum()
    original = original[:queries]
    if k2 != 1:
        expanded = np.zeros_like(encodings)
        for image in range(len(everyone)):
            expanded[image] = encodings[ranking[image, :k2]].mean(axis=0)
        encodings = expanded
        del expanded
    holders = [np.flatnonzero(column) for column in encodings.T]
    jaccard = np.zeros(original.shape, np.float16)
    for image in range(queries):
        common = np.zeros(len(everyone), np.float16)
        for member in np.flatnonzero(encodings[image]):
            who = holders[member]
            common[who] += np.minimum(encodings[image, member], encodings[who, member])
        jaccard[image] = 1 - common / (2 - common)
    return ((1 - lambda_value) * jaccard + lambda_value * original)[:, queries:]


ALGORITHMS = {"released": released, "ours": k_reciprocal}


def peak() -> int:
    """MiB of this process. Not by ru_maxrss, which on Linux begins with that of the process that started this one."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def measure(algorithm: str, folder: Path) -> None:
    """Run one algorithm on `folder`'s embeddings and leave its distances there."""
    query, gallery = np.load(folder / "query.npy"), np.load(folder / "gallery.npy")
    before, started = peak(), time.perf_counter()
    distances = ALGORITHMS[algorithm](query, gallery)
    print(f"{time.perf_counter() - started} {time.process_time()} {peak() - before}")
    np.save(folder / f"{algorithm}.npy", distances)


def labels(found: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [found[name] for name in ("query_ids", "gallery_ids", "query_cams", "gallery_cams")]


@click.command()
@options
def main(**source) -> None:  # noqa: ANN003
    """Print both as markdown."""
    found = features(**source)
    query, gallery = found["query"], found["gallery"]
    print(
        f"{len(query)} x {len(gallery)}, {query.shape[1]}-d; {(query.nbytes + gallery.nbytes) >> 20} MiB of embeddings"
    )
    print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| re-ranked by | seconds | CPU seconds | memory over the embeddings, MiB | rank-1 | mAP |")
    print("| --- | --- | --- | --- | --- | --- |")
    plain = evaluate(query @ gallery.T, *labels(found))
    print(f"| nothing | | | | {100 * plain.cmc[0]:.2f} | {100 * plain.mAP:.3f} |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "query.npy", query)
        np.save(folder / "gallery.npy", gallery)
        distances = {}
        for algorithm in ALGORITHMS:
            words = [sys.executable, __file__, "--measure", algorithm, name]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            seconds, cpu, memory = map(float, done.stdout.split())
            distances[algorithm] = np.load(folder / f"{algorithm}.npy")
            score = evaluate(-distances[algorithm], *labels(found))
            row = f"{seconds:.1f} | {cpu:.1f} | {memory:.0f} | {100 * score.cmc[0]:.2f} | {100 * score.mAP:.3f}"
            print(f"| {algorithm} | {row} |", flush=True)
    difference = np.abs(distances["released"] - distances["ours"])
    print(f"\ndistances differ by {difference.mean():.5f} on average, {difference.max():.3f} at most")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
