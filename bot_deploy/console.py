"""What `bot` shows on the terminal besides results: messages on stderr, from the verbs and from the library's log."""

from __future__ import annotations

import logging

import click

from bot_deploy import progress


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


def say(message: str) -> None:
    """Prints a line for the person at the terminal on stderr; stdout is for results."""
    click.echo(message, err=True)
