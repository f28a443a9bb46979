"""MSMT17 (Wei et al., CVPR 2018), both releases: four lists beside train/ and test/."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

from bot_deploy.errors import InputError

from .dataset import SPLITS, Crop, Dataset, File, build_dataset

if TYPE_CHECKING:
    from pathlib import Path

# list -> (split, the folder its paths are below, in the first release and in the second)
LISTS = {
    "list_train.txt": ("train", ("train", "mask_train_v2")),
    "list_val.txt": ("train", ("train", "mask_train_v2")),
    "list_query.txt": ("query", ("test", "mask_test_v2")),
    "list_gallery.txt": ("gallery", ("test", "mask_test_v2")),
}
TEST_IDENTITIES = 10_000  # train and test number their people from 0 each


def read(name: str, files: list[File]) -> Dataset | None:
    """None without list_train.txt or list_query.txt; a line is `0000/0000_000_01_0303morning_0015_0.jpg 0`."""
    lists = {names[-1]: path for names, path in files if names[-1] in LISTS}
    if not {"list_train.txt", "list_query.txt"} & set(lists):
        return None
    found = {"/".join(names[-3:]): path for names, path in files}
    splits: dict[str, list[Crop]] = {split: [] for split in SPLITS}
    for list_name, (split, folders) in LISTS.items():
        if list_name in lists:
            splits[split] += [_crop(name, line, split, folders, found) for line in _lines(lists[list_name])]
    return build_dataset(name, splits)


def _lines(path: Path | zipfile.Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable list ({error})") from None


def _crop(name: str, line: str, split: str, folders: tuple[str, ...], found: dict[str, Path | zipfile.Path]) -> Crop:
    try:
        file, identity = line.rsplit(maxsplit=1)
        camera = int(file.split("/")[-1].split("_")[2])
        path = next(found[f"{folder}/{file}"] for folder in folders if f"{folder}/{file}" in found)
        # From 1: 0 would be a distractor.
        return Crop(path, int(identity) + 1 + (0 if split == "train" else TEST_IDENTITIES), camera)
    except (ValueError, IndexError, StopIteration):
        raise InputError(f"{name}: the list names {line!r}, which is not below {' or '.join(folders)}/") from None
