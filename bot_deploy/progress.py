"""Progress bars on stderr for work that may take long; off until `show_bars`, which the command line calls."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")


class ProgressReport(Protocol):
    """Reports the progress of work."""

    def __call__(self, finished: int, total: int, note: str = "") -> None: ...


_bars_shown = False  # a library writes nothing to the terminal by itself


def show_bars() -> None:
    """Shows progress bars from now on, where stderr is a terminal."""
    global _bars_shown  # noqa: PLW0603 - one switch for the process: there is one terminal
    _bars_shown = True


def show_progress(items: Iterable[T], progress_text: str | None, total: int | None = None) -> Iterator[T]:
    """Yields `items` and shows a progress bar with `progress_text`, the count and the time left; None shows no bar."""
    hidden = progress_text is None or not _bars_possible()
    with click.progressbar(
        items, length=total, label=progress_text, show_pos=True, file=sys.stderr, hidden=hidden
    ) as bar:
        yield from bar


@contextmanager
def progress_counter(progress_text: str, done: int = 0) -> Iterator[ProgressReport]:
    """A progress bar for work that reports its own progress: yields a function of (items finished, items in all).

    A third argument is a note behind the bar, such as the speed. `done` items were finished by an earlier run: they
    count as finished, but not for the time left.
    """
    with click.progressbar(
        length=1,
        label=progress_text,
        show_pos=True,
        file=sys.stderr,
        hidden=not _bars_possible(),
        item_show_func=lambda note: note,
    ) as bar:
        begun, bar.pos = time.time(), done

        def update(finished: int, total: int, note: str = "") -> None:
            bar.length = total
            if done and finished > done:  # click divides the time since `start` by all that is finished
                now = time.time()
                bar.start = now - (now - begun) * finished / (finished - done)
            if finished > done or not done:
                bar.update(finished - bar.pos, note)

        yield update


def _bars_possible() -> bool:
    return _bars_shown and sys.stderr.isatty()
