"""`bot index`."""

from __future__ import annotations

import json as jsonlib
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import runtime

if TYPE_CHECKING:
    from bot_deploy.gallery import Store


@click.command()
@click.argument("folder", metavar="GALLERY", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="OUT",
    help="A folder such as people.gallery, a .db file (Milvus Lite), or milvus://host:19530/name.",
)
@click.option("--model", type=click.Path(path_type=Path), help="Exported model; the newest under runs/ by default.")
@click.option(
    "--metadata",
    type=click.Path(path_type=Path),
    metavar="F.csv",
    help="Columns path (below GALLERY) and any of identity, camera, time; goes before what names say.",
)
@click.option(
    "--ann",
    type=click.Choice(["hnsw", "none"]),
    help="Search approximately, from some 100,000 crops on; with FAISS. OUT remembers it: the graph is built again "
    "whenever OUT has changed, until `--ann none`.",
)
@runtime
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def index(
    folder: Path,
    out: str,
    model: Path | None,
    metadata: Path | None,
    ann: str | None,
    device: str,
    threads: int,
    batch: int,
    as_json: bool,
) -> None:
    """Embed the crops in the folder GALLERY into OUT, or bring OUT up to date: only what changed is embedded."""
    from bot_deploy import gallery as galleries
    from bot_deploy import runs
    from bot_deploy.console import say
    from bot_deploy.embedder import open_embedder
    from bot_deploy.errors import InputError

    started = time.perf_counter()
    if ann and galleries.is_milvus(out):
        raise InputError("--ann is for galleries in a folder of their own; Milvus has its own indexes")
    if ann == "hnsw":
        import faiss  # noqa: F401 - that it is not installed is said before a long gallery is embedded
    table = galleries.read_metadata(metadata) if metadata else None
    galleries.check_folder(folder)
    if model is None:
        model = runs.newest_file("model.onnx", "`bot export` writes one, or name it with --model")
    embedder = open_embedder(model, device, threads=threads, batch=batch)
    say(f"model {model} on {embedder.backend}")
    document: dict[str, object] = {"gallery": out, "model": str(model)}
    with galleries.create_gallery(out, embedder.contract, folder) as gallery:
        done = galleries.index_folder(gallery, folder, embedder, table)
        document |= {
            "images": len(gallery),
            "new": done.new,
            "changed": done.changed,
            "vanished": done.vanished,
            "unchanged": done.unchanged,
            "broken": len(gallery.broken()),
            "broken_files": [{"path": row.path, "error": row.error} for row in gallery.broken()],
        }
        for row in gallery.broken():
            say(f"left out: {folder / row.path}: {row.error}")
        if isinstance(gallery, galleries.Store):
            if ann == "none":
                gallery.drop_hnsw()
            elif ann or gallery.uses_hnsw:
                document |= _graph(gallery, asked=ann is not None)
    document["seconds"] = round(time.perf_counter() - started, 3)
    click.echo(jsonlib.dumps(document) if as_json else _summary(document))


def _graph(gallery: Store, *, asked: bool) -> dict[str, float]:
    """Brings the graph up to date; returns its recall if it was built."""
    from bot_deploy.console import say

    if not asked and not find_spec("faiss"):
        say("the graph of approximate search is as before: FAISS is not installed (pip install 'bot-deploy[scale]')")
    elif asked or not gallery.hnsw_is_current():
        say("building the graph")
        return {"recall10": gallery.build_hnsw()}
    return {}


def _summary(document: dict[str, object]) -> str:
    counts = ", ".join(f"{document[name]} {name}" for name in ("new", "changed", "vanished", "unchanged", "broken"))
    lines = [f"{document['gallery']}: {document['images']} images ({counts}) in {document['seconds']} s"]
    if "recall10" in document:
        lines.append(f"approximate search (hnsw): recall@10 {document['recall10']:.4f} against exact search")
    return "\n".join(lines)
