"""Seconds by stage: where the time of a run goes."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class StageTimer:
    """Adds up the seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)  # by stage

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Adds the seconds inside the `with` block to `stage`."""
        started = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - started
