"""What this process may use of the machine."""

from __future__ import annotations

import os


def available_cores() -> int:
    """The CPUs, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
