"""What `bot` shows on the terminal besides results: messages on stderr, from commands and from the library's log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import click

from bot_deploy import progress

if TYPE_CHECKING:
    from collections.abc import Sequence


class _StderrHandler(logging.Handler):
    """Prints log records as plain lines on the present sys.stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


def show_library_output() -> None:
    """Shows the library's log and its progress bars on stderr."""
    logger = logging.getLogger("bot_deploy")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        logger.addHandler(_StderrHandler())
    progress.show_bars()


MAX_NAMED_FILES = 10  # a hundred thousand lines would hide every other message


def say_left_out(messages: Sequence[object], rest: str = "--json names all of them") -> None:
    """Prints which files are left out and why: the first ten, then how many more; `rest` says where the others are."""
    for message in messages[:MAX_NAMED_FILES]:
        say(f"left out: {message}")
    if len(messages) > MAX_NAMED_FILES:
        say(f"left out: {len(messages) - MAX_NAMED_FILES} more files; {rest}")


def say(message: str) -> None:
    """Prints a line for the person at the terminal on stderr; stdout is for results."""
    click.echo(message, err=True)
