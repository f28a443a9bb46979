"""`bot verify`."""

from __future__ import annotations

from pathlib import Path

import click

from .model_choice import choose_model, say_terms
from .options import JSON, runtime


@click.command()
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option(
    "--data",
    default="synthetic",
    show_default=True,
    help="Crops to compare on; query and gallery, if any, are also scored, except of `synthetic`.",
)
@runtime
@JSON
def verify(reference: Path, candidate: Path, data: str, device: str, threads: int, batch: int, as_json: bool) -> None:
    """Compare the embeddings of CANDIDATE with those of REFERENCE on real crops.

    The tolerance is that of the CANDIDATE's precision. The exit code is 3 if the embeddings differ by more.
    """
    from bot_deploy.choices import SYNTHETIC
    from bot_deploy.console import say, show_json
    from bot_deploy.datasets import check_sources, open_dataset
    from bot_deploy.embedder import open_embedder
    from bot_deploy.errors import InputError, ParityError
    from bot_deploy.evaluation.protocol import evaluate_dataset

    # Wrong paths are reported before PyTorch is imported.
    check_sources([data])
    reference, candidate = choose_model(reference), choose_model(candidate)

    from bot_deploy.export.parity import TOLERANCES, compare_embeddings, sample_crops, with_scores

    reference_model, candidate_model = (
        open_embedder(path, device, threads=threads, batch_size=batch) for path in (reference, candidate)
    )
    a, b = reference_model.contract, candidate_model.contract
    if (a.size, a.dim) != (b.size, b.dim):
        raise InputError(
            f"embeddings of {a.dim} numbers from crops of {a.height}x{a.width} cannot be compared with {b.dim} "
            f"from {b.height}x{b.width}; name two exports of one model"
        )
    dataset = open_dataset(data)
    for path in (reference, candidate):
        say_terms(path)
    say(f"{candidate} on {candidate_model.backend}, against {reference} on {reference_model.backend}, on {data}:")
    parity = compare_embeddings(
        reference_model, candidate_model, sample_crops(dataset, a.size), TOLERANCES[b.precision]
    )
    if data != SYNTHETIC and dataset.query and dataset.gallery:
        parity = with_scores(
            parity, evaluate_dataset(reference_model, dataset), evaluate_dataset(candidate_model, dataset)
        )
    say(*parity.table().splitlines())
    if as_json:
        document = {"reference": str(reference), "candidate": str(candidate), "data": data, "parity": parity.to_dict()}
        show_json(document)
    if not parity.passed:
        same = a.fingerprint == b.fingerprint
        raise ParityError(f"{candidate} differs from {reference}" + ("" if same else ": they hold different weights"))
