"""`bot index`."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .model_choice import choose_model, open_model
from .options import JSON, MODEL, Address, runtime

if TYPE_CHECKING:
    from bot_deploy.gallery import LocalIndex


@click.command()
@click.argument("folder", metavar="GALLERY", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    required=True,
    type=Address(),
    metavar="OUT",
    help="Index to write: a folder such as people.gallery, a .db file (Milvus Lite), or milvus://host:19530/name.",
)
@MODEL
@click.option(
    "--metadata",
    type=click.Path(path_type=Path),
    metavar="F.csv",
    help="Table with the column path (below GALLERY) and any of identity, camera and time; it overrides file names.",
)
@click.option(
    "--ann",
    type=click.Choice(["hnsw", "none"]),
    help="Approximate search with FAISS, for galleries of about 100,000 crops or more. The choice is stored in OUT: "
    "the graph is built again after each change of OUT; `--ann none` removes it.",
)
@click.option("--add", is_flag=True, help="Keep what is in OUT, and add the folder.")
@click.option("--replace", is_flag=True, help="Drop everything in OUT, also enrolled people; keep only the folder.")
@click.option(
    "--verify", is_flag=True, help="Compare the content of every file, even if its size and times are the same."
)
@runtime
@JSON
def index(
    folder: Path,
    out: str,
    model: Path | None,
    metadata: Path | None,
    ann: str | None,
    add: bool,
    replace: bool,
    verify: bool,
    device: str,
    threads: int,
    batch: int,
    as_json: bool,
) -> None:
    """Embed the crops in the folder GALLERY into OUT, or update OUT: only new and changed crops are embedded.

    If OUT holds the crops of another folder, the command stops unless --add or --replace is given.
    """
    from bot_deploy import gallery as galleries
    from bot_deploy.console import say, say_left_out, show, show_json
    from bot_deploy.errors import InputError
    from bot_deploy.images import broken_files

    started = time.perf_counter()
    if ann and galleries.is_milvus(out):
        raise InputError("--ann is for an index in a folder; a Milvus server has its own search")
    if add and replace:
        raise InputError("--add keeps what is in OUT, and --replace drops it; give one of them")
    if ann == "hnsw":
        import faiss  # noqa: F401 - a missing FAISS is an error before a long indexing run
    table = galleries.read_metadata(metadata) if metadata else None
    galleries.check_folder(folder)
    model = choose_model(model)
    scanned = galleries.scan_images(folder)
    say(*galleries.describe_images(scanned, table))
    embedder = open_model(model, device, threads=threads, batch=batch)
    document: dict[str, object] = {"gallery": out, "model": str(model)}
    with galleries.open_or_create_index(out, embedder.contract, folder) as gallery:
        update = galleries.index_folder(
            gallery, folder, embedder, table, add=add, replace=replace, verify=verify, scanned=scanned
        )
        root = folder if gallery.root == folder.absolute() else gallery.root
        broken = {root / item.path: item.error for item in gallery.broken()}
        document |= {
            "images": len(gallery),
            "new": update.new,
            "changed": update.changed,
            "removed": update.removed,
            "unchanged": update.unchanged,
            "broken": len(broken),
            "broken_files": broken_files(broken),
        }
        say_left_out([f"{path}: {error}" for path, error in broken.items()])
        if isinstance(gallery, galleries.LocalIndex):
            if ann == "none":
                gallery.drop_hnsw()
            elif ann or gallery.uses_hnsw:
                document |= _update_graph(gallery, is_requested=ann is not None)
    document["seconds"] = round(time.perf_counter() - started, 3)
    if as_json:
        show_json(document)
    else:
        show(*_summary(document))


def _update_graph(gallery: LocalIndex, *, is_requested: bool) -> dict[str, float]:
    """Builds the graph of approximate search if it is out of date; returns its recall if it was built."""
    from bot_deploy.console import say

    if not is_requested and not find_spec("faiss"):
        say("the graph of approximate search is not updated: FAISS is not installed (pip install 'bot-deploy[scale]')")
    elif is_requested or not gallery.hnsw_is_current():
        say("building the graph of approximate search")
        return {"recall10": gallery.build_hnsw()}
    return {}


def _summary(document: dict[str, object]) -> list[str]:
    counts = ", ".join(f"{document[name]} {name}" for name in ("new", "changed", "removed", "unchanged", "broken"))
    lines = [f"{document['gallery']}: {document['images']} images ({counts}) in {document['seconds']} s"]
    if "recall10" in document:
        lines.append(f"approximate search (hnsw): recall@10 {document['recall10']:.4f} against exact search")
    return lines
