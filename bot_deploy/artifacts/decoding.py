"""Values read from files become dataclasses here: types, ranges and field names are checked in one place."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

T = TypeVar("T")


def decode_json(text: str | bytes, source: str, kind: str, remedy: str) -> object:
    """The JSON document `text`; the other arguments are for errors, as in `decode_fields`."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # JSON has no NaN
        raise InputError(f"{source}: its {kind} is not readable; {remedy}") from None


def decode_fields(
    fields: object,
    cls: type[T],
    *,
    source: str,
    kind: str,
    remedy: str,
    version: int | None = None,
    optional: Collection[str] = (),
    check: Callable[[T], object] | None = None,
) -> T:
    """`cls(**fields)`, if every value has the type and the range of its annotation.

    Args:
        fields: a dictionary from a file, by field name.
        cls: a dataclass, whose annotations may hold `msgspec.Meta`.
        source: the file, for errors.
        kind: what the fields are, for errors, such as "contract".
        remedy: the end of each error.
        version: the value that the field "format" must have; None for no such field.
        optional: fields that older files lack; all others must be there.
        check: raises ValueError if the values do not fit together.

    Raises:
        InputError: no dictionary, another format, or damaged.
    """
    if not isinstance(fields, dict):
        raise InputError(f"{source}: its {kind} is not readable; {remedy}")
    if version is not None and (type(fields.get("format")) is not int or fields["format"] != version):
        raise InputError(
            f"{source}: {kind} format {str(fields.get('format'))[:40]}, but this bot_deploy reads format {version}; "
            f"{remedy}, or install the bot_deploy that wrote it"
        )
    try:
        _check_names(fields, cls, optional)
        decoded = msgspec.convert(fields, cls)
        if check:
            check(decoded)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{source}: its {kind} is damaged ({error}); {remedy}") from None
    return decoded


def _check_names(fields: Mapping[Any, object], cls: Any, optional: Collection[str]) -> None:
    names = {field.name for field in dataclasses.fields(cls)}
    unknown = [str(name)[:40] for name in fields if name not in names]
    missing = sorted(names - set(optional) - set(fields))
    if unknown or missing:
        raise ValueError(f"missing: {', '.join(missing)}" if missing else f"unknown: {', '.join(unknown[:3])}")
