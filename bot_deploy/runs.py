"""The folder of runs, and the newest file in it."""

from __future__ import annotations

from pathlib import Path

from bot_deploy.errors import InputError

RUNS = Path("runs")
ONNX_NAME, CHECKPOINT_NAME = "model.onnx", "model.pt"


def newest_model(root: Path = RUNS) -> Path:
    """The model.onnx under `root` that was written last: what `open_embedder` and `bot match` take by default.

    Raises:
        InputError: there is none.
    """
    return newest_file(ONNX_NAME, "`bot export` writes one, or name a model", root, parameter="model")


def newest_file(pattern: str, remedy: str, root: Path = RUNS, *, parameter: str = "") -> Path:
    """The file under `root`, at any depth, that matches `pattern` and was written last.

    Raises:
        InputError: there is none; the message ends with `remedy` and names `parameter`.
    """
    files = sorted(root.rglob(pattern), key=lambda path: path.stat().st_mtime)
    if not files:
        raise InputError(f"no {pattern} under {root}/; {remedy}", parameter=parameter)
    return files[-1]


def new_folder(name: str, root: Path = RUNS) -> Path:
    """`root`/name, or name-2, name-3 and so on where that exists."""
    folder, number = root / name, 1
    while folder.exists():
        number += 1
        folder = root / f"{name}-{number}"
    return folder
