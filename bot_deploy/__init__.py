"""Person re-identification from training to deployment: train, export, match.

The names below are loaded when they are used, so that `import bot_deploy` costs nothing and imports no torch.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bot_deploy import export, train
    from bot_deploy.artifacts.contract import Calibration, Contract
    from bot_deploy.embedder import Embedder, open_embedder
    from bot_deploy.errors import BotError, ImageError, InputError, ParityError, RunError
    from bot_deploy.evaluation.metrics import evaluate
    from bot_deploy.evaluation.rerank import k_reciprocal
    from bot_deploy.gallery import open_gallery
    from bot_deploy.images import read_image
    from bot_deploy.matching.calibrate import calibrate
    from bot_deploy.matching.match import match

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent until the user installs a handler

__version__ = "0.1.0"
__all__ = [
    "BotError",
    "Calibration",
    "Contract",
    "Embedder",
    "ImageError",
    "InputError",
    "ParityError",
    "RunError",
    "calibrate",
    "evaluate",
    "export",
    "k_reciprocal",
    "match",
    "open_embedder",
    "open_gallery",
    "read_image",
    "train",
]

_PACKAGES = {"export", "train"}
# name -> the module that defines it
_MODULES = {
    "Calibration": "artifacts.contract",
    "Contract": "artifacts.contract",
    "Embedder": "embedder",
    "open_embedder": "embedder",
    **dict.fromkeys(("BotError", "ImageError", "InputError", "ParityError", "RunError"), "errors"),
    "calibrate": "matching.calibrate",
    "evaluate": "evaluation.metrics",
    "k_reciprocal": "evaluation.rerank",
    "match": "matching.match",
    "open_gallery": "gallery",
    "read_image": "images",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
