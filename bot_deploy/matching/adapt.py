"""Adapts a model to cameras without labels: it gets the mean embedding of each camera."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy.artifacts import companion_files, read_contract, write_contract
from bot_deploy.artifacts.contract import encode_vectors
from bot_deploy.camera_means import (
    MIN_CAMERA_CROPS,
    CameraMeans,
    camera_gap,
    fit_camera_means,
    fit_whitening,
    stored_means,
)
from bot_deploy.errors import InputError, RunError

from .calibrate import check_storable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bot_deploy.embedder import Vectors


@dataclass(frozen=True, eq=False)
class Adaptation:
    """The camera means of some crops, and what they change."""

    means: CameraMeans
    crops: int  # that the means were measured on, also those of unknown cameras
    gap_before: float  # see `camera_means.camera_gap`
    gap_after: float


def fit_adaptation(
    vectors: Vectors, cameras: Sequence[int | None], names: Mapping[int, str] | None = None, *, whiten: bool = False
) -> Adaptation:
    """The camera means of unit `vectors` [N, D], which the `cameras` [N] took; None: an unknown camera.

    Args:
        vectors: of the crops.
        cameras: camera IDs.
        names: of cameras, for messages.
        whiten: also whiten what is left of the embeddings.

    Raises:
        InputError: fewer than two cameras have MIN_CAMERA_CROPS crops, or crops of one camera are not more alike than
            crops of two, so that nothing would be gained.
    """
    counts = Counter(camera for camera in cameras if camera is not None)
    enough = {camera for camera, count in counts.items() if count >= MIN_CAMERA_CROPS}
    if len(enough) < 2:  # noqa: PLR2004 - it takes two to differ
        named = names or {}
        listed = [f"camera {named.get(camera, camera)}: {count}" for camera, count in sorted(counts.items())[:10]]
        found = ", ".join(listed) or "none"
        in_names = "cameras are in file names such as c2_0001.jpg, or in folders such as c2/"
        raise InputError(
            f"at least 2 cameras with {MIN_CAMERA_CROPS} crops each are needed; crops found: {found}; "
            + ("take more footage" if names else in_names)
        )
    means = fit_camera_means(vectors, cameras)
    known = [row for row, camera in enumerate(cameras) if camera in enough]
    numbers = [camera for camera in cameras if camera is not None and camera in enough]
    gap_before = camera_gap(vectors[known], numbers)
    if gap_before <= 0:
        raise InputError(
            f"crops of one camera are not more alike than crops of two (mean cosines differ by {gap_before:.4f}), so "
            "camera means would gain nothing; use the model as it is"
        )
    if whiten:
        means = replace(means, whitening=fit_whitening(means, vectors, cameras))
    gap_after = camera_gap(means.center(vectors[known], numbers), numbers)
    return Adaptation(means, len(vectors), gap_before, gap_after)


def write_adapted(model: str | Path, out: str | Path, adaptation: Adaptation) -> None:
    """Copies the model file `model` to `out`, with the camera means.

    A calibration is left out: its thresholds are for cosines with the means.

    Raises:
        InputError: `model` is a checkpoint or no model of ours, or `out` is the same file.
        RunError: `out` cannot be written.
    """
    model, out = Path(model), Path(out)
    if model.suffix == ".pt":
        check_storable(model)
    if out.exists() and out.samefile(model):
        raise InputError(f"{out}: is the model itself; name another file", parameter="out")
    contract = read_contract(model)
    try:
        for file, copy in zip(companion_files(model), companion_files(out), strict=True):
            shutil.copyfile(file, copy)
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error.strerror or error})", parameter="out") from None
    means, whitening = stored_means(adaptation.means, adaptation.crops), adaptation.means.whitening
    stored = "" if whitening is None else encode_vectors(whitening)
    write_contract(out, replace(contract, camera_means=means, whitening=stored, calibration=None))
