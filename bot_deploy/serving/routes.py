"""The requests of the service, as FastAPI's routes; the work is in service.py."""

from __future__ import annotations

import asyncio
import hmac
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse
from fastapi.security import APIKeyHeader
from PIL import Image

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
from .service import Service, decode

if TYPE_CHECKING:
    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels

MAX_TOP = 1000
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
    400: "The body is no picture, or a value cannot be used.",
    401: "The key is missing or wrong.",
    403: "A page of another site asks, and the service has no key.",
    404: "The gallery has nothing of this name.",
    409: "Somebody has this name already.",
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


async def check_key(
    request: Request, given: Annotated[str | None, Depends(APIKeyHeader(name="X-API-Key", auto_error=False))]
) -> None:
    """Refuses a request without the key; for a service that has one."""
    if not hmac.compare_digest((given or "").encode(), request.app.state.settings.api_key.encode()):
        raise HTTPException(401, "the header X-API-Key is missing or wrong", {"WWW-Authenticate": "APIKey"})


async def check_origin(request: Request) -> None:
    """Refuses a request that a page of another site sends; for a service without a key."""
    origin = request.headers.get("origin")
    if origin and origin.partition("://")[2] != request.headers.get("host"):
        raise HTTPException(403, "a page of another site may ask only with a key; start the service with one")


async def find_service(request: Request) -> Service:
    """The service of the application."""
    service: Service = request.app.state.settings.service
    return service


async def read_picture(request: Request) -> Any:
    """The picture in the body of `request`, uint8 RGB [H, W, 3]; no more than the limit is read."""
    settings: Settings = request.app.state.settings
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > settings.max_upload_bytes:
            raise HTTPException(413, f"the picture has more than {settings.max_upload_bytes} bytes")
    async with settings.decoding:
        return await run_in_threadpool(decode, bytes(body))


Asked = Annotated[Service, Depends(find_service)]
Picture = Annotated[Any, Depends(read_picture)]
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


async def _embed(service: Service, picture: Pixels) -> Vectors:
    return await asyncio.wrap_future(await run_in_threadpool(service.embed, picture))


@routes.post("/embed", openapi_extra=A_PICTURE, responses=_errors(400, 401, 403, 413))
async def embed(service: Asked, picture: Picture) -> Embedded:
    """The embedding of a picture: a vector of length 1."""
    vector = await _embed(service, picture)
    return {"embedding": vector.tolist(), "dim": len(vector), "embedding_space": service.contract.embedding_space}


@routes.post("/match", openapi_extra=A_PICTURE, responses=_errors(400, 401, 403, 413, 422))
async def match(service: Asked, picture: Picture, top: Top = 10, camera: Camera = None) -> Found:
    """The images and people of the gallery that look like the picture, best first, and the verdict."""
    vector = await _embed(service, picture)
    return cast("Found", await run_in_threadpool(service.match, vector, top, camera))


@routes.get("/people", responses=_errors(401, 403))
async def list_people(service: Asked) -> People:
    """Everybody in the gallery, with the number of images."""
    people = await run_in_threadpool(service.people)
    return {"people": [{"name": person.name, "images": person.images} for person in people]}


@routes.post("/people", status_code=201, openapi_extra=A_PICTURE, responses=_errors(400, 401, 403, 413, 422))
async def enrol(service: Asked, picture: Picture, name: Name = None, camera: Camera = None) -> Enrolled:
    """Adds a picture of a person, without a name of a new one. The answer comes when it is on the disk."""
    vector = await _embed(service, picture)
    return {"name": await run_in_threadpool(service.enrol, name, picture, vector, camera)}


@routes.patch("/people/{name}", responses=_errors(400, 401, 403, 404, 409, 422))
async def rename(service: Asked, name: KnownName, new_name: NewName) -> KnownPerson:
    """Gives a person another name."""
    person = await run_in_threadpool(service.rename, name, new_name)
    return {"name": person.name, "images": person.images}


@routes.delete("/people/{name}", responses=_errors(401, 403, 404, 422))
async def forget(service: Asked, name: KnownName) -> ForgottenPerson:
    """Removes a person; `left_file_count` counts the images in a folder of yours, which stay."""
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
