"""What was understood of a data set, in lines to read before the work starts, and what is unusual about it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from .dataset import DISTRACTOR
from .names import SPLITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .dataset import Crop, Dataset
    from .names import CropMetadata

EXAMPLES = 3


def describe_dataset(dataset: Dataset) -> list[str]:
    """Lines with the crops, identities and cameras of each split, and examples of path -> identity."""
    lines = [f"{split}: {_counts(crops)}" for split in SPLITS if (crops := getattr(dataset, split))]
    crops = [*dataset.train, *dataset.query, *dataset.gallery]
    examples: dict[int, Crop] = {}
    for crop in crops:
        if crop.identity > DISTRACTOR and len(examples) < EXAMPLES:
            examples.setdefault(crop.identity, crop)
    return lines + [
        _example(
            _short(crop.path), crop.identity_name or str(crop.identity), crop.camera if crop.has_known_camera else None
        )
        for crop in examples.values()
    ]


def describe_names(infos: Mapping[str, CropMetadata]) -> list[str]:
    """The same lines for the crops of a gallery, by path."""
    identities = {info.identity for info in infos.values() if info.identity is not None}
    cameras = {info.camera for info in infos.values() if info.camera is not None}
    nameless = sum(info.identity is None for info in infos.values())
    lines = [
        f"{len(infos)} crops of {_number(len(identities), 'identity', 'identities')} from "
        f"{_number(len(cameras), 'known camera', 'known cameras')}"
        + (f"; {nameless} without identity" if nameless else "")
    ]
    examples: dict[str | None, str] = {}
    for path, info in infos.items():
        if len(examples) < EXAMPLES:
            examples.setdefault(info.identity, path)
    return lines + [
        _example(path, "no identity" if identity is None else identity, infos[path].camera)
        for identity, path in examples.items()
    ]


def training_notes(dataset: Dataset, p: int, k: int) -> list[str]:
    """A line for each property of `dataset` that spoils a training with p identities of k crops in a batch."""
    counts = Counter(crop.identity for crop in dataset.train)
    notes = []
    singles = sum(count == 1 for count in counts.values())
    if singles:
        notes.append(
            f"{singles} of {_number(len(counts), 'training identity', 'training identities')} have one crop: the "
            f"triplet loss gets {k} copies of it; add crops, or leave these identities out"
        )
    batches = count_batches(list(counts.values()), p, k)
    used, largest = batches * p * k, max(counts.values(), default=0)
    if len(counts) > 1 and 2 * used < len(dataset.train):
        fewer = max(2, p // 4)
        remedy = f"identities_per_batch={fewer} uses more of them" if fewer < p else "give the others more crops"
        notes.append(
            f"an epoch has at most {used} of {len(dataset.train)} crops, because one identity has {largest} and a "
            f"batch takes {p} different ones; {remedy}"
        )
    cameras = {crop.camera for crop in dataset.train}
    if dataset.train and not any(crop.has_known_camera for crop in dataset.train):
        notes.append(
            "no training crop has a camera in its name: if all are from one camera, the model does not learn to "
            "recognise people across cameras; give cameras in file names (c1, c2)"
        )
    elif len(cameras) == 1:
        notes.append(
            "all training crops are from one camera: the model does not learn to recognise people across cameras; give "
            "cameras in file names (c1, c2) if there are several"
        )
    return notes + scoring_notes(dataset)


def scoring_notes(dataset: Dataset) -> list[str]:
    """A line for each reason why `dataset` gives no scores, or scores that mislead."""
    missing = [split for split in ("query", "gallery") if not getattr(dataset, split)]
    if missing:
        reason = f"no rank-1 and no mAP are measured, because there are no {' and no '.join(missing)} crops"
        return [f"{reason}; put them below query/ and gallery/, or score other data with `bot eval --data`"]
    identities = {crop.identity for crop in dataset.query}
    notes = camera_notes(dataset)
    both = identities & {crop.identity for crop in dataset.train}
    if both:
        notes.append(
            f"{_number(len(both), 'identity is', 'identities are')} in the training crops and in the queries: the "
            "scores are too good for people that the model has never seen"
        )
    seen = {(crop.identity, crop.camera) for crop in dataset.gallery}
    cameras_of: dict[int, set[int]] = {}
    for identity, camera in seen:
        cameras_of.setdefault(identity, set()).add(camera)
    if not any(cameras_of.get(crop.identity, set()) - {crop.camera} for crop in dataset.query):
        notes.append(
            "no query has a crop of its identity from another camera in the gallery, so nothing can be scored; "
            "`bot eval --no-camera-filter` scores data of one camera"
        )
    return notes


def camera_notes(dataset: Dataset) -> list[str]:
    """A line if cameras of query and gallery are unknown, so that the scores are too good."""
    crops = [*dataset.query, *dataset.gallery]
    unknown = sum(not crop.has_known_camera for crop in crops)
    if not unknown:
        return []
    note = (
        f"{unknown} of {len(crops)} crops of query and gallery have no camera, and each counts as from a camera of its "
        "own: where they are neighbouring frames, the scores are too good; give cameras in file names (c1, c2)"
    )
    return [note]


def count_batches(counts: Sequence[int], p: int, k: int) -> int:
    """The largest number of batches of p identities with k crops each, from identities with `counts` crops."""
    chunks = [max(1, count // k) for count in counts]
    batches = sum(chunks) // p
    while batches and sum(min(chunk, batches) for chunk in chunks) < p * batches:
        batches = sum(min(chunk, batches) for chunk in chunks) // p
    return batches


def _counts(crops: Sequence[Crop]) -> str:
    identities = {crop.identity for crop in crops if crop.identity > DISTRACTOR}
    cameras = {crop.camera for crop in crops if crop.has_known_camera}
    distractors = sum(crop.identity == DISTRACTOR for crop in crops)
    unknown = sum(not crop.has_known_camera for crop in crops)
    return (
        f"{len(crops)} crops of {_number(len(identities), 'identity', 'identities')} from "
        f"{_number(len(cameras), 'known camera', 'known cameras')}"
        + (f"; {distractors} distractors" if distractors else "")
        + (f"; {unknown} crops without a camera" if unknown else "")
    )


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _short(path: Path | object) -> str:
    """The last three parts of a path."""
    return "/".join(str(path).replace("\\", "/").split("/")[-3:])


def _example(path: str, identity: str, camera: int | None) -> str:
    return f"  {path} -> {identity}" + ("" if camera is None else f", camera {camera}")
