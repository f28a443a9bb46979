"""The resources of the machine that this process may use."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Number of CPU cores that this process may use; in a container, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
