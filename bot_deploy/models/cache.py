"""The folders of models with a name: FOLDER/NAME/ holds the files of one network, and its model file.

A folder is looked up in $BOT_MODELS and in the user's cache, in this order. New files go to the first of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy.errors import InputError
from bot_deploy.files import cache_folder

from . import box
from .table import NAMED_MODELS

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER_VARIABLE = "BOT_MODELS"
MODEL_FILES = ("model.onnx", "model.xml")  # names of the model file in the folder of its name


def models_folder() -> Path:
    """The folder that networks are fetched to: $BOT_MODELS, or one in the user's cache. It may not exist yet."""
    return search_folders()[0]


def search_folders() -> tuple[Path, ...]:
    """The folders in which models are looked up."""
    own = os.environ.get(FOLDER_VARIABLE)
    return (*([Path(own)] if own else []), cache_folder("models"))


def find_model_file(name: str, folders: Sequence[Path] | None = None) -> Path | None:
    """The model file of the model `name`; None if there is none."""
    if Path(name).name != name:  # a path is no name
        return None
    candidates = (folder / name / file for folder in folders or search_folders() for file in MODEL_FILES)
    return next((path for path in candidates if path.is_file()), None)


def model_names(folders: Sequence[Path]) -> list[str]:
    """The names of all models with a model file in `folders`."""
    paths = (path for folder in folders for file in MODEL_FILES for path in folder.glob(f"*/{file}"))
    return sorted({path.parent.name for path in paths})


def find_model(model: str | Path) -> Path:
    """The file of `model`, which is a path, "box" or the name of a network; a path that does not exist stays as it is.

    Raises:
        InputError: a network of the table that is not in the cache yet.
    """
    if str(model) == box.NAME:
        return box.PATH
    path = Path(model)
    if path.is_file():
        return path
    file = find_model_file(str(model))
    if file is None and any(str(model) == network.name for network in NAMED_MODELS):
        raise InputError(f"{model} is not in the cache; `bot models --fetch {model}` fetches it")
    return file or path
