"""Ctrl-C at any moment, also during imports and at the end, is one line and exit code 130."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

EXIT_CODE = 130
MESSAGE = "bot: interrupted"
SHOW_CURSOR = b"\x1b[?25h"  # progress bars hide it
IMPORT_SYSTEM = "<frozen importlib"  # file name of its frames

_exits_at_once = True  # until `start_work`, and after the first Ctrl-C


def handle_interrupts() -> None:
    """Installs the handler of Ctrl-C. Where the process ignores Ctrl-C, as a background job does, it goes on to."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
        sys.unraisablehook = _unraisable
        # The first function that is registered runs last: then the results are out, and Python takes itself apart.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def start_work() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, so that files are closed; a second one ends the process at once."""
    global _exits_at_once  # noqa: PLW0603 - one switch for the process, as the handler is
    _exits_at_once = False


def end_work() -> None:
    """From now on Ctrl-C ends the process at once: nothing is left to close."""
    global _exits_at_once  # noqa: PLW0603
    _exits_at_once = True


def interrupt(number: int, frame: FrameType | None) -> None:
    """The handler of Ctrl-C."""
    # Modules turn a KeyboardInterrupt in their imports into other errors, or go on without what they import.
    if _exits_at_once or _is_importing(frame):
        exit_now()
    end_work()
    signal.default_int_handler(number, frame)


@contextmanager
def blocked() -> Iterator[None]:
    """Inside, a Ctrl-C waits. Processes that are started here never get one; a terminal sends it to all of them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def quiet_resource_tracker() -> Iterator[None]:
    """Inside, the process that frees the semaphores of a pool starts without its warning.

    When Ctrl-C ends this process at once, that process frees them and would print that it did, after our line.
    """
    option = "ignore::UserWarning:multiprocessing.resource_tracker"
    sys.warnoptions.append(option)  # Python passes them on to the processes of multiprocessing
    try:
        yield
    finally:
        sys.warnoptions.remove(option)


def exit_now() -> None:
    """Prints the line and ends the process. What it wrote is complete or absent, as after `kill`."""
    line = f"{MESSAGE}\n".encode()
    try:
        os.write(2, SHOW_CURSOR + line if os.isatty(2) else line)
    finally:
        os._exit(EXIT_CODE)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith(IMPORT_SYSTEM):
            return True
        frame = frame.f_back
    return False


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Python drops an exception in a destructor or callback; a Ctrl-C there must not get lost."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        exit_now()
    sys.__unraisablehook__(unraisable)
