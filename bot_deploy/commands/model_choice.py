"""The model of a command: the one that is named, or else the newest export, or else the built-in model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.embedder import Embedder


def choose_model(model: str | Path | None) -> Path:
    """The model file for --model or an argument MODEL.

    Args:
        model: a path; the name of a model (see `bot models`), which is fetched and wrapped at its first use; or None
            for the newest model.onnx under runs/, and without one the built-in model.

    Raises:
        InputError: no such model.
        RunError: it cannot be fetched, or its runtime is missing.
    """
    from bot_deploy import runs
    from bot_deploy.artifacts import FILE_MODULES, check_model_file
    from bot_deploy.choices import TRITON
    from bot_deploy.errors import InputError
    from bot_deploy.models import box
    from bot_deploy.models.cache import find_model, find_model_file
    from bot_deploy.models.table import NamedModel, find_named_network

    if str(model).startswith(TRITON.rstrip("/")):
        raise InputError(
            "this command embeds on this machine; `bot serve` embeds on a Triton server", parameter="model"
        )
    if model is None:
        return runs.newest_model() or box.PATH
    network = find_named_network(str(model))
    if network and not isinstance(network, NamedModel) and not Path(model).is_file():
        raise InputError(f"{model} is a detector; give it as --detector", parameter="model")
    if isinstance(network, NamedModel) and not Path(model).is_file() and not find_model_file(network.name):
        from bot_deploy.export.by_name import prepare_model

        return prepare_model(network)
    path = find_model(model)
    if not path.exists() and path.suffix not in FILE_MODULES:
        raise InputError(f"{path}: no such model file, and no name that `bot models` lists")
    check_model_file(path)
    return path


def open_model(path: str | Path, device: str, *, threads: int, batch: int = 0, check: bool = True) -> Embedder:
    """The opened model at `path`, a file or an address; prints what it is, where it runs and, once, its terms."""
    from bot_deploy.console import say
    from bot_deploy.embedder import open_embedder

    embedder = open_embedder(path, device, threads=threads, batch_size=batch, check=check)
    say(f"model {model_name(path)} on {embedder.backend}")
    say_terms(path)
    say_cameras(embedder.contract)
    return embedder


def say_cameras(contract: Contract, cameras: Iterable[int | None] | None = None) -> None:
    """Prints the cameras of an adapted model; with the `cameras` of crops, that none of these is one of them."""
    from bot_deploy.camera_means import camera_means_of, describe_means, note_on_cameras
    from bot_deploy.console import say

    means = camera_means_of(contract)
    line = means and (describe_means(means) if cameras is None else note_on_cameras(means, cameras))
    if line:
        say(line)


def model_name(path: str | Path) -> str:
    """What messages call the model file `path`: "box", or the path itself."""
    from bot_deploy.models import box

    return box.NAME if path == box.PATH else str(path)


def say_terms(path: str | Path) -> None:
    """Prints the terms of the built-in model, or of a network of the table, when a user first uses its file."""
    from bot_deploy.console import say
    from bot_deploy.models import box
    from bot_deploy.models.cache import search_folders
    from bot_deploy.models.table import find_named_network
    from bot_deploy.models.terms import is_first_use

    if path == box.PATH:
        if is_first_use(box.NAME):
            say(f"the built-in model is {box.TERMS}; this is printed once, and docs/model.md is its card")
        return
    network = find_named_network(Path(path).parent.name)
    # Such as a folder that was carried to a machine without internet.
    if network and Path(path).parent.parent in search_folders() and is_first_use(network.name):
        say(f"{network.name}: {network.terms}")
