"""Person re-identification from training to deployment.

Each name is imported at its first use, so that `import bot_deploy` is fast and imports no torch. Training is in
`bot_deploy.train`, export in `bot_deploy.export`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bot_deploy.artifacts.contract import Calibration, Contract
    from bot_deploy.datasets import open_dataset
    from bot_deploy.embedder import Embedder, open_embedder
    from bot_deploy.errors import BotError, ImageError, InputError, ParityError, RunError
    from bot_deploy.evaluation.metrics import evaluate
    from bot_deploy.evaluation.protocol import evaluate_dataset
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
    "evaluate_dataset",
    "k_reciprocal",
    "match",
    "open_dataset",
    "open_embedder",
    "open_gallery",
    "read_image",
]

_PACKAGES = {"export", "train"}  # `bot_deploy.train` works without an import of its own
# name -> the module that defines it
_MODULES = {
    "Calibration": "artifacts.contract",
    "Contract": "artifacts.contract",
    "Embedder": "embedder",
    "open_embedder": "embedder",
    **dict.fromkeys(("BotError", "ImageError", "InputError", "ParityError", "RunError"), "errors"),
    "calibrate": "matching.calibrate",
    "evaluate": "evaluation.metrics",
    "evaluate_dataset": "evaluation.protocol",
    "k_reciprocal": "evaluation.rerank",
    "match": "matching.match",
    "open_dataset": "datasets",
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
    return sorted([*__all__, *_PACKAGES, "__version__"])
