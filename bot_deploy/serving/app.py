"""The application of the service: its routes and pages, what is counted, and errors as JSON."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from bot_deploy import __version__
from bot_deploy.errors import BotError, ImageError, InputError, UnavailableError
from bot_deploy.machine import available_cores

from .batcher import BusyError
from .people import TakenNameError, UnknownPersonError
from .routes import Settings, check_key, check_origin, open_routes, routes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from .service import Service

logger = logging.getLogger(__name__)

# error of the library -> status; the first that fits
STATUSES: tuple[tuple[type[BotError], int], ...] = (
    (UnknownPersonError, 404),
    (TakenNameError, 409),
    (ImageError, 400),
    (InputError, 400),
    (BusyError, 503),
    (UnavailableError, 503),
)
METHODS = frozenset({"GET", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS", "PUT"})  # that are counted under their names
# The pages load nothing from elsewhere, and no other page may show them.
PAGE_POLICY = (
    "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self' blob:; "
    "frame-ancestors 'none'"
)


def create_app(service: Service, api_key: str | None, max_upload_bytes: int, host: str = "localhost") -> FastAPI:
    """The application.

    Args:
        service: it is closed when the application ends.
        api_key: every request needs it in the header X-API-Key, but for the pages, /openapi.json and /health; None lets
            everybody in.
        max_upload_bytes: largest body of a request.
        host: a name of this machine, under which a service without a key answers too.

    Raises:
        InputError: a key that no header can hold.
    """
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise InputError("a key has letters, digits and signs of ASCII only, without line breaks", parameter="api_key")
    app = FastAPI(
        title="bot_deploy",
        version=__version__,
        description="Person re-identification: embed pictures, find people, and keep them.",
        lifespan=_lifespan,
        docs_url=None,  # FastAPI's page loads its scripts from another server
        redoc_url=None,
    )
    names = frozenset({"localhost", host.lower(), socket.gethostname().lower()})
    app.state.settings = Settings(
        service, api_key, max_upload_bytes, asyncio.Semaphore(available_cores()), asyncio.Lock(), names
    )
    app.include_router(routes, dependencies=[Depends(check_origin if api_key is None else check_key)])
    app.include_router(open_routes)
    for path, name in (("/", "page.html"), ("/docs", "docs.html")):
        text = files("bot_deploy.serving").joinpath(name).read_text(encoding="utf-8")
        app.add_api_route(path, partial(_page, text), response_class=HTMLResponse, include_in_schema=False)
    app.middleware("http")(_count)
    app.exception_handler(BotError)(_explain)
    app.exception_handler(Exception)(_explain)
    app.exception_handler(HTTPException)(_refuse)
    app.exception_handler(RequestValidationError)(_refuse_values)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await run_in_threadpool(app.state.settings.service.close)


async def _page(text: str) -> HTMLResponse:
    return HTMLResponse(text, headers={"Content-Security-Policy": PAGE_POLICY})


async def _count(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    started, status = time.perf_counter(), 500
    try:
        response = await call_next(request)
        status = response.status_code
        return response
    finally:
        route = getattr(request.scope.get("route"), "path", "other")
        metrics = request.app.state.settings.service.metrics
        method = request.method if request.method in METHODS else "other"
        metrics.count_request(method, route, status, time.perf_counter() - started)


async def _explain(_: Request, error: Exception) -> JSONResponse:
    status = next((code for kind, code in STATUSES if isinstance(error, kind)), 500)
    if isinstance(error, UnavailableError):
        shown = "a server that this service needs does not answer; try again later"
    elif status == 500:  # noqa: PLR2004
        shown = "the work failed; the log of the service says why"
    else:
        return JSONResponse({"error": str(error)}, status)
    logger.error(str(error) or type(error).__name__)  # it may name files and machines
    return JSONResponse({"error": shown}, status)


async def _refuse(request: Request, error: HTTPException) -> JSONResponse:
    headers = dict(error.headers or {})
    if "Allow" in headers:  # Starlette lists the methods of the first route with this path alone
        headers["Allow"] = _allowed_methods(request) or headers["Allow"]
    return JSONResponse({"error": error.detail}, error.status_code, headers)


def _allowed_methods(request: Request) -> str:
    found = [
        route.methods
        for route in (*routes.routes, *open_routes.routes)
        if isinstance(route, Route) and route.methods and route.matches(request.scope)[0] is not Match.NONE
    ]
    return ", ".join(sorted(set[str]().union(*found)))


async def _refuse_values(_: Request, error: RequestValidationError) -> JSONResponse:
    reasons = [f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()]
    return JSONResponse({"error": "; ".join(reasons)}, 422)
