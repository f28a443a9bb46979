"""The requests of the service, as FastAPI's routes; the work is in service.py."""

from __future__ import annotations

import asyncio
import hmac
import io
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse
from fastapi.security import APIKeyHeader
from PIL import Image
from starlette.requests import ClientDisconnect

from bot_deploy import __version__
from bot_deploy.errors import ImageError, RunError, UnavailableError
from bot_deploy.footage.videos import MAX_CAMERA_NAME

from .answers import (  # noqa: TC001 - FastAPI reads the annotations
    Embedded,
    Enrolled,
    ForgottenPerson,
    Found,
    Health,
    KnownPerson,
    People,
)
from .service import Picture, Service

if TYPE_CHECKING:
    from bot_deploy.embedder import Vectors

MAX_TOP = 1000
UPLOAD_TIMEOUT_S = 60  # for the body of a request
MAX_NAME = 200  # characters
MAX_PATH = 4096  # characters; no file system has longer ones
A_PICTURE = {
    "requestBody": {
        "required": True,
        "description": "The file of one picture of one person: JPEG, PNG, WebP and others.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
A_JPEG = {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
FAILURE = {
    "type": "object",
    "title": "Failure",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
    "additionalProperties": False,
}
ERRORS = {
    400: "The body is no picture, or did not come to its end, or a value cannot be used.",
    401: "The key is missing or wrong.",
    403: "A page of another site asks, or one under a name of another machine, and the service has no key.",
    404: "The gallery has nothing of this name.",
    409: "Somebody has this name already.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    422: "A parameter is missing or out of range.",
    500: "The work failed; the log of the service says why.",
    503: "Too many requests wait, or a server that the service needs does not answer.",
}


@dataclass(frozen=True)
class Settings:
    """What the routes share; `app.state.settings`."""

    service: Service
    api_key: str | None  # None: everybody may ask
    max_upload_bytes: int
    decoding: asyncio.Semaphore  # a decoded picture can take 300 MB
    changing: asyncio.Lock  # who waits to change the gallery holds no thread
    names: frozenset[str]  # of this machine, in lower case; beside its addresses


async def check_key(
    request: Request, given: Annotated[str | None, Depends(APIKeyHeader(name="X-API-Key", auto_error=False))]
) -> None:
    """Refuses a request without the key; for a service that has one."""
    if not hmac.compare_digest((given or "").encode(), request.app.state.settings.api_key.encode()):
        raise HTTPException(401, "the header X-API-Key is missing or wrong", {"WWW-Authenticate": "APIKey"})


async def check_origin(request: Request) -> None:
    """Refuses a request that a page of another site sends; for a service without a key.

    The page of a site whose name leads here asks under that name (DNS rebinding), so only addresses and names of this
    machine are answered.
    """
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    if origin and origin.partition("://")[2] != host:
        raise HTTPException(403, "a page of another site may ask only with a key; start the service with one")
    name = (urlsplit(f"//{host}").hostname or "").lower()
    if name not in request.app.state.settings.names and not _is_address(name):
        raise HTTPException(403, "without a key, the service answers only under an address or localhost")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def find_service(request: Request) -> Service:
    """The service of the application."""
    service: Service = request.app.state.settings.service
    return service


async def find_lock(request: Request) -> asyncio.Lock:
    """What a change of the gallery holds."""
    lock: asyncio.Lock = request.app.state.settings.changing
    return lock


async def read_picture(request: Request) -> Any:
    """The `service.Picture` in the body of `request`; no more than the limit is read."""
    settings: Settings = request.app.state.settings
    body = bytearray()
    try:
        async with asyncio.timeout(UPLOAD_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > settings.max_upload_bytes:
                    raise HTTPException(413, f"the picture has more than {settings.max_upload_bytes} bytes")
    except TimeoutError:
        raise HTTPException(408, f"the picture did not come in {UPLOAD_TIMEOUT_S} seconds") from None
    except ClientDisconnect:
        raise HTTPException(400, "the upload was cut off") from None
    async with settings.decoding:
        return await run_in_threadpool(settings.service.read, bytes(body))


Asked = Annotated[Service, Depends(find_service)]
Changing = Annotated[asyncio.Lock, Depends(find_lock)]
Sent = Annotated[Any, Depends(read_picture)]
Top = Annotated[int, Query(ge=1, le=MAX_TOP, description="Number of images in the rank list.")]
Name = Annotated[str | None, Query(min_length=1, max_length=MAX_NAME, description="Name of the person.")]
Camera = Annotated[
    str | None,
    Query(min_length=1, max_length=MAX_CAMERA_NAME, description="Name of the camera that took the picture, as cam3."),
]
KnownName = Annotated[str, Path(max_length=MAX_PATH, description="Name of the person.")]
PicturePath = Annotated[str, Path(max_length=MAX_PATH, description="`path` of a match.")]
NewName = Annotated[str, Query(min_length=1, max_length=MAX_NAME, description="The name from now on.")]

open_routes = APIRouter()
routes = APIRouter()  # `create_app` adds who may ask


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": FAILURE, "example": {"error": "why"}}}
    return {status: {"description": ERRORS[status], "content": content} for status in (*statuses, 500, 503)}


class JpegResponse(Response):
    """A picture."""

    media_type = "image/jpeg"


async def _embed(service: Service, picture: Picture) -> Vectors:
    return await asyncio.wrap_future(service.embed(picture.crop))


@routes.post("/embed", openapi_extra=A_PICTURE, responses=_errors(400, 401, 403, 408, 413))
async def embed(service: Asked, picture: Sent) -> Embedded:
    """The embedding of a picture: a vector of length 1."""
    vector = await _embed(service, picture)
    return {"embedding": vector.tolist(), "dim": len(vector), "embedding_space": service.contract.embedding_space}


@routes.post("/match", openapi_extra=A_PICTURE, responses=_errors(400, 401, 403, 408, 413, 422))
async def match(service: Asked, picture: Sent, top: Top = 10, camera: Camera = None) -> Found:
    """The images and people of the gallery that look like the picture, best first, and the verdict."""
    vector = await _embed(service, picture)
    return cast("Found", await run_in_threadpool(service.match, vector, top, camera))


@routes.get("/people", responses=_errors(401, 403))
async def list_people(service: Asked) -> People:
    """Everybody in the gallery, with the number of images."""
    people = await run_in_threadpool(service.people)
    return {"people": [{"name": person.name, "images": person.images} for person in people]}


@routes.post("/people", status_code=201, openapi_extra=A_PICTURE, responses=_errors(400, 401, 403, 408, 413, 422))
async def enrol(
    service: Asked, changing: Changing, picture: Sent, name: Name = None, camera: Camera = None
) -> Enrolled:
    """Adds a picture of a person, without a name of a new one. The answer comes when it is on the disk."""
    vector = await _embed(service, picture)
    async with changing:
        return {"name": await run_in_threadpool(service.enrol, name, picture.kept, vector, camera)}


@routes.patch("/people/{name}", responses=_errors(400, 401, 403, 404, 409, 422))
async def rename(service: Asked, changing: Changing, name: KnownName, new_name: NewName) -> KnownPerson:
    """Gives a person another name."""
    async with changing:
        person = await run_in_threadpool(service.rename, name, new_name)
    return {"name": person.name, "images": person.images}


@routes.delete("/people/{name}", responses=_errors(401, 403, 404, 422))
async def forget(service: Asked, changing: Changing, name: KnownName) -> ForgottenPerson:
    """Removes a person; `left_file_count` counts the images in a folder of yours, which stay."""
    async with changing:
        forgotten = await run_in_threadpool(service.forget, name)
    return {
        "name": name,
        "images": forgotten.crops,
        "appearances": forgotten.appearances,
        "left_file_count": len(forgotten.left_files),
    }


@routes.get(
    "/pictures/{path:path}", response_class=JpegResponse, responses={200: A_JPEG, **_errors(401, 403, 404, 422)}
)
async def show_picture(service: Asked, path: PicturePath) -> JpegResponse:
    """An image of the gallery as a JPEG, at most 256 pixels high."""
    try:
        pixels = await run_in_threadpool(service.picture, path)
    except UnavailableError:
        raise
    except (RunError, ImageError):
        raise HTTPException(404, "the gallery has no such picture") from None
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return JpegResponse(stream.getvalue())


@routes.get("/metrics", response_class=PlainTextResponse, responses=_errors(401, 403))
async def metrics(service: Asked) -> PlainTextResponse:
    """Counters for Prometheus."""
    gauges = {
        "bot_waiting_images": ("Images that wait for the model.", float(service.batcher.waiting)),
        "bot_gallery_images": ("Images in the gallery.", float(await run_in_threadpool(len, service.gallery))),
    }
    return PlainTextResponse(service.metrics.text(gauges), media_type="text/plain; version=0.0.4")


@open_routes.get("/health")
async def health(service: Asked) -> Health:
    """Whether the service answers, and with which model."""
    return {
        "status": "ok",
        "version": __version__,
        "model": service.contract.arch,
        "embedding_space": service.contract.embedding_space,
        "backend": service.backend,
        "calibrated": service.contract.calibration is not None,
    }
