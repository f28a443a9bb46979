"""Where runs live by default, and which one is meant when none is named."""

from __future__ import annotations

from pathlib import Path

from bot_deploy.errors import InputError

RUNS = Path("runs")


def newest_file(pattern: str, remedy: str, root: Path = RUNS) -> Path:
    """The file that matches `pattern` at any depth under `root` and was written last."""
    found = sorted(root.rglob(pattern), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"no {pattern} under {root}/; {remedy}")
    return found[-1]


def new_folder(name: str, root: Path = RUNS) -> Path:
    """`root`/name, or name-2, name-3, ... where that exists."""
    folder, number = root / name, 1
    while folder.exists():
        number += 1
        folder = root / f"{name}-{number}"
    return folder
