"""The built-in model: a small network that is part of this package; docs/model.md is its card."""

from __future__ import annotations

import contextlib
from pathlib import Path

from bot_deploy.errors import RunError
from bot_deploy.files import cache_folder

NAME = "box"
PATH = Path(__file__).with_name("box.onnx")
TERMS = (
    "for research only: it was trained on Market-1501 and other crops that were published for academic research, and "
    "distilled from Intel's person-reidentification-retail-0265 (Apache-2.0)"
)
MARKER = "box-terms-shown"  # in the cache of the user


def is_first_use() -> bool:
    """Whether the terms were not shown to this user before; True again where the cache cannot be written."""
    with contextlib.suppress(OSError, RunError):
        folder = cache_folder("models")
        if (folder / MARKER).exists():
            return False
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).touch()
    return True
