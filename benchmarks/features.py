"""Embeddings for the benchmarks of what is done with them: of a model and a data set, or made up."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import numpy as np

from bot_deploy.datasets import open_dataset
from bot_deploy.embedder import open_embedder
from bot_deploy.evaluation.embeddings import embed_or_reuse

OPTIONS = (
    click.option("--model", type=click.Path(path_type=Path), help="Without it, made-up people."),
    click.option("--data", help="Whose query and gallery MODEL embeds."),
    click.option("--dim", default=2048, show_default=True, help="More than the model's: turned by an isometry."),
    click.option("--queries", default=3368, show_default=True, help="Made up."),
    click.option("--gallery", default=15913, show_default=True, help="Made up."),
)


def options(verb):  # noqa: ANN001, ANN201
    """Adds the options that `features` takes."""
    for option in reversed(OPTIONS):
        verb = option(verb)
    return verb


def features(model: Path | None, data: str | None, dim: int, queries: int, gallery: int) -> dict[str, np.ndarray]:
    """`query` [Q, D] and `gallery` [G, D], with `query_ids`, `gallery_ids`, `query_cams` and `gallery_cams`."""
    rng = np.random.default_rng(0)
    if not model or not data:
        who = rng.integers(0, max(queries // 4, 1), queries + gallery)
        vectors = rng.standard_normal((who.max() + 1, dim), np.float32)[who]
        vectors += 1.5 * rng.standard_normal(vectors.shape, np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cams = rng.integers(1, 7, len(who))
        found = {"query": vectors[:queries], "gallery": vectors[queries:]}
        ids = {"query_ids": who[:queries], "gallery_ids": who[queries:]}
        return found | ids | {"query_cams": cams[:queries], "gallery_cams": cams[queries:]}
    dataset, embed = open_dataset(data), partial(embed_or_reuse, open_embedder(model), model=model)
    parts = {"query": dataset.query, "gallery": dataset.gallery}
    found = {name: embed(crops=crops, label=name) for name, crops in parts.items()}
    if dim > found["query"].shape[1]:
        # Columns at right angles keep every distance: the same people, more arithmetic.
        turn = np.linalg.qr(rng.standard_normal((dim, found["query"].shape[1])))[0].T.astype(np.float32)
        found = {name: vectors @ turn for name, vectors in found.items()}
    for name, crops in parts.items():
        found[f"{name}_ids"] = np.array([crop.identity for crop in crops])
        found[f"{name}_cams"] = np.array([crop.camera for crop in crops])
    return found
