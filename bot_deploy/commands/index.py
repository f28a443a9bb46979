"""`bot index`."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .footage import Runtime, index_videos
from .model_choice import choose_model, open_model
from .options import DETECTOR, JSON, MODEL, Address, runtime

if TYPE_CHECKING:
    from bot_deploy.gallery import LocalIndex, MilvusIndex


@click.command()
@click.argument("sources", metavar="CROPS|VIDEO...", nargs=-1, required=True, type=click.Path(path_type=Path))
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
    help="Table with the column path (below CROPS) and any of identity, camera and time; it overrides file names.",
)
@click.option(
    "--ann",
    type=click.Choice(["hnsw", "none"]),
    help="Approximate search with FAISS, for galleries of about 100,000 crops or more. The choice is stored in OUT: "
    "the graph is built again after each change of OUT; `--ann none` removes it.",
)
@click.option("--add", is_flag=True, help="Keep what is in OUT, and add the folder; videos are always added.")
@click.option(
    "--replace",
    is_flag=True,
    help="Drop everything in OUT, also enrolled people; keep only the folder. With videos: drop all other videos.",
)
@click.option(
    "--verify", is_flag=True, help="Compare the content of every file, even if its size and times are the same."
)
@DETECTOR
@click.option(
    "--camera", metavar="NAME", help="Camera of the videos; default: from the name of each file, or of its folder."
)
@click.option(
    "--start",
    metavar="TIME",
    help="When the video begins, such as 2026-01-31T12:00 (UTC if it has no zone); default: from the name of the file "
    "or its metadata.",
)
@runtime
@JSON
def index(
    sources: tuple[Path, ...],
    out: str,
    model: Path | None,
    metadata: Path | None,
    ann: str | None,
    add: bool,
    replace: bool,
    verify: bool,
    detector: Path | None,
    camera: str | None,
    start: str | None,
    device: str,
    threads: int,
    batch: int,
    as_json: bool,
) -> None:
    """Embed the crops in a folder, or the people in videos, into OUT, or update OUT.

    CROPS is a folder: only its new and changed crops are embedded. If OUT holds the crops of another folder, the
    command stops unless --add or --replace is given. If OUT was made by an earlier model that MODEL is compatible with
    (`bot train --compatible-with`), its vectors are renewed piece by piece; OUT can be searched meanwhile.

    VIDEO is a file, or a folder of videos without images. Detector and tracker find the people in them; OUT gets the
    best crops of each person in view, with camera and time. A run that was killed goes on where it was.
    """
    from bot_deploy import gallery as galleries
    from bot_deploy.console import say, say_left_out, show, show_json
    from bot_deploy.errors import InputError
    from bot_deploy.footage import holds_footage
    from bot_deploy.footage.records import footage_folder, remove_videos
    from bot_deploy.images import broken_files

    started = time.perf_counter()
    if ann and galleries.is_milvus(out):
        raise InputError("--ann is for an index in a folder; a Milvus server has its own search")
    if add and replace:
        raise InputError("--add keeps what is in OUT, and --replace drops it; give one of them")
    if ann == "hnsw":
        import faiss  # noqa: F401 - a missing FAISS is an error before a long indexing run
    if any(map(holds_footage, sources)):
        _refuse_options_of_crops(metadata, verify, add)
        models = Runtime(model, detector, device, threads, batch)
        index_videos(sources, out, models, camera=camera, start=start, replace=replace, ann=ann, as_json=as_json)
        return
    for option, value in (("detector", detector), ("camera", camera), ("start", start)):
        if value is not None:
            raise InputError(f"is for videos, and {sources[0]} holds none", parameter=option)
    folder, *others = sources
    if others:
        raise InputError(f"{others[0]}: one folder of crops at a time; --add adds another one to {out}")
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
        if replace:  # their vectors are gone
            remove_videos(footage_folder(out))
        document["renewed"] = galleries.renew_vectors(gallery, embedder)
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
        document |= update_search(gallery, ann)
    document["seconds"] = round(time.perf_counter() - started, 3)
    if as_json:
        show_json(document)
    else:
        show(*_summary(document))


def _refuse_options_of_crops(*given: object) -> None:
    from bot_deploy.errors import InputError

    if any(given):
        raise InputError("--metadata, --verify and --add are for a folder of crops")


def update_search(gallery: LocalIndex | MilvusIndex, ann: str | None) -> dict[str, float]:
    """Builds or drops the graph of approximate search, as `ann` says; returns its recall if it was built."""
    from bot_deploy.gallery import LocalIndex

    if isinstance(gallery, LocalIndex):
        if ann == "none":
            gallery.drop_hnsw()
        elif ann or gallery.uses_hnsw:
            return _update_graph(gallery, is_requested=ann is not None)
    return {}


def _update_graph(gallery: LocalIndex, *, is_requested: bool) -> dict[str, float]:
    """Builds the graph of approximate search if it is out of date; returns its recall if it was built."""
    from bot_deploy.console import say

    if not is_requested and not find_spec("faiss"):
        say("the graph of approximate search is not updated: FAISS is not installed (pip install 'bot-deploy[scale]')")
    elif is_requested or not gallery.hnsw_is_current():
        say("building the graph of approximate search")
        return {"recall10": gallery.build_hnsw()}
    return {}


def renewed_lines(document: dict[str, object]) -> list[str]:
    """What the summary says about the vectors of an earlier model."""
    return [f"{document['renewed']} vectors of an earlier model are renewed"] if document["renewed"] else []


def _summary(document: dict[str, object]) -> list[str]:
    counts = ", ".join(f"{document[name]} {name}" for name in ("new", "changed", "removed", "unchanged", "broken"))
    lines = [f"{document['gallery']}: {document['images']} images ({counts}) in {document['seconds']} s"]
    lines += renewed_lines(document)
    if "recall10" in document:
        lines.append(f"approximate search (hnsw): recall@10 {document['recall10']:.4f} against exact search")
    return lines
