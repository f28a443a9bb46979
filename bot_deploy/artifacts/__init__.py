"""Model files on disk: ONNX files, OpenVINO IR, TensorRT engines and checkpoints, each with its contract."""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot_deploy.errors import BotError, InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bot_deploy.artifacts.contract import Contract

# file suffix -> the module that reads and writes such a file
FILE_MODULES = {".onnx": "onnx_file", ".engine": "engine_file", ".pt": "checkpoint", ".xml": "ir_file"}


def read_contract(path: str | Path) -> Contract:
    """The contract of the model file at `path`, without a runtime; only a checkpoint needs PyTorch.

    Args:
        path: an .onnx, an .engine with its sidecar, an .xml with its .bin, or a .pt checkpoint.

    Raises:
        InputError: no such file, not a model of bot_deploy, or damaged.
    """
    contract: Contract = _file_module(path).read_contract(Path(path))
    return contract


def write_contract(path: str | Path, contract: Contract) -> None:
    """Replaces the contract of the model file at `path`; the weights stay as they are.

    Raises:
        InputError: as `read_contract`; or a value in `contract` is out of its range.
        RunError: the file cannot be written.
    """
    from bot_deploy.artifacts.contract import from_json

    from_json(contract.to_json(), str(path))  # what could not be read again is not written
    _file_module(path).write_contract(Path(path), contract)


def check_model_file(path: str | Path) -> None:
    """Refuses what cannot be a model file.

    Raises:
        InputError: a folder, a missing file, or a suffix that no model has.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: a folder; name the model in it, such as {path / 'model.onnx'}")
    if not path.is_file():
        raise InputError(f"{path}: no such model file; `bot export` writes one")
    if path.suffix not in FILE_MODULES:
        raise InputError(f"{path}: models end in {' or '.join(FILE_MODULES)}")


@contextmanager
def refuse_replacement(path: Path) -> Iterator[None]:
    """Raises RunError if the model file at `path` is replaced inside the `with` block.

    A contract and weights that are read one after the other would be of two models.
    """
    before = _file_stamps(path)
    try:
        yield
    except BotError:
        if _file_stamps(path) == before:
            raise
    if _file_stamps(path) != before:
        raise RunError(f"{path}: was replaced while it was opened; try again")


def companion_files(path: Path) -> list[Path]:
    """The files of the model at `path`, itself first: an .xml has weights beside it, an .engine its contract."""
    if path.suffix == ".xml":
        return [path, path.with_suffix(".bin")]
    if path.suffix == ".engine":
        from bot_deploy.artifacts.engine_file import sidecar_path

        return [path, sidecar_path(path)]
    return [path]


def _file_stamps(path: Path) -> list[tuple[int, int, int, int]]:
    """Inode, size and times of a model file, and of the weights beside an .xml."""
    stats = [file.stat() for file in (path, path.with_suffix(".bin")) if file.is_file()]
    return [(stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats]


def _file_module(path: str | Path) -> Any:
    # Imported by name, so that only checkpoints import PyTorch.
    check_model_file(path)
    return import_module(f"{__name__}.{FILE_MODULES[Path(path).suffix]}")
