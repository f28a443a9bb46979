"""Counters of the service, as text for Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

import threading
from collections import Counter
from itertools import accumulate

# Upper bounds of the histogram, in seconds.
LATENCY_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """What the service counts; all methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()  # (method, route, status)
        self._latencies = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self._seconds = 0.0
        self._batches = self._images = 0

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts an answered request; `route` is a path of the service, without the parts that requests choose."""
        with self._lock:
            self._requests[method, route, status] += 1
            self._latencies[sum(seconds > bound for bound in LATENCY_BOUNDS_S)] += 1
            self._seconds += seconds

    def count_batch(self, images: int) -> None:
        """Counts a batch of `images` embedded images."""
        with self._lock:
            self._batches += 1
            self._images += images

    def text(self, gauges: dict[str, tuple[str, float]]) -> str:
        """All counters, and `gauges`: name -> (what it is, value now)."""
        with self._lock:
            lines = _header("bot_requests_total", "counter", "Requests that were answered.")
            lines += [
                f'bot_requests_total{{method="{method}",route="{route}",status="{status}"}} {count}'
                for (method, route, status), count in sorted(self._requests.items())
            ]
            lines += _header("bot_request_seconds", "histogram", "Time to answer a request.")
            bounds = [*map(str, LATENCY_BOUNDS_S), "+Inf"]
            lines += [
                f'bot_request_seconds_bucket{{le="{bound}"}} {count}'
                for bound, count in zip(bounds, accumulate(self._latencies), strict=True)
            ]
            lines += [
                f"bot_request_seconds_sum {self._seconds:.6f}",
                f"bot_request_seconds_count {sum(self._latencies)}",
            ]
            for name, text, value in (
                ("bot_batches_total", "Batches that the model ran.", self._batches),
                ("bot_images_total", "Images that were embedded.", self._images),
            ):
                lines += [*_header(name, "counter", text), f"{name} {value}"]
        for name, (text, number) in gauges.items():
            lines += [*_header(name, "gauge", text), f"{name} {number:g}"]
        return "\n".join(lines) + "\n"


def _header(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
