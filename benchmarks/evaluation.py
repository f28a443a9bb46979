"""Seconds to score embeddings, similarities included: ours against the argsort that everybody writes.

    python benchmarks/evaluation.py [--model MODEL.onnx --data Market-1501.zip] [--dim 2048]

Both get the same embeddings and print their rank-1 and mAP; they take turns, and the medians are reported.
"""

from __future__ import annotations

import os
import time

import click
import numpy as np
from features import features, options

from bot_deploy.evaluation.metrics import DotProducts, evaluate


def usual(query, gallery, query_ids, gallery_ids, query_cams, gallery_cams):  # noqa: ANN001, ANN201
    """All distances, all of every row sorted, then a loop over the queries: rank-1 and mAP."""
    distances = 1 - query @ gallery.T
    orders = np.argsort(distances, axis=1)
    matches = gallery_ids[orders] == query_ids[:, None]
    first, precisions = [], []
    for row, order in enumerate(orders):
        same = (gallery_ids[order] == query_ids[row]) & (gallery_cams[order] == query_cams[row])
        hits = matches[row][~same].astype(np.int32)
        if hits.any():
            first.append(hits[0])
            precision = hits.cumsum() / np.arange(1, len(hits) + 1)
            precisions.append((precision * hits).sum() / hits.sum())
    return float(np.mean(first)), float(np.mean(precisions))


def ours(query: np.ndarray, gallery: np.ndarray, *labels: np.ndarray) -> tuple[float, float]:
    result = evaluate(DotProducts(query, gallery), *labels)
    return float(result.cmc[0]), result.mAP


@click.command()
@options
@click.option("--turns", default=3, show_default=True)
def main(turns: int, **source) -> None:  # noqa: ANN003
    """Print seconds of both as markdown."""
    found = features(**source)
    names = ("query", "gallery", "query_ids", "gallery_ids", "query_cams", "gallery_cams")
    arrays = [found[name] for name in names]
    seconds: dict[str, list[float]] = {"argsort": [], "ours": []}
    scores = {}
    for _ in range(turns):
        for name, score in (("argsort", usual), ("ours", ours)):
            started = time.perf_counter()
            scores[name] = score(*arrays)
            seconds[name].append(time.perf_counter() - started)
    sizes = f"{len(found['query'])} x {len(found['gallery'])}, {found['query'].shape[1]}-d"
    print(f"{sizes}; load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| scored by | seconds (median) | fastest | rank-1 | mAP |")
    print("| --- | --- | --- | --- | --- |")
    for name, (rank1, mean_ap) in scores.items():
        times = seconds[name]
        print(f"| {name} | {np.median(times):.2f} | {min(times):.2f} | {100 * rank1:.2f} | {100 * mean_ap:.2f} |")


if __name__ == "__main__":
    main()
