"""Progress on stderr for whatever may take long; silent when stderr is not a terminal."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")


def track(items: Iterable[T], label: str | None, total: int | None = None) -> Iterator[T]:
    """`items`, one by one, with a bar that shows `label`, the count and the time left; none without a label."""
    hidden = label is None or not sys.stderr.isatty()
    with click.progressbar(items, length=total, label=label, show_pos=True, file=sys.stderr, hidden=hidden) as bar:
        yield from bar


def say(message: str) -> None:
    """A line for the person at the terminal; stdout is kept for results."""
    click.echo(message, err=True)


@contextmanager
def count(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that reports by itself: yields a function of (done, total)."""
    with click.progressbar(
        length=1, label=label, show_pos=True, file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:

        def update(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield update
