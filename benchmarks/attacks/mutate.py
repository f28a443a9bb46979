"""Damage by chance: of bytes, and of documents of lists and dictionaries."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

HEADER_BYTES = 64
NUMBERS = (0, -1, 1, 2, 255, 65_536, 1.5, 1e-30, -5, 2**31, 2**63, 10**400, 1e308, math.nan, math.inf, -math.inf, True)
TEXTS = ("", "x", "\0", "\udc80", "é☃", "../../x", "nan", "1", "\x1b[31m", "\u202e", "y" * 100_000)


def damage(data: bytes, rng: random.Random) -> bytes:
    """`data` with some of it flipped, overwritten, cut, dropped, repeated or emptied."""
    changed = bytearray(data)
    way = rng.choice(("flip", "flip", "flip", "header", "cut", "overwrite", "drop", "repeat", "zeros", "end"))
    start = rng.randrange(len(data)) if data else 0
    length = rng.choice((1, 2, 4, 16, 200))
    if way in {"flip", "header"}:
        reach = min(len(data), HEADER_BYTES) if way == "header" else len(data)
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            if reach:
                changed[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    elif way == "cut":
        del changed[start:]
    elif way == "drop":
        del changed[start : start + length]
    elif way == "repeat":
        changed[start:start] = changed[start : start + length]
    elif way == "end":
        changed += random_bytes(rng, length)
    else:
        part = changed[start : start + length]
        changed[start : start + length] = bytes(len(part)) if way == "zeros" else random_bytes(rng, len(part))
    return bytes(changed)


def random_bytes(rng: random.Random, length: int) -> bytes:
    return bytes(rng.randrange(256) for _ in range(length))


def odd_value(rng: random.Random, others: tuple[Any, ...] = ()) -> Any:
    """A value that a field hardly expects."""
    leaf = rng.choice((*NUMBERS, *TEXTS, None, *others))
    return rng.choice((leaf, leaf, leaf, [leaf], [leaf, leaf, 1], {"a": leaf}))


def damage_document(document: Any, rng: random.Random, others: tuple[Any, ...] = ()) -> Any:
    """A copy of `document` with one to three values replaced, deleted, added or repeated."""
    ways = ("replace", "replace", "replace", "delete", "add", "repeat")
    changes = [(rng.randrange(10_000), rng.choice(ways), odd_value(rng, others)) for _ in range(rng.randint(1, 3))]
    return change_document(document, changes)


def change_document(document: Any, changes: Iterable[tuple[int, str, Any]]) -> Any:
    """A copy of `document`, a tree of dictionaries and lists, with `changes`.

    A change is (place, way, value): the number of a place in the tree, counted round and round; "replace", "delete",
    "add" or "repeat"; the new value.
    """
    document = copy.deepcopy(document)
    for number, way, value in changes:
        places: list[tuple[Any, Any]] = []
        remaining = [document]
        while remaining:
            node = remaining.pop()
            keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
            places += [(node, key) for key in keys]
            remaining += [node[key] for key in keys]
        if not places:
            break
        node, key = places[number % len(places)]
        if way == "replace":
            node[key] = value
        elif way == "delete":
            del node[key]
        elif isinstance(node, dict):
            node[f"{key} more" if way == "add" else f"{key}"] = value
        else:
            node.append(node[key] if way == "repeat" else value)
    return document
