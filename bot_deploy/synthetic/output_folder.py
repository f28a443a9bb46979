"""An output folder that appears only when it is complete."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `out` and renames it to `out` at the end; an error or interrupt removes it.

    Raises:
        InputError: `out` exists and is not an empty folder, or it cannot be created.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not an empty folder; choose another one or empty it")
    out = out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out}: cannot be created ({error.strerror}); choose a folder you may write to") from None
    try:
        temporary.chmod(0o755)  # mkdtemp creates it with mode 0700
        yield temporary
        if out.exists():
            out.rmdir()
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
