"""Runs the application: uvicorn on a socket of ours, until a signal ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING

import uvicorn

from bot_deploy.console import say
from bot_deploy.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI

GRACE_S = 30  # that requests may take after the signal
MAX_CONNECTIONS = 1000  # more get 503; each may hold an upload in memory


@contextlib.contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """Yields a socket that listens; port 0 is any free one.

    Raises:
        RunError: the address cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        connection = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        # Python adds the address to the text of the system.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise RunError(f"{host}:{port}: cannot be listened on ({reason})", parameter="port") from None
    with connection:
        yield connection


def run(app: FastAPI, connection: socket.socket) -> None:
    """Serves `app` until Ctrl-C or SIGTERM; requests that run already are answered."""
    host, port = connection.getsockname()[:2]
    say(f"serving on http://{f'[{host}]' if ':' in host else host}:{port}")
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        limit_concurrency=MAX_CONNECTIONS,
    )
    _Server(config).run(sockets=[connection])
    say("ended")


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but the signal is not raised again at the end: the service has done its work."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
