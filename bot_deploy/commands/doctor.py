"""`bot doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .model_choice import choose_model, model_name, open_model
from .options import JSON, Address, RenamedOption, model_argument, runtime

if TYPE_CHECKING:
    from bot_deploy.doctor.score_shift import ScoreShift


@click.command()
@model_argument()
@click.option(
    "--images",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of crops, cut as your application cuts them.",
)
@click.option(
    "--gallery",
    type=Address(),
    metavar="INDEX",
    help="Index of videos from `bot index`: does the threshold of MODEL hold on its cameras?",
)
@click.option(
    "--max-crops",
    "--count",
    cls=RenamedOption,
    type=click.IntRange(2, 1_000_000),
    default=200,
    show_default=True,
    help="Maximum number of crops, evenly spread.",
)
@runtime
@JSON
def doctor(
    model: Path | None,
    folder: Path | None,
    gallery: str | None,
    max_crops: int,
    device: str,
    threads: int,
    batch: int,
    as_json: bool,
) -> None:
    """Measure on your own crops what wrong preprocessing would do to MODEL, and look for signs of it.

    Without MODEL, the newest export is examined, or else the built-in model.

    Cosines compare a crop that is preprocessed wrongly with the same crop preprocessed correctly: the loss if only
    the query or only the gallery is wrong. The other columns compare crops that are all preprocessed wrongly: the
    share with another nearest crop, and the mean cosine between different crops. Near 1, the model cannot tell people
    apart. Warnings are advice; the exit code stays 0.

    With --gallery, pairs of people who are in view of one camera together are compared with those of the calibration.
    """
    from bot_deploy.console import say_left_out, show, show_json
    from bot_deploy.doctor import diagnose
    from bot_deploy.errors import InputError
    from bot_deploy.files import require_path
    from bot_deploy.gallery import check_gallery

    if folder is None and gallery is None:
        raise InputError("give crops to examine (--images), or an index of videos (--gallery)")
    if folder:
        require_path(folder, "folder of crops")
    if gallery:
        check_gallery(gallery)
    model = choose_model(model)
    document: dict[str, object] = {"model": str(model)}
    lines: list[str] = []
    if gallery:  # the model itself is not needed
        shift = _measure_shift(model, gallery)
        document["score_shift"] = shift.to_dict()
        lines += shift.text_lines()
    if folder:
        embedder = open_model(model, device, threads=threads, batch=batch, check=False)
        diagnosis = diagnose(embedder, folder, max_crops)
        say_left_out(list(diagnosis.broken.values()))
        document |= diagnosis.to_dict()
        lines += diagnosis.text_lines()
    if as_json:
        show_json(document)
    else:
        show(*lines)


def _measure_shift(model: Path, gallery: str) -> ScoreShift:
    """The shift of the scores in the index `gallery`, for the calibration of `model`."""
    from bot_deploy.artifacts import read_contract
    from bot_deploy.camera_means import camera_means_of
    from bot_deploy.doctor.score_shift import measure_score_shift
    from bot_deploy.errors import InputError
    from bot_deploy.footage import Footage
    from bot_deploy.gallery import open_index
    from bot_deploy.matching.centered_gallery import CenteredGallery
    from bot_deploy.matching.tracks import read_tracks, score_tracks

    contract = read_contract(model)
    if contract.calibration is None:
        raise InputError(
            f"{model_name(model)}: not calibrated, so there is no threshold to examine; bot calibrate measures one"
        )
    means = camera_means_of(contract)
    with open_index(gallery, contract) as index:
        tracks = read_tracks(CenteredGallery(index, means) if means else index, Footage(index))
    return measure_score_shift(score_tracks(tracks), contract.calibration, gallery)
