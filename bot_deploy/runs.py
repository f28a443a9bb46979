"""The folder of runs, and the newest file in it."""

from __future__ import annotations

from pathlib import Path

from bot_deploy.errors import InputError

RUNS = Path("runs")
ONNX_NAME, CHECKPOINT_NAME = "model.onnx", "model.pt"


def newest_model(root: Path = RUNS) -> Path | None:
    """The model.onnx under `root` that was written last, which `bot match` takes by default; None if there is none."""
    return _newest(ONNX_NAME, root)


def newest_file(pattern: str, remedy: str, root: Path = RUNS) -> Path:
    """The file under `root`, at any depth, that matches `pattern` and was written last.

    Raises:
        InputError: there is none; the message ends with `remedy`.
    """
    newest = _newest(pattern, root)
    if newest is None:
        raise InputError(f"no {pattern} under {root}/; {remedy}")
    return newest


def _newest(pattern: str, root: Path) -> Path | None:
    return max(root.rglob(pattern), key=lambda path: path.stat().st_mtime, default=None)


def new_folder(name: str, root: Path = RUNS) -> Path:
    """`root`/name, or name-2, name-3 and so on where that exists."""
    folder, number = root / name, 1
    while folder.exists():
        number += 1
        folder = root / f"{name}-{number}"
    return folder
