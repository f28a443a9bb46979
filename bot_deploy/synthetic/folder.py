"""A folder that appears at once when it is complete."""

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
def whole_folder(out: Path) -> Iterator[Path]:
    """Yields a folder beside `out`, which must not exist or be empty; on success it takes the place of `out`.

    Whatever interrupts leaves nothing behind.

    Raises:
        InputError: `out` holds something, or cannot be created.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not an empty folder; choose another one or empty it")
    out = out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out}: cannot be created ({error.strerror}); choose a folder you may write to") from None
    try:
        half.chmod(0o755)  # mkdtemp makes it private
        yield half
        if out.exists():
            out.rmdir()
        half.rename(out)
    finally:
        shutil.rmtree(half, ignore_errors=True)
