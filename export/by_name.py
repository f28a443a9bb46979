"""Prepares the networks that have a name: fetches the files, and wraps them as a model file in the folder of models."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy.artifacts import read_contract
from bot_deploy.artifacts.contract import decode_calibration
from bot_deploy.datasets import open_dataset
from bot_deploy.errors import RunError
from bot_deploy.files import check_writable, lock, write_atomically
from bot_deploy.matching.calibrate import store_calibration
from bot_deploy.models import box
from bot_deploy.models.cache import FOLDER_VARIABLE, find_model_file, search_folders
from bot_deploy.models.fetch import fetch
from bot_deploy.models.terms import log_terms
from bot_deploy.synthetic import generate_dataset

from .wrap import require_parity, wrap_model

if TYPE_CHECKING:
    from bot_deploy.datasets import Dataset
    from bot_deploy.models.table import NamedModel

    from .exported_model import ExportedModel

logger = logging.getLogger(__name__)

CALIBRATIONS = Path(box.PATH).with_name("calibrations")
PARITY_IDENTITIES = 15  # synthetic people whose crops the wrapped model and the original are compared on


def prepare_model(network: NamedModel, folder: Path | None = None) -> Path:
    """The model file of `network`; the first call fetches the files, wraps them and compares the embeddings.

    Args:
        network: from the table.
        folder: of named models; by default all of them are searched, and a new model file is beside the fetched files.

    Raises:
        InputError, RunError: as `fetch` and `wrap`.
        ParityError: its embeddings differ from those of the original.
    """
    model_file = find_model_file(network.name)
    if model_file and (folder is None or model_file.parent.parent == folder):
        return model_file
    if model_file and folder:
        return _copy(model_file, folder / network.name)
    source = fetch(network, folder)
    target = _writable(source.parent, network.name)
    with lock(target / ".wrap.lock", lambda: logger.info(f"another process wraps {network.name}; waiting for it")):
        model_file = find_model_file(network.name, (target.parent,))
        if model_file:
            return model_file
        log_terms(network)  # of files that were put there by hand; `fetch` says those of what it fetches
        measured = calibration_path(network.name)
        with tempfile.TemporaryDirectory() as temporary:
            model = _make_model(network, source, Path(temporary), _draw_people(Path(temporary) / "people"))
            require_parity(model)
            check_dim(network, read_contract(model.path).dim)
            if measured.exists():
                fields = json.loads(measured.read_text(encoding="utf-8"))
                store_calibration(model.path, decode_calibration(fields, str(measured)))
            model_file = _copy(model.path, target)  # complete: whoever finds it, finds its threshold too
    threshold = "Its threshold was measured on other cameras" if measured.exists() else "It has no calibrated threshold"
    logger.info(
        f"{network.name}: kept as {model_file}. {threshold}: `bot calibrate {network.name}` measures one on crops of "
        "your cameras"
    )
    return model_file


def check_dim(network: NamedModel, dim: int) -> None:
    """Checks that an embedding has as many numbers as the table says.

    Raises:
        RunError: it has not.
    """
    if dim != network.dim:
        raise RunError(
            f"{network.name}: its embeddings have {dim} numbers instead of {network.dim}; the table is wrong"
        )


def calibration_path(name: str) -> Path:
    """The file with the thresholds that we measured for the network `name`; it is missing where nothing was measured.

    benchmarks/named_calibration.py writes it.
    """
    return CALIBRATIONS / f"{name}.json"


def _make_model(network: NamedModel, source: Path, folder: Path, crops: Dataset) -> ExportedModel:
    """The model file in `folder` of the network in `source`: a state dict, or a graph that is wrapped."""
    size = (network.input.height, network.input.width)
    if source.suffix == ".pt":
        from .importers.inference_only import import_for_inference

        return import_for_inference(
            source, folder / "model.onnx", size=size, color=network.input.color, data=crops, terms=network.terms
        ).model
    return wrap_model(
        source,
        folder / f"model{source.suffix}",
        size=size,
        color=network.input.color,
        pixel_range=network.input.pixel_range,
        mean=network.input.mean,
        std=network.input.std,
        data=crops,
        output_name=network.output,
        terms=network.terms,
    )


def _copy(model_file: Path, folder: Path) -> Path:
    """Copies `model_file` with its companion into `folder`; the file that is opened appears last."""
    files = [model_file.with_suffix(".bin"), model_file] if model_file.suffix == ".xml" else [model_file]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror or error})") from None
    for file in files:
        write_atomically(folder / file.name, partial(shutil.copyfile, file))
    return folder / model_file.name


def _writable(folder: Path, name: str) -> Path:
    """`folder`, or that of `name` in the first folder of models that can be written.

    Raises:
        RunError: there is none.
    """
    places = [folder, *(place / name for place in search_folders())]
    for place in places:
        with contextlib.suppress(RunError, OSError):
            place.mkdir(parents=True, exist_ok=True)
            check_writable(place / "model.onnx")
            return place
    raise RunError(
        f"{name} is wrapped at its first use, and none of these folders can be written: "
        f"{', '.join(map(str, dict.fromkeys(places)))}; set ${FOLDER_VARIABLE} to one that can"
    )


def _draw_people(folder: Path) -> Dataset:
    generate_dataset(folder, train_identities=2, test_identities=PARITY_IDENTITIES, images_per_camera=2, workers=1)
    return replace(open_dataset(folder), sources=("synthetic people",))
