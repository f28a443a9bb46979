"""The models and detectors that `bot models` lists: the built-in model, the table, and folders of models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import box
from .cache import find_model_file, model_names, search_folders
from .fetch import find_cached_file
from .table import NAMED_DETECTORS, NAMED_MODELS, Accuracy, NamedDetector, NamedModel, NetworkInput, RemoteFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BOX_ACCURACY = (Accuracy("Market-1501", 90.44, 76.44), Accuracy("VIPeR", 34.18, 42.83))  # as docs/model.md has it


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """A model or detector with a name."""

    name: str
    kind: str  # "model" or "detector"
    bytes: int
    licence: str | None = None  # None: not known
    authors: str | None = None
    training_data: str | None = None  # what it allowed
    published: Accuracy | None = None  # by its authors
    measured: tuple[Accuracy, ...] = ()  # by us
    cached: bool = True
    dim: int | None = None  # of an embedding; None: of a detector, or only the contract of the file has it
    input: NetworkInput | None = None  # None: only the contract of the file has it
    files: tuple[RemoteFile, ...] = ()  # what is fetched
    path: Path | None = None  # the file that `bot` opens; of a model that is not wrapped yet, None


def list_models(folders: Sequence[Path] | None = None) -> list[ListedModel]:
    """The built-in model, the models in the order of the table, those of users, and the detectors.

    Args:
        folders: where their files are looked up; by default the folders of `cache.search_folders`.
    """
    folders = search_folders() if folders is None else folders
    models = [_listed(network, folders) for network in NAMED_MODELS]
    detectors = [_listed(network, folders) for network in NAMED_DETECTORS]
    names = {box.NAME, *(listed.name for listed in (*models, *detectors))}
    own = [_own(name, folders) for name in model_names(folders) if name not in names]
    return [_boxed(), *models, *own, *detectors]


def _boxed() -> ListedModel:
    return ListedModel(
        name=box.NAME,
        kind="model",
        bytes=box.PATH.stat().st_size,
        licence="research only",
        authors="bot_deploy",
        training_data=box.TERMS,
        measured=BOX_ACCURACY,
        path=box.PATH,
    )


def _listed(network: NamedModel | NamedDetector, folders: Sequence[Path]) -> ListedModel:
    file = find_cached_file(network, folders)
    path = find_model_file(network.name, folders) if isinstance(network, NamedModel) else file
    return ListedModel(
        name=network.name,
        kind="model" if isinstance(network, NamedModel) else "detector",
        bytes=network.bytes,
        licence=network.licence,
        authors=network.authors,
        training_data=network.data_terms,
        published=network.published if isinstance(network, NamedModel) else None,
        measured=network.measured if isinstance(network, NamedModel) else (),
        cached=bool(path or file),
        dim=network.dim if isinstance(network, NamedModel) else None,
        input=network.input,
        files=network.files,
        path=path,
    )


def _own(name: str, folders: Sequence[Path]) -> ListedModel:
    path = find_model_file(name, folders)
    assert path
    weights = path.with_suffix(".bin")  # of an OpenVINO IR
    files = [path, weights] if path.suffix == ".xml" and weights.is_file() else [path]
    return ListedModel(name=name, kind="model", bytes=sum(file.stat().st_size for file in files), path=path)
