"""JSON objects with a format number, as contracts and engine sidecars are stored."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def parse_fields(
    text: str, build: Callable[[dict[str, Any]], T], *, source: str, kind: str, version: int, remedy: str
) -> T:
    """`build(fields)` of the JSON object in `text`.

    Args:
        text: the document.
        build: makes the result; raises KeyError, TypeError or ValueError for fields that are missing or wrong.
        source: the file, for errors.
        kind: what the document is, for errors, such as "contract".
        version: the value that the field "format" must have.
        remedy: the end of each error.

    Raises:
        InputError: no JSON object, another format, or damaged.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise InputError(f"{source}: its {kind} is not readable; {remedy}")
    if fields.get("format") != version:
        raise InputError(
            f"{source}: {kind} format {fields.get('format')}, but this bot_deploy reads format {version}; {remedy}, "
            "or install the bot_deploy that wrote it"
        )
    try:
        return build(fields)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{source}: its {kind} is damaged ({error}); {remedy}") from None
