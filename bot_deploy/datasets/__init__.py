"""Crops on disk or in a zip to train, query and gallery: who is on which picture, from which camera.

Only names are read here; pixels come later, through images.py. One small file for each layout.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy import images, synthetic
from bot_deploy.choices import SYNTHETIC
from bot_deploy.errors import InputError

from . import folders, market, msmt17, table, viper
from .dataset import (
    DISTRACTOR,
    EXPECTED,
    JUNK,
    MERGE_SEPARATOR,
    UNKNOWN_CAMERAS,
    Crop,
    Dataset,
    File,
    crops_fingerprint,
    merge,
)
from .market import identity_in

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "DISTRACTOR",
    "EXPECTED",
    "JUNK",
    "MERGE_SEPARATOR",
    "UNKNOWN_CAMERAS",
    "Crop",
    "Dataset",
    "crops_fingerprint",
    "identity_in",
    "merge",
    "open_dataset",
    "open_merged",
]

LAYOUTS = (market, msmt17, viper, folders)  # the last fits nearly everything


def open_dataset(source: str | Path) -> Dataset:
    """The data set at `source`: a folder, a .zip, a .csv, or the word `synthetic` for the built-in one.

    Raises:
        InputError: nothing there, or none of the known layouts; the message shows them.
    """
    name = str(source)
    root = synthetic.cached_dataset() if name == SYNTHETIC else Path(source)
    if not root.exists():
        raise InputError(f"{root}: no such folder or file; {EXPECTED}")
    if root.suffix.lower() == ".csv" and root.is_file():
        return table.read(root)
    files = _files(root)
    pictures = [(names, path) for names, path in files if Path(names[-1]).suffix.lower() in images.SUFFIXES]
    for layout in LAYOUTS:
        dataset: Dataset | None = layout.read(name, files if layout is msmt17 else pictures)
        if dataset:
            return dataset
    raise InputError(f"{root}: {len(pictures)} images, but no known layout; {EXPECTED}")


def open_merged(sources: Sequence[str]) -> Dataset:
    """All of `sources` as one, with identities and cameras kept apart.

    Raises:
        InputError: as `open_dataset` does; or " + " in a path, which is how runs name several.
    """
    for source in sources:
        if MERGE_SEPARATOR in source:
            raise InputError(f"{source}: a run of merged sets names them with{MERGE_SEPARATOR}between; rename this one")
    return merge([open_dataset(source) for source in sources])


def _files(root: Path) -> list[File]:
    """Every file below `root` that could matter: pictures and lists; hidden ones are passed over."""
    if root.is_dir():
        return [(path.relative_to(root).parts, path) for path in images.find_images(root, images.SUFFIXES | {".txt"})]
    try:
        archive = zipfile.ZipFile(root)
    except (OSError, zipfile.BadZipFile):
        raise InputError(f"{root}: neither a folder nor a readable .zip; {EXPECTED}") from None
    # Shared by every zipfile.Path below, so the directory of the archive is read once.
    top = zipfile.Path(archive)
    found = sorted(tuple(name.split("/")) for name in archive.namelist() if not name.endswith("/"))
    return [
        (names, top.joinpath("/".join(names)))
        for names in found
        if not any(name.startswith(".") or name == "__MACOSX" for name in names)
    ]
