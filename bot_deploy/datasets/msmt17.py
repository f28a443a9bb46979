"""MSMT17 (Wei et al., CVPR 2018), both releases: four lists beside train/ and test/."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

from bot_deploy.errors import InputError

from .dataset import Crop, Dataset, LayoutMismatch, build_dataset, empty_splits, image_files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .dataset import File

# list -> (split, the folder of its paths, in the first release and in the second)
LISTS = {
    "list_train.txt": ("train", ("train", "mask_train_v2")),
    "list_val.txt": ("train", ("train", "mask_train_v2")),
    "list_query.txt": ("query", ("test", "mask_test_v2")),
    "list_gallery.txt": ("gallery", ("test", "mask_test_v2")),
}
TEST_IDENTITIES = 10_000  # train and test both number their people from 0; those of test go on from here


def read(source: str, files: Sequence[File]) -> Dataset:
    """The data set in the lists; a line is `0000/0000_000_01_0303morning_0015_0.jpg 0`. See `datasets.READERS`."""
    path_of_list = {file.parts[-1]: file.path for file in files if file.parts[-1] in LISTS}
    if not {"list_train.txt", "list_query.txt"} & set(path_of_list):
        raise LayoutMismatch("no list_train.txt and no list_query.txt")
    path_of = {"/".join(file.parts[-3:]): file.path for file in image_files(files)}
    splits = empty_splits()
    for name, (split, folders) in LISTS.items():
        if name in path_of_list:
            for number, line in enumerate(_lines(path_of_list[name]), start=1):
                if line.strip():
                    splits[split].append(_crop(f"{source}: {name}, line {number}", line, split, folders, path_of))
    return build_dataset(source, splits)


def _lines(path: Path | zipfile.Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable list ({error})") from None


def _crop(
    place: str, line: str, split: str, folders: tuple[str, ...], path_of: Mapping[str, Path | zipfile.Path]
) -> Crop:
    try:
        file, identity = line.rsplit(maxsplit=1)
        file = file.strip().replace("\\", "/")
        camera = int(file.split("/")[-1].split("_")[2])
        path = next(path_of[f"{folder}/{file}"] for folder in folders if f"{folder}/{file}" in path_of)
        # From 1: 0 would be a distractor.
        number = int(identity) + 1 + (0 if split == "train" else TEST_IDENTITIES)
        return Crop(path, number, camera, identity_name=identity)
    except (ValueError, IndexError, StopIteration):
        raise InputError(
            f"{place}: the list names {line!r}, which is not below {' or '.join(folders)}/; a line is such as "
            "0000/0000_000_01_0303morning_0015_0.jpg 0"
        ) from None
