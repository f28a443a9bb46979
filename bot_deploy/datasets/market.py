"""Market-1501, and the sets with its folders: DukeMTMC-reID, CUHK03-NP, the synthetic people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot_deploy.errors import InputError

from .dataset import Crop, Dataset, LayoutMismatch, build_dataset, empty_splits, image_files
from .names import MARKET_FOLDERS, parse_market_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .dataset import File


def read(source: str, files: Sequence[File]) -> Dataset:
    """The data set whose split is the folder of each file; see `datasets.READERS`."""
    splits = empty_splits()
    roots: set[str] = set()
    folders: set[str] = set()
    unlabelled: list[File] = []
    for file in image_files(files):
        *parents, folder, name = ("", *file.parts)
        folder = folder.lower()
        if folder not in MARKET_FOLDERS:
            continue
        folders.add(folder)
        if label := parse_market_name(name):
            splits[MARKET_FOLDERS[folder]].append(
                Crop(file.path, int(label.identity), label.camera, identity_name=label.identity)
            )
            roots.add("/".join(parents[1:]))
        else:
            unlabelled.append(file)
    if folders <= {"query"}:  # other layouts have a folder query/ too
        raise LayoutMismatch("no images in bounding_box_train/ or bounding_box_test/")
    if unlabelled:
        raise InputError(
            f"{source}: {len(unlabelled)} images such as {unlabelled[0]} have no identity and camera in their names; "
            "a name begins with both, such as 0002_c1; rename or remove them"
        )
    if len(roots) > 1:  # CUHK03-NP comes as detected/ and labeled/, the same people twice
        raise InputError(
            f"{source}: holds {len(roots)} data sets ({', '.join(sorted(roots))}); name one of these folders"
        )
    return build_dataset(source, splits)
