"""A folder for each identity, with or without train/, query/ and gallery/ above it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot_deploy.errors import InputError

from .dataset import (
    Dataset,
    File,
    LayoutMismatch,
    build_crop,
    build_dataset,
    empty_splits,
    image_files,
    number_identities,
)
from .names import SPLITS, is_camera_folder, parse_camera

if TYPE_CHECKING:
    from collections.abc import Sequence

TEST_EVERY = 5  # without folders for the splits, each fifth identity is for evaluation


def read(source: str, files: Sequence[File]) -> Dataset:
    """The data set whose identity is the folder of each file; see `datasets.READERS`."""
    in_folders = [file for file in image_files(files) if len(file.names) > 1]
    if not in_folders:
        raise LayoutMismatch("no images in folders")
    _check_splits(source, in_folders)
    in_folders = _without_camera_folders(in_folders)
    number_of = number_identities([file.names[-2] for file in in_folders])
    splits = empty_splits()
    queried: set[tuple[int, int | None]] = set()
    for index, file in enumerate(in_folders):
        identity, camera = number_of(file.names[-2]), parse_camera(file.names[-1])
        crop = build_crop(file.path, identity, camera, index)
        if split := _split(file):
            splits[split].append(crop)
        elif identity % TEST_EVERY:
            splits["train"].append(crop)
        else:  # the first crop of each camera is a query
            splits["gallery" if (identity, camera) in queried else "query"].append(crop)
            queried.add((identity, camera))
    return build_dataset(source, splits)


def _split(file: File) -> str | None:
    return next((name for name in file.names[:-2] if name in SPLITS), None)  # split/identity/file


def _check_splits(source: str, files: Sequence[File]) -> None:
    """Raises InputError when some files are below folders of splits, and others are not."""
    others = [file for file in files if not _split(file)]
    if 0 < len(others) < len(files):
        raise InputError(
            f"{source}: {others[0]} is not below {'/, '.join(SPLITS)}/ as other files are; move or remove it"
        )


def _without_camera_folders(files: list[File]) -> list[File]:
    """identity/camera/file as identity/camera_file, when every file lies so."""
    if all(len(names) > 2 and is_camera_folder(names[-2]) for names, _ in files):  # noqa: PLR2004
        return [File((*names[:-2], f"{names[-2]}_{names[-1]}"), path) for names, path in files]
    return files
