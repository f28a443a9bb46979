"""Keeping freed memory: a fifth of a CPU step would otherwise go into page faults."""

from __future__ import annotations

import ctypes
import sys

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
KEEP = 2**31 - 1
PAD = 2**28  # bytes by which the heap grows at least


def keep_freed_memory() -> None:
    """Tells glibc not to return activations to the system after each step only to ask for them again."""
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    mallopt(M_TRIM_THRESHOLD, KEEP)
    mallopt(M_TOP_PAD, PAD)
    mallopt(M_MMAP_MAX, 0)  # M_MMAP_THRESHOLD would not do: glibc takes none above 32 MiB
