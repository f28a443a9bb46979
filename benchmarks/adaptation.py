"""Camera means without labels: scores of a model as it is and adapted, on people that the means were not fitted on.

    python benchmarks/adaptation.py --model box --model retail.xml --data Market-1501.zip --data VIPeR.zip --data people

The people of each data set (query and gallery) are cut into two halves. The means are fitted on the crops of one half,
without labels, and the other half is scored; then the other way round. The table has the means of both ways, and the
false-reject rate at the threshold of one false accept in 1,000 pairs of the scored half.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click
import numpy as np
from embedded_data import embed_data, embedding_options

from bot_deploy import console
from bot_deploy.camera_means import CameraMeans, fit_camera_means
from bot_deploy.evaluation.metrics import DotProducts, evaluate
from bot_deploy.matching.pairs import score_pairs

if TYPE_CHECKING:
    from bot_deploy.datasets import Crop, Dataset
    from bot_deploy.embedder import Vectors

FALSE_ACCEPT_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Half:
    """The crops of half of the people, with their embeddings."""

    query: list[Crop]
    gallery: list[Crop]
    query_vectors: Vectors
    gallery_vectors: Vectors


@click.command()
@embedding_options
def main(models: tuple[str, ...], sources: tuple[str, ...], device: str, threads: int) -> None:
    console.show_library_output()
    print("| model | data | embeddings | rank-1 | mAP | false rejects at 1e-3 |\n" + "|---" * 6 + "|")
    for data in embed_data(models, sources, device, threads):
        halves = split_people(data.dataset, data.query, data.gallery)
        for name, is_adapted in (("as they are", False), ("without camera means", True)):
            rows = [score(scored, fit(fitted) if is_adapted else None) for fitted, scored in (halves, halves[::-1])]
            rank1, mean_ap, rejects = np.mean(rows, axis=0)
            print(
                f"| {' | '.join(data.names)} | {name} | {rank1:.2f} | {mean_ap:.2f} | {rejects:.1f} % |",
                flush=True,
            )


def split_people(dataset: Dataset, query_vectors: Vectors, gallery_vectors: Vectors) -> tuple[Half, Half]:
    """Every second identity, and the others; distractors are in both."""
    people = sorted({crop.identity for crop in (*dataset.query, *dataset.gallery) if crop.identity > 0})
    first = set(people[::2])

    def cut(*, is_first: bool) -> Half:
        rows = [
            [row for row, crop in enumerate(crops) if crop.identity <= 0 or (crop.identity in first) == is_first]
            for crops in (dataset.query, dataset.gallery)
        ]
        return Half(
            [dataset.query[row] for row in rows[0]],
            [dataset.gallery[row] for row in rows[1]],
            query_vectors[rows[0]],
            gallery_vectors[rows[1]],
        )

    return cut(is_first=True), cut(is_first=False)


def cameras(crops: list[Crop]) -> list[int | None]:
    return [crop.known_camera for crop in crops]


def fit(half: Half) -> CameraMeans:
    """The camera means of all crops of `half` but distractors, which are in the other half too."""
    crops, vectors = [*half.query, *half.gallery], np.concatenate([half.query_vectors, half.gallery_vectors])
    rows = [row for row, crop in enumerate(crops) if crop.identity > 0]
    return fit_camera_means(vectors[rows], cameras([crops[row] for row in rows]))


def score(half: Half, means: CameraMeans | None) -> tuple[float, float, float]:
    """Rank-1, mAP and the false-reject rate, in percent."""
    query, gallery = half.query_vectors, half.gallery_vectors
    if means:
        query, gallery = means.center(query, cameras(half.query)), means.center(gallery, cameras(half.gallery))
    labels = [[crop.identity for crop in crops] for crops in (half.query, half.gallery)]
    places = [[crop.camera for crop in crops] for crops in (half.query, half.gallery)]
    result = evaluate(DotProducts(query, gallery), labels[0], labels[1], places[0], places[1])
    pairs = score_pairs(np.concatenate([query, gallery]), labels[0] + labels[1], places[0] + places[1])
    false_accepts, false_rejects = pairs.error_rates()
    rejects = float(false_rejects[np.argmax(false_accepts <= FALSE_ACCEPT_RATE)])
    return 100 * float(result.cmc[0]), 100 * result.mAP, 100 * rejects


if __name__ == "__main__":
    main()
