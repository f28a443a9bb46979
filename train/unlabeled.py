"""Crops whose people are unknown: from folders, .zip files, and galleries of recorded video."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot_deploy.datasets import JUNK, build_crop, check_sources, find_crops
from bot_deploy.errors import InputError
from bot_deploy.gallery import is_index, open_index_of_any_model

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Sequence
    from pathlib import Path

    from bot_deploy.datasets import Crop

    Place = tuple[Path | zipfile.Path, int | None]  # of a crop, with its camera, None if unknown


def open_unlabeled(sources: Sequence[str]) -> tuple[Crop, ...]:
    """All crops in `sources`, folders, .zip files or indexes of `bot index`, with an unknown identity (JUNK).

    Cameras are those of the index, or are read from names; those of two sources are different ones.

    Raises:
        InputError: nothing there, or a source without images.
    """
    check_sources(sources)
    crops: list[Crop] = []
    first_camera = 1
    for source in sources:
        places = _read_index(source) if is_index(source) else find_crops(source)
        if not places:
            raise InputError(
                f"{source}: no images in it; name a folder, a .zip of crops, or an index", parameter="unlabelled"
            )
        known = sorted({camera for _, camera in places if camera is not None})
        numbers: dict[int | None, int] = {camera: first_camera + index for index, camera in enumerate(known)}
        first_camera += len(known)
        start = len(crops)
        crops += [
            build_crop(path, JUNK, numbers.get(camera), start + index, "")
            for index, (path, camera) in enumerate(places)
        ]
    return tuple(crops)


def describe_cameras(crops: Sequence[Crop]) -> str:
    """From how many cameras `crops` are, as a phrase."""
    cameras = {crop.known_camera for crop in crops} - {None}
    if not cameras:
        return "whose cameras are unknown"
    return f"from {len(cameras)} camera{'s' if len(cameras) > 1 else ''}"


def _read_index(address: str) -> list[Place]:
    """The crops of the index at `address`, by path; broken ones are left out."""
    index = open_index_of_any_model(address)
    try:
        items = sorted((item for item in index.items() if not item.error), key=lambda item: item.path)
        return [(index.root / item.path, item.camera) for item in items]
    finally:
        index.close()
