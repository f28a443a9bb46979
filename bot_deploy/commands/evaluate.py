"""`bot eval`."""

from __future__ import annotations

from pathlib import Path

import click

from .model_choice import choose_model, open_model
from .options import JSON, RenamedOption, runtime


@click.command("eval")
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option(
    "--data",
    default="synthetic",
    show_default=True,
    help="Data set with query and gallery: a folder, .zip or .csv, or `synthetic`.",
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
    from functools import partial

    from bot_deploy.console import say, show, show_json
    from bot_deploy.datasets import camera_notes, check_sources, open_dataset
    from bot_deploy.evaluation.embeddings import embed_or_reuse
    from bot_deploy.evaluation.protocol import evaluate_dataset

    check_sources([data])
    model = choose_model(model)
    embedder = open_model(model, device, threads=threads, batch=batch)
    dataset = open_dataset(data)
    for note in camera_notes(dataset):
        say(note)
    scores = evaluate_dataset(
        embedder,
        dataset,
        rerank=rerank,
        camera_filter=not no_camera_filter,
        single_shot=single_shot,
        embed=partial(embed_or_reuse, model=model, fresh=refresh_cache),
    )
    if as_json:
        show_json(scores.to_dict())
    else:
        show(str(scores))
