"""Reads an iterator in a thread, a few items ahead of its user."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

T = TypeVar("T")


def read_ahead(items: Iterable[T], count: int) -> Generator[T]:
    """Yields `items`; a thread reads up to `count` of them ahead. What `items` raises is raised here.

    Close it before what `items` reads from: then the thread has ended.
    """
    source, end = iter(items), object()
    with ThreadPoolExecutor(1, "read ahead") as pool:
        ahead = deque(pool.submit(next, source, end) for _ in range(count))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(pool.submit(next, source, end))
            yield item  # type: ignore[misc]
