"""`bot forget`."""

from __future__ import annotations

import click

from .options import JSON, Address


@click.command()
@click.argument("name")
@click.argument("gallery", type=Address(), metavar="GALLERY")
@JSON
def forget(name: str, gallery: str, as_json: bool) -> None:
    """Remove the person NAME from GALLERY, an index: vectors, names, crops, and times in view.

    The files of GALLERY are rewritten without them; Milvus deletes its copies later. Videos, and images in a folder of
    yours, stay; the command names these images.
    """
    from bot_deploy import gallery as galleries
    from bot_deploy.console import say, say_left_out, show, show_json
    from bot_deploy.footage.forgetting import forget_person

    galleries.check_gallery(gallery)
    with galleries.open_index_of_any_model(gallery) as index:
        forgotten = forget_person(index, name)
    if isinstance(index, galleries.MilvusIndex):
        say(f"{index.address}: Milvus removes deleted vectors from its own files when it compacts them")
    kept = "is in a folder of yours, so it is kept; delete it, or `bot index` adds it again"
    say_left_out([f"{path}: {kept}" for path in forgotten.left_files])
    if as_json:
        document = {"name": name, "gallery": index.address, "images": forgotten.crops}
        left = [str(path) for path in forgotten.left_files]
        show_json({**document, "appearances": forgotten.appearances, "left_files": left})
    else:
        show(f"{index.address}: forgot {name}: {forgotten.crops} images, {forgotten.appearances} appearances")
