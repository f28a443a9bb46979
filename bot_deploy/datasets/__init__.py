"""Crops on disk or in a zip as train, query and gallery, with the identity and the camera of each crop.

Only names and tables are read here; images.py reads pixels. Each layout has a reader, a small file of its own.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from bot_deploy import images
from bot_deploy.choices import SYNTHETIC
from bot_deploy.files import require_path

from . import folders, market, msmt17, table, viper
from .dataset import (
    DISTRACTOR,
    JUNK,
    LAYOUTS_HELP,
    Crop,
    Dataset,
    File,
    LayoutMismatch,
    build_crop,
    crops_fingerprint,
    image_files,
    layout_error,
    merge,
)
from .names import parse_name
from .summary import camera_notes, describe_dataset, describe_names, scoring_notes, training_notes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "DISTRACTOR",
    "JUNK",
    "LAYOUTS_HELP",
    "Crop",
    "Dataset",
    "build_crop",
    "camera_notes",
    "check_sources",
    "crops_fingerprint",
    "describe_dataset",
    "describe_names",
    "find_crops",
    "merge",
    "open_dataset",
    "scoring_notes",
    "training_notes",
]

LIST_SUFFIXES = frozenset({".txt"})  # of files beside the images that a reader reads; others are never passed to it
# Each layout with its reader, in the order in which they are tried; the last one takes nearly everything. A reader
# returns a Dataset, or raises LayoutMismatch with the reason why the files do not fit.
READERS: tuple[tuple[str, Callable[[str, Sequence[File]], Dataset]], ...] = (
    ("a table", table.read),
    ("Market-1501", market.read),
    ("MSMT17", msmt17.read),
    ("VIPeR", viper.read),
    ("a folder for each identity", folders.read),
)


def open_dataset(source: str | Path, *others: str | Path) -> Dataset:
    """The data set at `source`: a folder, a .zip, a .csv, or the word `synthetic` for generated people.

    Several sources are merged; identities and cameras of different sources never coincide.

    Raises:
        InputError: nothing there, or no known layout; the message lists them, and why each one does not fit.
    """
    if others:
        return merge([open_dataset(path) for path in (source, *others)])
    name = str(source)
    root = _synthetic() if name == SYNTHETIC else Path(source)
    check_sources([name])
    files = _find_files(root)
    reasons = []
    for layout, read in READERS:
        try:
            return read(name, files)
        except LayoutMismatch as reason:
            reasons.append(f"  {layout}: {reason}")
    image_list = image_files(files)
    example = f", such as {image_list[0]}" if image_list else ""
    raise layout_error(f"{root}: {len(image_list)} images, but no known layout{example}:", *reasons)


def check_sources(sources: Sequence[str]) -> None:
    """Checks that every one of `sources` exists, before anything else is done.

    Raises:
        InputError: one does not.
    """
    for source in sources:
        if source != SYNTHETIC and not Path(source).exists():
            raise layout_error(f"{source}: no such folder or file")
        if source != SYNTHETIC:
            require_path(Path(source), "folder or file")


def find_crops(source: str) -> list[tuple[Path | zipfile.Path, int | None]]:
    """The images in `source`, a folder or .zip, each with the camera that its name tells; None if it tells none."""
    files = image_files(_find_files(_synthetic() if source == SYNTHETIC else Path(source)))
    return [(file.path, parse_name("/".join(file.parts)).camera) for file in files]


def _synthetic() -> Path:
    from bot_deploy import synthetic  # the generator is only loaded for its own data

    return synthetic.cached_dataset()


def _find_files(root: Path) -> list[File]:
    """The images and lists below `root`, a folder or .zip; or `root` itself, a table. Hidden files are skipped."""
    suffixes = images.SUFFIXES | LIST_SUFFIXES
    if root.is_dir():
        return [File(path.relative_to(root).parts, path) for path in images.find_images(root, suffixes)]
    if root.suffix.lower() == ".csv":
        return [File((root.name,), root)]
    try:
        archive = zipfile.ZipFile(root)
    except (OSError, zipfile.BadZipFile):
        raise layout_error(f"{root}: neither a folder nor a readable .zip") from None
    # All paths share this one, so the directory of the archive is read once.
    top = zipfile.Path(archive)
    entries = sorted(tuple(name.split("/")) for name in archive.namelist() if not name.endswith("/"))
    visible = [names for names in entries if not any(name.startswith(".") or name == "__MACOSX" for name in names)]
    images.warn_of_skipped(root, Counter(Path(names[-1]).suffix.lower() for names in visible))
    return [
        File(names, top.joinpath("/".join(names))) for names in visible if Path(names[-1]).suffix.lower() in suffixes
    ]
