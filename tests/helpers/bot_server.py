"""`bot serve` as a process, asked over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "a key of the tests"  # of `--api-key env:SERVE_KEY`


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A running `bot serve`."""

    def __init__(self, model: Path, gallery: Path, *options: str) -> None:
        words = ["-m", "bot_deploy", "serve", "--model", model, "--gallery", gallery, "--port", "0", *options]
        self.process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "SERVE_KEY": KEY},
        )
        self.lines: list[str] = []
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.match(r"serving on http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            raise AssertionError(self.lines)
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr or ()))
        self.reader.start()

    def ask(self, method: str, path: str, body: bytes | None = None, key: str | None = KEY) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"X-API-Key": key} if key else {})
            response = connection.getresponse()
            return Answer(response.status, response.read(), dict(response.getheaders()))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.reader.join()
        assert self.process.stderr
        self.process.stderr.close()


@contextlib.contextmanager
def serving(model: Path, gallery: Path, *options: str) -> Iterator[Server]:
    server = Server(model, gallery, *options)
    try:
        yield server
    finally:
        server.close()
