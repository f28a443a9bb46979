"""Settings that make training on a CPU faster: of the C library's memory allocator, and of tiny numbers.

They hold for the whole process, so only the command line and benchmarks change them.
"""

from __future__ import annotations

import ctypes
import sys

import torch

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TRIM_THRESHOLD_BYTES = 2**31 - 1  # the largest
HEAP_GROWTH_BYTES = 2**28


def speed_up_cpu() -> None:
    """Sets all of it; before the first computation, because threads take their settings from the one that starts them.

    Numbers below 1e-38 count as zero: the gradients of a network that is nearly trained hold many, and a CPU computes
    with each of them many times slower. They are too small to change a weight.
    """
    keep_freed_memory()
    torch.set_flush_denormal(True)


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step; a fifth of a step on a CPU would be page faults otherwise."""
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)
    mallopt(M_TOP_PAD, HEAP_GROWTH_BYTES)
    mallopt(M_MMAP_MAX, 0)  # no mmap at all: glibc limits M_MMAP_THRESHOLD to 32 MiB
