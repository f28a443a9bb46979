"""Compares the time to score embeddings, similarities included: ours and the usual implementation with argsort.

    python benchmarks/evaluation.py [--model MODEL.onnx --data Market-1501.zip] [--dim 2048]

Both get the same embeddings and run in turns. The table has the median time, rank-1 and mAP of each.
"""

from __future__ import annotations

import os
import time

import click
import numpy as np
from features import add_options, load_embeddings

from bot_deploy.evaluation.metrics import DotProducts, evaluate


def argsort_scores(query, gallery, query_ids, gallery_ids, query_cams, gallery_cams):  # noqa: ANN001, ANN201
    """Rank-1 and mAP the usual way: all distances, a full sort of each row, then a loop over the queries."""
    distances = 1 - query @ gallery.T
    orders = np.argsort(distances, axis=1)
    matches = gallery_ids[orders] == query_ids[:, None]
    rank1_hits, average_precisions = [], []
    for row, order in enumerate(orders):
        ignored = (gallery_ids[order] == query_ids[row]) & (gallery_cams[order] == query_cams[row])
        hits = matches[row][~ignored].astype(np.int32)
        if hits.any():
            rank1_hits.append(hits[0])
            precision = hits.cumsum() / np.arange(1, len(hits) + 1)
            average_precisions.append((precision * hits).sum() / hits.sum())
    return float(np.mean(rank1_hits)), float(np.mean(average_precisions))


def our_scores(query: np.ndarray, gallery: np.ndarray, *labels: np.ndarray) -> tuple[float, float]:
    """Rank-1 and mAP by `bot_deploy.evaluate`."""
    result = evaluate(DotProducts(query, gallery), *labels)
    return float(result.cmc[0]), result.mAP


@click.command()
@add_options
@click.option("--turns", default=3, show_default=True, help="Number of runs of each.")
def main(turns: int, **source) -> None:  # noqa: ANN003
    """Print the times of both as markdown."""
    embeddings = load_embeddings(**source)
    names = ("query", "gallery", "query_ids", "gallery_ids", "query_cams", "gallery_cams")
    arrays = [embeddings[name] for name in names]
    seconds: dict[str, list[float]] = {"argsort": [], "ours": []}
    scores = {}
    for _ in range(turns):
        for name, score in (("argsort", argsort_scores), ("ours", our_scores)):
            started = time.perf_counter()
            scores[name] = score(*arrays)
            seconds[name].append(time.perf_counter() - started)
    sizes = f"{len(embeddings['query'])} x {len(embeddings['gallery'])}, {embeddings['query'].shape[1]}-d"
    print(f"{sizes}; load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| scored by | seconds (median) | fastest | rank-1 | mAP |")
    print("| --- | --- | --- | --- | --- |")
    for name, (rank1, mean_ap) in scores.items():
        times = seconds[name]
        print(f"| {name} | {np.median(times):.2f} | {min(times):.2f} | {100 * rank1:.2f} | {100 * mean_ap:.2f} |")


if __name__ == "__main__":
    main()
