"""Files that are never seen half written, and the folders of what is kept between runs."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable


def cache_folder(name: str) -> Path:
    """The folder `name`, which need not exist, in the user's cache of this program.

    Raises:
        RunError: this user has no home folder.
    """
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise RunError("no home folder to keep files in; name a folder in the variable XDG_CACHE_HOME") from None
    return home / "bot-deploy" / name


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
