"""The terms of models are said once to each user, whichever command uses a model first."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from bot_deploy.errors import RunError
from bot_deploy.files import cache_folder

if TYPE_CHECKING:
    from .table import NamedNetwork

logger = logging.getLogger(__name__)


def is_first_use(name: str) -> bool:
    """Whether the terms of the model `name` were not shown before; True again where the cache cannot be written."""
    with contextlib.suppress(OSError, RunError):
        folder = cache_folder("models")
        marker = folder / f"{name}-terms-shown"
        if marker.exists():
            return False
        folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
    return True


def log_terms(network: NamedNetwork) -> None:
    """Logs licence and terms of `network`, if that was not done before."""
    if is_first_use(network.name):
        logger.info(f"{network.name}: {network.terms}")
