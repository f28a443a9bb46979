"""Which model a command opens: a file, a network with a name, or the newest of all exports."""

from __future__ import annotations

from pathlib import Path


def choose_model(model: str | Path | None) -> Path:
    """The model file for --model or an argument MODEL.

    Args:
        model: a path; the name of a model (see `bot models`), which is fetched and wrapped at its first use; or None
            for the newest model.onnx under runs/.

    Raises:
        InputError: no such model.
        RunError: it cannot be fetched, or its runtime is missing.
    """
    from bot_deploy import runs
    from bot_deploy.artifacts import FILE_MODULES, check_model_file
    from bot_deploy.errors import InputError
    from bot_deploy.models.cache import find_artifact, find_model
    from bot_deploy.models.table import NamedModel, find_network

    if model is None:
        return runs.newest_model()
    network = find_network(str(model))
    if isinstance(network, NamedModel) and not Path(model).is_file() and not find_artifact(network.name):
        from bot_deploy.export.by_name import prepare_model

        return prepare_model(network)
    path = find_model(model)
    if not path.exists() and path.suffix not in FILE_MODULES:
        raise InputError(f"{path}: no such model file, and no name that `bot models` lists")
    check_model_file(path)
    return path
