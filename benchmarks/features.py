"""Embeddings for the benchmarks of scoring and re-ranking: of a model and a data set, or random."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import numpy as np

from bot_deploy.datasets import open_dataset
from bot_deploy.embedder import open_embedder
from bot_deploy.evaluation.embeddings import embed_or_reuse

OPTIONS = (
    click.option(
        "--model", type=click.Path(path_type=Path), help="Model that embeds the data; default: random embeddings."
    ),
    click.option("--data", help="Data set whose query and gallery the model embeds."),
    click.option(
        "--dim",
        default=2048,
        show_default=True,
        help="Dimensions; smaller embeddings of a model are extended by an isometry.",
    ),
    click.option("--queries", default=3368, show_default=True, help="Number of random queries."),
    click.option("--gallery", default=15913, show_default=True, help="Number of random gallery embeddings."),
)


def add_options(command):  # noqa: ANN001, ANN201
    """Add the options that `load_embeddings` takes."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def load_embeddings(
    model: Path | None, data: str | None, dim: int, queries: int, gallery: int
) -> dict[str, np.ndarray]:
    """Return `query` [Q, D], `gallery` [G, D], `query_ids`, `gallery_ids`, `query_cams` and `gallery_cams`."""
    rng = np.random.default_rng(0)
    if not model or not data:
        identities = rng.integers(0, max(queries // 4, 1), queries + gallery)
        vectors = rng.standard_normal((identities.max() + 1, dim), np.float32)[identities]
        vectors += 1.5 * rng.standard_normal(vectors.shape, np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cams = rng.integers(1, 7, len(identities))
        embeddings = {"query": vectors[:queries], "gallery": vectors[queries:]}
        ids = {"query_ids": identities[:queries], "gallery_ids": identities[queries:]}
        return embeddings | ids | {"query_cams": cams[:queries], "gallery_cams": cams[queries:]}
    dataset, embed = open_dataset(data), partial(embed_or_reuse, open_embedder(model), model=model)
    splits = {"query": dataset.query, "gallery": dataset.gallery}
    embeddings = {name: embed(crops=crops, crops_name=name) for name, crops in splits.items()}
    if dim > embeddings["query"].shape[1]:
        # Orthonormal rows keep every distance and angle, so that only the amount of arithmetic changes.
        isometry = np.linalg.qr(rng.standard_normal((dim, embeddings["query"].shape[1])))[0].T.astype(np.float32)
        embeddings = {name: vectors @ isometry for name, vectors in embeddings.items()}
    for name, crops in splits.items():
        embeddings[f"{name}_ids"] = np.array([crop.identity for crop in crops])
        embeddings[f"{name}_cams"] = np.array([crop.camera for crop in crops])
    return embeddings
