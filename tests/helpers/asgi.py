"""A request to an application of `bot_deploy.serving`, without a server and without another thread."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI


def ask(app: FastAPI, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
    """The status and the JSON of the answer of `app`."""
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost")],
        "server": ("localhost", 80),
    }
    sent: list[dict[str, Any]] = []

    async def run() -> None:
        request = asyncio.Queue[dict[str, Any]]()
        request.put_nowait({"type": "http.request", "body": body})

        async def send(message: Any) -> None:
            sent.append(message)

        try:
            await app(scope, request.get, send)
        except Exception:
            if not sent:  # Starlette answers, and raises the error again for the log of the server
                raise

    asyncio.run(run())
    answer = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(answer)
