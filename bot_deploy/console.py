"""What `bot` prints: results on stdout, messages and the library's log on stderr. Every line passes `_visible`."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from contextlib import suppress
from typing import IO, TYPE_CHECKING

import click

from bot_deploy import progress
from bot_deploy.addresses import mask_addresses
from bot_deploy.choices import MAX_NAMED_FILES
from bot_deploy.escaping import escape, json_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_results: IO[str] | None = None  # the process's stdout after `reserve_stdout`; None: sys.stdout


class _StderrHandler(logging.Handler):
    """Prints log records as plain lines on the present sys.stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def show_library_output() -> None:
    """Shows the library's log and its progress bars on stderr."""
    logger = logging.getLogger("bot_deploy")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        logger.addHandler(_StderrHandler())
    progress.show_bars()


def show(*lines: str) -> None:
    """Prints `lines` of a result on stdout."""
    _print_results("\n".join(map(_visible, lines)))


def show_json(document: object) -> None:
    """Prints the JSON `document` on stdout."""
    _print_results(json.dumps(mask_document(document)).replace("\x7f", r"\u007f"))


def show_json_line(document: object) -> None:
    """Prints `document` as one line of a file of JSON lines on stdout."""
    _print_results(json_line(mask_document(document)))


def say(*lines: str) -> None:
    """Prints `lines` for the person at the terminal on stderr; stdout is for results."""
    click.echo("\n".join(map(_visible, lines)), err=True)


def say_left_out(messages: Sequence[object], rest: str = "--json names all of them") -> None:
    """Prints which files are left out and why: the first ten, then how many more; `rest` says where the others are."""
    for message in messages[:MAX_NAMED_FILES]:
        say(f"left out: {message}")
    if len(messages) > MAX_NAMED_FILES:
        say(f"left out: {len(messages) - MAX_NAMED_FILES} more files; {rest}")


def say_warning(message: Warning | str, category: type[Warning], *place: object, **others: object) -> None:
    """Prints a warning of Python, which may hold foreign text, on one line; `warnings.showwarning` here."""
    del place, others
    say(f"{category.__name__}: {message}")


def say_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints an unexpected error with its traceback; `sys.excepthook` of the command line."""
    say(*"".join(traceback.format_exception(kind, error, trace)).rstrip("\n").split("\n"))


def reserve_stdout() -> None:
    """Keeps stdout for `show`: what other libraries print there, in Python or in C, goes to stderr from now on.

    Nothing changes where sys.stdout is not the stdout of the process, and there is no way back: a C library may print
    at the very end.
    """
    global _results  # noqa: PLW0603 - a process has one stdout
    with suppress(OSError, ValueError, AttributeError):  # stdout or stderr is closed, or replaced
        if _results is None and (sys.stdout.fileno(), sys.stderr.fileno()) == (1, 2):
            sys.stdout.flush()
            _results = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors="backslashreplace")
            os.dup2(2, 1)
            sys.stdout = sys.stderr


def close_output() -> None:
    """Drops what cannot be printed any more, because its reader has ended. Python would fail on it again at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr, _results):
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]


def mask_document(document: object) -> object:
    """A JSON document whose addresses are shown without their secrets."""
    if isinstance(document, str):
        return mask_addresses(document)
    if isinstance(document, dict):
        return {key: mask_document(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [mask_document(value) for value in document]
    return document


def _visible(line: str) -> str:
    return escape(mask_addresses(line))


def _print_results(text: str) -> None:
    if _results is None:
        click.echo(text)
    else:
        _results.write(f"{text}\n")
        _results.flush()
