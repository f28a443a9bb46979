"""Re-ranking where a person has few pictures: scores with and without it, by pictures per person.

    python benchmarks/rerank_pictures.py --model box --model retail.xml --data people --data VIPeR.v1.0.zip

Of each identity in the gallery, at most N crops are kept, drawn with seed 0. Distractors and queries stay. `bot eval`
re-ranks all queries together, so that they are neighbours of each other; `bot match` re-ranks each query alone.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import click
import numpy as np
from embedded_data import embed_data, embedding_options

from bot_deploy import console, k_reciprocal
from bot_deploy.evaluation.metrics import DotProducts, evaluate
from bot_deploy.evaluation.rerank import pictures_per_person

if TYPE_CHECKING:
    from bot_deploy.datasets import Crop

KEPT = (1, 2, 3, 4, 6, 1000)
COLUMNS = (
    "model", "data", "gallery pictures per person", "with queries", "rank-1 / mAP",
    "re-ranked, all queries together", "re-ranked, each query alone",
)  # fmt: skip


@click.command()
@embedding_options
def main(models: tuple[str, ...], sources: tuple[str, ...], device: str, threads: int) -> None:
    console.show_library_output()
    print("| " + " | ".join(COLUMNS) + " |\n" + "| --- " * len(COLUMNS) + "|")
    for data in embed_data(models, sources, device, threads):
        dataset, query, gallery = data.dataset, data.query, data.gallery
        order = np.random.default_rng(0).permutation(len(dataset.gallery)).tolist()
        before: list[int] = []
        for count in KEPT:
            held: dict[int, int] = defaultdict(int)
            rows = []
            for row in order:
                crop = dataset.gallery[row]
                held[crop.identity] += 1
                if crop.identity <= 0 or held[crop.identity] <= count:
                    rows.append(row)
            rows.sort()
            if rows == before:  # nobody has more
                break
            before = rows
            kept = [dataset.gallery[row] for row in rows]
            labels = [
                [crop.identity for crop in dataset.query],
                [crop.identity for crop in kept],
                [crop.camera for crop in dataset.query],
                [crop.camera for crop in kept],
            ]
            plain = evaluate(DotProducts(query, gallery[rows]), *labels)
            together = evaluate(-k_reciprocal(query, gallery[rows]), *labels)
            alone = np.concatenate([k_reciprocal(one[None], gallery[rows]) for one in query])
            cells = [
                f"{100 * float(one.cmc[0]):.2f} / {100 * one.mAP:.2f}"
                for one in (plain, together, evaluate(-alone, *labels))
            ]
            pictures = [f"{pictures_of(crops):.2f}" for crops in (kept, [*dataset.query, *kept])]
            print("| " + " | ".join([*data.names, *pictures, *cells]) + " |", flush=True)


def pictures_of(crops: list[Crop]) -> float:
    return pictures_per_person(crop.identity for crop in crops if crop.identity > 0)


if __name__ == "__main__":
    main()
