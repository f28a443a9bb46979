"""Camera means without labels: scores of a model as it is and adapted, on people that the means were not fitted on.

    python benchmarks/adaptation.py --model box --model retail.xml --data Market-1501.zip --data VIPeR.zip --data people

The people of each data set (query and gallery) are cut into two halves. The means are fitted on the crops of one half,
without labels, and the other half is scored; then the other way round. The table has the means of both ways, and the
false-reject rate at the threshold of one false accept in 1,000 pairs of the scored half. A model that is a checkpoint,
or `box`, also gets the batch-norm statistics of one half.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click
import numpy as np
from embedded_data import embed_data, embedding_options

from bot_deploy import console, images
from bot_deploy.artifacts import checkpoint
from bot_deploy.backends.torch import runner
from bot_deploy.camera_means import CameraMeans, fit_camera_means, fit_whitening
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError
from bot_deploy.evaluation.metrics import DotProducts, evaluate
from bot_deploy.matching.pairs import score_pairs
from bot_deploy.model import InferenceGraph
from bot_deploy.train.batch_norm import measure_statistics

if TYPE_CHECKING:
    from pathlib import Path

    from embedded_data import EmbeddedData

    from bot_deploy.artifacts.checkpoint import Checkpoint
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
@click.option("--batch-norm/--no-batch-norm", default=True, help="Also measure the statistics of batch-norm layers.")
def main(models: tuple[str, ...], sources: tuple[str, ...], device: str, threads: int, batch_norm: bool) -> None:
    """Print a table of the scores."""
    console.show_library_output()
    print("| model | data | embeddings | rank-1 | mAP | false rejects at 1e-3 |\n" + "|---" * 6 + "|")
    for data in embed_data(models, sources, device, threads):
        first, second = split_people(data.dataset, data.query, data.gallery)
        both_ways = ((first, second), (second, first))  # the half to fit on, and the half to score
        print_row(data, "as they are", [score(scored, None) for _, scored in both_ways])
        print_row(data, "without camera means", [score(scored, fit(fitted)) for fitted, scored in both_ways])
        print_row(data, "and whitened", [score(scored, fit(fitted, whiten=True)) for fitted, scored in both_ways])
        if batch_norm and (saved := read_checkpoint(data.model)) is not None:
            rows = [score(embed_adapted(saved, fitted, scored), None) for fitted, scored in both_ways]
            print_row(data, "with their batch-norm", rows)


def print_row(data: EmbeddedData, embeddings: str, rows: list[tuple[float, float, float]]) -> None:
    """The mean of `rows` as a line of the table."""
    rank1, mean_ap, rejects = np.mean(rows, axis=0)
    print(f"| {' | '.join(data.names)} | {embeddings} | {rank1:.2f} | {mean_ap:.2f} | {rejects:.1f} % |", flush=True)


def read_checkpoint(model: Path) -> Checkpoint | None:
    """The checkpoint in the file `model`; None if it has no weights to change."""
    try:
        return checkpoint.load(model)
    except InputError:
        return None


def embed_adapted(saved: Checkpoint, fitted: Half, scored: Half) -> Half:
    """`scored`, embedded with the batch-norm statistics of the crops of `fitted`, but for distractors."""
    crops = [crop for crop in (*fitted.query, *fitted.gallery) if crop.identity > 0]
    pixels = read(crops, saved.contract.size)
    adapted = measure_statistics(saved, pixels, np.random.default_rng(0).permutation(len(crops)).tolist())
    embedder = Embedder(adapted.contract, "PyTorch", runner(InferenceGraph(adapted.build(), adapted.contract), "cpu"))
    query, gallery = (
        embedder.embed(list(read(part, adapted.contract.size))) for part in (scored.query, scored.gallery)
    )
    return dataclasses.replace(scored, query_vectors=query, gallery_vectors=gallery)


def read(crops: list[Crop], size: tuple[int, int]) -> images.Pixels:
    return np.stack(list(images.read_many([crop.path for crop in crops], size)))  # type: ignore[arg-type]


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


def fit(half: Half, *, whiten: bool = False) -> CameraMeans:
    """What `bot adapt` fits to all crops of `half` but distractors, which are in the other half too."""
    crops, vectors = [*half.query, *half.gallery], np.concatenate([half.query_vectors, half.gallery_vectors])
    rows = [row for row, crop in enumerate(crops) if crop.identity > 0]
    known = cameras([crops[row] for row in rows])
    means = fit_camera_means(vectors[rows], known)
    if not whiten:
        return means
    return dataclasses.replace(means, whitening=fit_whitening(means, vectors[rows], known))


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
