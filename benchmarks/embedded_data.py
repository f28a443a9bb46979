"""Query and gallery of data sets, embedded by models: what several benchmarks begin with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bot_deploy import open_embedder
from bot_deploy.datasets import open_dataset
from bot_deploy.evaluation.embeddings import embed_or_reuse
from bot_deploy.models.cache import find_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bot_deploy.datasets import Dataset
    from bot_deploy.embedder import Vectors

OPTIONS = (
    click.option("--model", "models", multiple=True, required=True, help="Model, a file or a name; repeatable."),
    click.option(
        "--data", "sources", multiple=True, required=True, help="Data set with query and gallery; repeatable."
    ),
    click.option("--device", default="auto", help="Device that embeds the crops."),
    click.option("--threads", default=0, help="Number of CPU threads."),
)


@dataclass(frozen=True, eq=False)
class EmbeddedData:
    """A data set, and its embeddings by a model."""

    names: tuple[str, str]  # of the model and of the data
    model: Path  # its file
    dataset: Dataset
    query: Vectors
    gallery: Vectors


def embedding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives `command` the parameters of `embed_data` as options."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def embed_data(models: Sequence[str], sources: Sequence[str], device: str, threads: int) -> Iterator[EmbeddedData]:
    """Each data set of `sources` by each of the `models`; the embeddings are kept in the embedding cache."""
    for model in models:
        embedder = open_embedder(find_model(model), device, threads=threads)
        for source in sources:
            dataset = open_dataset(source)
            query, gallery = (
                embed_or_reuse(embedder, crops, name, model=find_model(model))
                for name, crops in (("query", dataset.query), ("gallery", dataset.gallery))
            )
            names = (Path(model).name, Path(source).name)
            yield EmbeddedData(names, find_model(model), dataset, query, gallery)
