"""A request to an application of `bot_deploy.serving`, without a server and without another thread."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI


def ask(app: FastAPI, method: str, path: str, body: bytes = b"", **client: str) -> tuple[int, Any]:
    """As `answer`, outside a loop."""
    return asyncio.run(answer(app, method, path, body, **client))


async def answer(
    app: FastAPI, method: str, path: str, body: bytes = b"", *, host: str = "localhost", end: str = "whole"
) -> tuple[int, Any]:
    """The status and the JSON of the answer of `app`; after the body, the client may have `end` "gone" or "silent"."""
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
        "headers": [(b"host", host.encode())],
        "server": ("localhost", 80),
    }
    sent: list[dict[str, Any]] = []

    request = asyncio.Queue[dict[str, Any]]()
    request.put_nowait({"type": "http.request", "body": body, "more_body": end != "whole"})
    if end == "gone":
        request.put_nowait({"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    try:
        await app(scope, request.get, send)
    except Exception:
        if not sent:  # Starlette answers, and raises the error again for the log of the server
            raise
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent))
