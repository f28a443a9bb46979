"""`bot serve`."""

from __future__ import annotations

from pathlib import Path

import click

from bot_deploy.choices import TRITON

from .model_choice import choose_model, open_model
from .options import MODEL_DEFAULT, Address, runtime

MEGABYTE = 1_000_000


@click.command()
@click.option(
    "--model",
    type=Address(),
    metavar="FILE|NAME|ADDRESS",
    help="Exported model, a name of `bot models`, or triton://host:8000/reid for the model reid on a Triton server; "
    f"{MODEL_DEFAULT}.",
)
@click.option(
    "--gallery",
    type=Address(),
    metavar="PATH|ADDRESS",
    help="Gallery of known people: an index or a Milvus address; default: people.gallery, created if missing.",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 accepts other machines."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 for any free one.",
)
@click.option(
    "--api-key",
    type=Address(),
    metavar="env:NAME|@FILE",
    help="Key that every request must have in the header X-API-Key.",
)
@click.option(
    "--max-upload", type=click.IntRange(1, 300), default=10, show_default=True, help="Largest image, in megabytes."
)
@runtime
def serve(
    model: str | None,
    gallery: str | None,
    host: str,
    port: int,
    api_key: str | None,
    max_upload: int,
    device: str,
    threads: int,
    batch: int,
) -> None:
    """Answer over HTTP: embed an image, find a person, enrol, rename and forget people.

    Open the address in a browser to search for an image; /docs lists the requests.
    """
    from bot_deploy.console import say
    from bot_deploy.errors import InputError
    from bot_deploy.gallery import is_empty_folder, is_index

    if gallery and not is_index(gallery) and Path(gallery).is_dir() and not is_empty_folder(Path(gallery)):
        raise InputError(f"{gallery}: a folder of crops; `bot index` makes a gallery of it", parameter="gallery")
    chosen = model if model and model.startswith(TRITON) else choose_model(model)

    from bot_deploy.serving.app import create_app
    from bot_deploy.serving.server import listen, run

    if api_key is None and host not in {"127.0.0.1", "::1", "localhost"}:
        say("WARNING: everybody who reaches this address can enrol and delete people; --api-key asks for a key")
    with listen(host, port) as connection:
        embedder = open_model(chosen, device, threads=threads, batch=batch)

        from bot_deploy.demos.enrolment import open_enrolment_gallery
        from bot_deploy.serving.service import Service

        opened = open_enrolment_gallery(gallery, embedder)
        service = Service(embedder, opened)
        say(f"gallery {opened.address}: {len(service.people())} people in {len(opened)} images")
        run(create_app(service, api_key, max_upload * MEGABYTE, host), connection)
