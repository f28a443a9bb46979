"""Whether the tensors of a file are those of a network: for weights to start from and for imported checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from torch import Tensor

MAX_KEYS_SHOWN = 8
COUNTER = "num_batches_tracked"  # batch-norm's own; old files do not have it


def match_state_dict(
    given: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    optional: Collection[str] = (),
    file_keys: Mapping[str, str] | None = None,
    unknown: Iterable[str] = (),
) -> dict[str, Tensor]:
    """The whole state dict of a network: `given`, and the values of `expected` for optional keys that it lacks.

    Args:
        given: tensors by the keys of the network.
        expected: state dict of the network.
        optional: keys that may be missing; counters of batch-norm always may.
        file_keys: key of the network -> key in the file, for messages, where they differ.
        unknown: more keys of the file that have no place in the network.

    Raises:
        InputError: unknown keys, missing keys or other shapes; the message lists them.
    """
    names = file_keys or {}
    problems = {
        "unknown keys": [*unknown, *(names.get(key, key) for key in given if key not in expected)],
        "missing keys": [
            key for key in expected if key not in given and key not in optional and not key.endswith(COUNTER)
        ],
        "keys of another shape": [
            f"{names.get(key, key)} {list(value.shape)} instead of {list(expected[key].shape)}"
            for key, value in given.items()
            if key in expected and value.shape != expected[key].shape
        ],
    }
    message = "; ".join(f"{problem}: {list_keys(keys)}" for problem, keys in problems.items() if keys)
    if message:
        raise InputError(message)
    return {key: given.get(key, value) for key, value in expected.items()}


def list_keys(keys: Iterable[str]) -> str:
    """Some of `keys`, for a message."""
    keys = list(keys)
    return ", ".join(keys[:MAX_KEYS_SHOWN]) + (f", ... ({len(keys)} in all)" if len(keys) > MAX_KEYS_SHOWN else "")
