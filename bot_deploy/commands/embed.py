"""`bot embed`."""

from __future__ import annotations

from pathlib import Path

import click

from .model_choice import choose_model, open_model
from .options import JSON, MODEL, runtime


@click.command()
@click.argument("inputs", metavar="IMAGES...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="F.npy|F.csv|F.parquet",
    help="File to write, one row for each image. Beside F.npy, F.paths.json gets the paths.",
)
@MODEL
@runtime
@JSON
def embed(
    inputs: tuple[Path, ...],
    out: Path,
    model: Path | None,
    device: str,
    threads: int,
    batch: int,
    as_json: bool,
) -> None:
    """Write the embeddings of IMAGES, files and folders, to a file.

    Embeddings are unit vectors, so dot products are cosines. Broken images are named on stderr and have no row.
    """
    from bot_deploy.console import say_left_out, show, show_json
    from bot_deploy.errors import InputError
    from bot_deploy.files import prepare_output, require_path
    from bot_deploy.images import broken_files
    from bot_deploy.reports import embedding_files

    prepare_output(out, "a file of embeddings", embedding_files.SUFFIXES)
    embedding_files.check_packages(out)
    for path in inputs:
        require_path(path, "image or folder")
    model = choose_model(model)
    paths = _files(inputs)
    embedder = open_model(model, device, threads=threads, batch=batch)
    vectors, errors = embedder.embed_files(paths)
    broken = {path: error for path, error in zip(paths, errors, strict=True) if error}
    say_left_out(list(broken.values()))
    usable = [row for row, error in enumerate(errors) if not error]
    if not usable:
        raise InputError(f"none of the {len(paths)} images is usable; nothing was written")
    embedding_files.write_embeddings(
        out, [paths[row] for row in usable], vectors[usable], embedder.contract.embedding_space
    )
    document = {
        "out": str(out),
        "paths": str(embedding_files.paths_file(out)) if out.suffix.lower() == ".npy" else None,
        "model": str(model),
        "embedding_space": embedder.contract.embedding_space,
        "images": len(usable),
        "dim": embedder.contract.dim,
        "broken": len(broken),
        "broken_files": broken_files(broken),
    }
    if as_json:
        show_json(document)
    else:
        show(f"{out}: {len(usable)} embeddings of {vectors.shape[1]} dimensions")


def _files(inputs: tuple[Path, ...]) -> list[Path]:
    """The files among `inputs` and the image files in its folders, each once, in the order given."""
    from bot_deploy import images
    from bot_deploy.errors import InputError

    paths: dict[Path, None] = {}
    for path in inputs:
        files = images.find_images(path) if path.is_dir() else [path]
        if not files:
            raise InputError(f"{path}: no images in it; images end in {', '.join(sorted(images.SUFFIXES))}")
        paths |= dict.fromkeys(files)
    return list(paths)
