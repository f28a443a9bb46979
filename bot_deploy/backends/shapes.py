"""The check that a network and its contract belong together, for every backend that shows the shapes of a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot_deploy.artifacts.contract import INPUT_NAME, OUTPUT_NAME
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bot_deploy.artifacts.contract import Contract


def check_shapes(shapes: Mapping[str, tuple[object, ...]], contract: Contract, path: Path | str, remedy: str) -> None:
    """Checks the shapes of all inputs and outputs, by name, against `contract`; the batch size may be any.

    Raises:
        InputError: they differ; the message names the file or address `path`, and `remedy`, what to do.
    """
    expected = {INPUT_NAME: (contract.height, contract.width, 3), OUTPUT_NAME: (contract.dim,)}
    if {name: shape[1:] for name, shape in shapes.items()} != expected:
        raise InputError(f"{path}: its inputs and outputs are {dict(shapes)}, not what its contract says; {remedy}")
