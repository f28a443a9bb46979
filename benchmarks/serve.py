r"""A load test of `bot serve`: requests per second and their latency, beside the bare model on the same machine.

python benchmarks/serve.py --model box --images CROPS/ --clients 200 --seconds 20

Clients and server share the cores, so that the server alone is faster. A request is "lost" if it has no answer 200 with
the right embedding.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click
import numpy as np

from bot_deploy import images
from bot_deploy.embedder import open_embedder

MAX_ERROR = 1e-3  # of a number of an embedding; batches of other sizes round otherwise


def bare_rate(model: str, pictures: list[bytes], seconds: float) -> tuple[float, np.ndarray]:
    """Images per second of decode, resize and embedding without HTTP; and the embeddings."""
    embedder = open_embedder(model)
    vectors = embedder.embed([images.decode_image(data, "a picture") for data in pictures])
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        embedder.embed([images.decode_image(data, "a picture") for data in pictures])
        count += len(pictures)
    return count / (time.perf_counter() - started), vectors


class Clients:
    """Threads that ask one after the other for `seconds`."""

    def __init__(self, port: int, pictures: list[bytes], expected: np.ndarray, count: int, seconds: float) -> None:
        self.port, self.pictures, self.expected = port, pictures, expected
        self.latencies: list[float] = []
        self.lost: list[str] = []
        self.end = time.perf_counter() + seconds
        started = time.perf_counter()
        threads = [threading.Thread(target=self.ask, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.seconds = time.perf_counter() - started

    def ask(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        while time.perf_counter() < self.end:
            which = number % len(self.pictures)
            number += 1
            started = time.perf_counter()
            try:
                connection.request("POST", "/embed", self.pictures[which])
                response = connection.getresponse()
                answer = json.loads(response.read())
                error = np.abs(np.array(answer.get("embedding", np.inf)) - self.expected[which]).max()
                if response.status != http.HTTPStatus.OK or error > MAX_ERROR:
                    self.lost.append(f"{response.status}: {str(answer)[:80]}")
            except (OSError, http.client.HTTPException) as reason:
                self.lost.append(repr(reason))
                connection.close()
            self.latencies.append(time.perf_counter() - started)


@click.command()
@click.option("--model", default="box", show_default=True)
@click.option("--images", "folder", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--clients", "counts", multiple=True, type=int, default=(1, 16, 200), show_default=True)
@click.option("--seconds", default=20.0, show_default=True)
def main(model: str, folder: Path, counts: tuple[int, ...], seconds: float) -> None:
    """Prints the table of benchmarks/README.md."""
    pictures = [path.read_bytes() for path in images.find_images(folder)[:64]]
    rate, expected = bare_rate(model, pictures, seconds / 2)
    print(f"bare model: {rate:.0f} images/s with decoding, batches of 32\n")
    print("| clients | requests/s | share of the bare model | p50 | p99 | lost |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "bot_deploy", "serve", "--model", model, "--port", "0"]
        with subprocess.Popen(
            [*command, "--gallery", f"{temporary}/people.gallery"], stderr=subprocess.PIPE, text=True
        ) as server:
            assert server.stderr
            port = next(int(found[1]) for line in server.stderr if (found := re.search(r"serving on \S+:(\d+)$", line)))
            for count in counts:
                run = Clients(port, pictures, expected, count, seconds)
                p50, p99 = np.percentile(run.latencies, [50, 99]) * 1000
                per_second = len(run.latencies) / run.seconds
                print(
                    f"| {count} | {per_second:.0f} | {100 * per_second / rate:.0f} % | {p50:.0f} ms | {p99:.0f} ms | "
                    f"{len(run.lost)} |"
                )
                for reason in sorted(set(run.lost))[:3]:
                    print(f"lost: {reason}", file=sys.stderr)
            server.terminate()


if __name__ == "__main__":
    main()
