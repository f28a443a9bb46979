"""A folder for each identity, with or without folders for the splits above it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from bot_deploy.errors import InputError

from .dataset import (
    DISTRACTOR,
    JUNK,
    Crop,
    Dataset,
    File,
    LayoutMismatch,
    build_crop,
    build_dataset,
    divide_test_crops,
    empty_splits,
    image_files,
    number_identities,
)
from .names import JUNK_LABEL, SPLIT_NAMES, SPLITS, CropMetadata, parse_market_name, parse_names

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

NO_SPLIT, UNUSED = "", "-"  # values beside the splits: of a file below no split, and of one to leave out
TEST_EVERY = 5  # without folders for the splits, each fifth identity is for evaluation
IDENTITY_REMEDY = (
    "put the crops of each person into one folder, or list them in a table crops.csv: path,identity,camera,split"
)


def read(source: str, files: Sequence[File]) -> Dataset:
    """The data set whose identities are folders, or file names of Market-1501; see `datasets.READERS`.

    Raises:
        InputError: the names contradict each other; the message names the first file.
    """
    images = image_files(files)
    parsed = parse_names([str(file) for file in images])
    if parsed.contradiction_reason:
        raise InputError(f"{source}: {parsed.contradiction_reason}; {IDENTITY_REMEDY}")
    crops = [
        (file, info) for file, info in zip(images, parsed.infos, strict=True) if len(file.parts) > 1 or info.identity
    ]
    if not any(info.identity for _, info in crops):
        raise LayoutMismatch(_no_identities([file for file, _ in crops]))
    _check_identities(source, crops)
    split_of = _choose_splits(source, [file for file, _ in crops])
    if parsed.session_note:
        logger.warning(f"{source}: {parsed.session_note}")
    if len(crops) < len(images):
        outside = next(file for file in images if len(file.parts) == 1)
        logger.warning(f"{source}: {len(images) - len(crops)} images such as {outside} are in no folder; left out")
    number_of = number_identities(
        [str(info.identity) for file, info in crops if _market_special_identity(file, info) is None]
    )
    splits = empty_splits()
    test_crops: list[Crop] = []
    for index, (file, info) in enumerate(crops):
        name = str(info.identity)
        special = _market_special_identity(file, info)
        crop = build_crop(file.path, number_of(name) if special is None else special, info.camera, index, name)
        split = split_of[index]
        if split in SPLITS:
            splits[split].append(crop)
        elif split == "test" or (split == NO_SPLIT and not crop.identity % TEST_EVERY):
            test_crops.append(crop)
        elif split == NO_SPLIT:
            splits["train"].append(crop)
    divide_test_crops(test_crops, splits)
    return build_dataset(source, splits)


def _no_identities(files: Sequence[File]) -> str:
    """Why `files` have no identity."""
    if not files:
        return "no images in folders"
    return f"no folder names an identity: {files[0]} has only folders of cameras, days, sessions or splits"


def _market_special_identity(file: File, info: CropMetadata) -> int | None:
    """JUNK or DISTRACTOR for a crop that is marked so as in Market-1501; None for a person."""
    if info.identity == JUNK_LABEL:
        return JUNK
    label = parse_market_name(file.parts[-1])
    return DISTRACTOR if label and label.identity == info.identity and int(label.identity) == 0 else None


def _check_identities(source: str, crops: Sequence[tuple[File, CropMetadata]]) -> None:
    """Raises InputError for crops without an identity, and for a file that is named like another than its folder."""
    for file, info in crops:
        if info.identity is None:
            raise InputError(
                f"{source}: {file} has no identity: its folders are cameras, days, sessions or splits; "
                f"{IDENTITY_REMEDY}"
            )
        folder = file.parts[-2] if len(file.parts) > 1 else ""
        if folder.isdecimal() and info.identity.isdecimal() and int(folder) != int(info.identity):
            raise InputError(
                f"{source}: {file} is in the folder of {folder}, but its name is one of {info.identity}; "
                f"{IDENTITY_REMEDY}"
            )


def _choose_splits(source: str, files: Sequence[File]) -> list[str]:
    """The split of each file: one of SPLITS, "test", NO_SPLIT if there are no folders of splits, or UNUSED."""
    names = [_split_folder(file) for file in files]
    splits = [SPLIT_NAMES.get(name.lower(), NO_SPLIT) for name in names]
    present = set(splits) - {NO_SPLIT}
    outside = [file for file, split in zip(files, splits, strict=True) if split == NO_SPLIT]
    if present and outside:
        raise InputError(
            f"{source}: {outside[0]} is not below {'/, '.join(SPLITS)}/ as other files are; move or remove it"
        )
    split_to_use = {split: split for split in (*SPLITS, "test", NO_SPLIT)}
    if "train_all" in present:
        split_to_use |= {"train_all": "train", "train": UNUSED}
    elif "val" in present and not present & {"query", "gallery", "test"}:
        split_to_use["val"] = "test"
    elif "val" in present and "test" not in present:
        file = files[splits.index("val")]
        raise InputError(f"{source}: {file} is not below {'/, '.join(SPLITS)}/ as other files are; move or remove it")
    if "test" in present and present & {"query", "gallery"}:
        file = files[splits.index("test")]
        raise InputError(f"{source}: {file} is below test/, but query/ or gallery/ exists beside it; keep one of them")
    unused = sorted(
        {name for name, split in zip(names, splits, strict=True) if split_to_use.get(split, UNUSED) == UNUSED}
    )
    if unused:
        logger.info(f"{source}: {'/, '.join(unused)}/ not used")
    return [split_to_use.get(split, UNUSED) for split in splits]


def _split_folder(file: File) -> str:
    """The innermost folder that is a split; "" for none. The folder of an identity may be inside it."""
    return next((name for name in reversed(file.parts[:-1]) if name.lower() in SPLIT_NAMES), "")
