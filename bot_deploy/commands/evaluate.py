"""`bot eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .model_choice import choose_model, open_model, say_cameras
from .options import JSON, RenamedOption, model_argument, runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bot_deploy.datasets import Crop
    from bot_deploy.embedder import Embedder, Vectors


@click.command("eval")
@model_argument()
@click.option(
    "--data",
    default="synthetic",
    show_default=True,
    help="Data set with query and gallery: a folder, .zip or .csv, or `synthetic`.",
)
@click.option(
    "--gallery-model",
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="Embed the gallery with this model, for instance an earlier one that MODEL is compatible with.",
)
@runtime
@click.option("--rerank", is_flag=True, help="Rank by k-reciprocal re-ranking (Zhong et al., 2017).")
@click.option(
    "--no-camera-filter",
    is_flag=True,
    help="Also count gallery crops of the query's own identity and camera.",
)
@click.option(
    "--single-shot",
    is_flag=True,
    help="Draw one gallery image of each identity, as in CUHK03's first protocol (CMC only).",
)
@click.option(
    "--refresh-cache",
    "--fresh",
    cls=RenamedOption,
    is_flag=True,
    help="Embed again, and replace what is in the embedding cache.",
)
@JSON
def evaluate(
    model: Path | None,
    data: str,
    gallery_model: Path | None,
    device: str,
    threads: int,
    batch: int,
    rerank: bool,
    no_camera_filter: bool,
    single_shot: bool,
    refresh_cache: bool,
    as_json: bool,
) -> None:
    """Score MODEL by the Market-1501 protocol: rank-1, rank-5, rank-10, mAP, mINP.

    Without MODEL, the newest export is scored, or else the built-in model.

    Embeddings are kept in your cache folder and reused while model and data stay the same.
    """
    from bot_deploy.console import say, show, show_json
    from bot_deploy.datasets import camera_notes, check_sources, open_dataset
    from bot_deploy.evaluation.embeddings import embed_or_reuse
    from bot_deploy.evaluation.protocol import evaluate_dataset

    check_sources([data])
    model = choose_model(model)
    embedder = open_model(model, device, threads=threads, batch=batch)
    gallery_file = choose_model(gallery_model) if gallery_model else model
    gallery_embedder = open_model(gallery_file, device, threads=threads, batch=batch) if gallery_model else embedder
    dataset = open_dataset(data)

    def embed(opened: Embedder, crops: Sequence[Crop], crops_name: str) -> Vectors:
        file = model if opened is embedder else gallery_file
        return embed_or_reuse(opened, crops, crops_name, model=file, fresh=refresh_cache)

    for note in camera_notes(dataset):
        say(note)
    say_cameras(embedder.contract, (crop.known_camera for crop in (*dataset.query, *dataset.gallery)))
    scores = evaluate_dataset(
        embedder,
        dataset,
        rerank=rerank,
        camera_filter=not no_camera_filter,
        single_shot=single_shot,
        embed=embed,
        gallery_model=gallery_embedder,
    )
    if as_json:
        show_json(scores.to_dict())
    else:
        show(str(scores))
