"""Files that are never seen half written."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from bot_deploy.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`write` fills a neighbour of `path`, which takes its place only when it is safely on disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save on a full disk raises the latter
        raise RunError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    finally:
        with contextlib.suppress(OSError):  # gone by now, or never begun
            temporary.unlink()
