"""The resources of the machine that this process may use."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

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


# what speeds a model up, or makes it exact -> its names in Linux
CPU_FEATURES = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "bfloat16": ("avx512_bf16", "amx_bf16"),
}


@cache
def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""


def cpu_name() -> str:
    """The name of the CPU, as its maker gives it where the system tells."""
    for line in _cpu_info().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_features() -> tuple[str, ...] | None:
    """Those of CPU_FEATURES that this CPU has; None if the system does not tell."""
    words = set(_cpu_info().split())
    return tuple(name for name, flags in CPU_FEATURES.items() if words & set(flags)) if words else None
