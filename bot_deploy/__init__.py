"""Person re-identification from training to deployment: train, export, match."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.embedder import Embedder, open_embedder
    from bot_deploy.errors import BotError

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent until the user installs a handler

__version__ = "0.1.0"
__all__ = ["BotError", "Contract", "Embedder", "open_embedder"]

_HOME = {"BotError": "errors", "Contract": "artifacts.contract", "Embedder": "embedder", "open_embedder": "embedder"}


def __getattr__(name: str) -> object:
    # Loaded when used, so that `import bot_deploy` and `bot --help` cost nothing.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
