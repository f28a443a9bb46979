"""The resources of the machine that this process may use."""

from __future__ import annotations

import os

from bot_deploy.choices import MAX_THREADS
from bot_deploy.errors import InputError


def available_cores() -> int:
    """Number of CPU cores that this process may use; in a container, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(threads: int) -> int:
    """`threads`, or the number of available cores for 0.

    Raises:
        InputError: below 0 or above MAX_THREADS.
    """
    if not 0 <= threads <= MAX_THREADS:
        raise InputError(f"{threads} threads; choose up to {MAX_THREADS}, or 0 for all cores", parameter="threads")
    return threads or available_cores()
