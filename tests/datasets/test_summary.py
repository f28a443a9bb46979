"""What is printed of a data set before the work starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_deploy.datasets import Crop, Dataset, describe_dataset, describe_names, training_notes
from bot_deploy.datasets.names import CropMetadata
from bot_deploy.datasets.summary import count_batches
from bot_deploy.train.sampler import draw_batches


def crops(counts: dict[int, int], cameras: int = 2) -> tuple[Crop, ...]:
    return tuple(
        Crop(Path(f"data/p{identity}/{number}.jpg"), identity, number % cameras + 1, identity_name=f"p{identity}")
        for identity, count in counts.items()
        for number in range(count)
    )


def without_cameras(crops: tuple[Crop, ...]) -> tuple[Crop, ...]:
    """The same crops, each of an unknown camera."""
    return tuple(replace(crop, camera=10**6 + number, has_known_camera=False) for number, crop in enumerate(crops))


QUERY, GALLERY = crops({8: 1}), crops({8: 2})


def dataset(train: tuple[Crop, ...], query: tuple[Crop, ...] = QUERY, gallery: tuple[Crop, ...] = GALLERY) -> Dataset:
    return Dataset(("x",), train, query, gallery)


def test_counts_and_examples() -> None:
    assert describe_dataset(dataset(crops({1: 2, 2: 3}), gallery=(*GALLERY, Crop(Path("d.jpg"), 0, 3)))) == [
        "train: 5 crops of 2 identities from 2 known cameras",
        "query: 1 crops of 1 identity from 1 known camera",
        "gallery: 3 crops of 1 identity from 3 known cameras; 1 distractors",
        "  data/p1/0.jpg -> p1, camera 1",
        "  data/p2/0.jpg -> p2, camera 1",
        "  data/p8/0.jpg -> p8, camera 1",
    ]


def test_a_gallery() -> None:
    infos = {"a/c1_1.jpg": CropMetadata("a", 1), "a/2.jpg": CropMetadata("a"), "3.jpg": CropMetadata()}
    assert describe_names(infos) == [
        "3 crops of 1 identity from 1 known camera; 1 without identity",
        "  a/c1_1.jpg -> a, camera 1",
        "  3.jpg -> no identity",
    ]


def test_an_ordinary_set_has_no_notes() -> None:
    assert training_notes(dataset(crops(dict.fromkeys(range(1, 8), 8))), 2, 4) == []


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (dataset(crops({1: 4, 2: 1})), "1 of 2 training identities have one crop: the triplet loss gets 4 copies"),
        (dataset(crops({1: 5000, 2: 16})), "an epoch has at most 32 of 5016 crops, because one identity has 5000"),
        (dataset(crops({1: 5000, 2: 16})), "2 different ones; give the others more crops"),
        (dataset(crops({1: 4, 2: 4}, cameras=1)), "all training crops are from one camera"),
        (dataset(without_cameras(crops({1: 4, 2: 4}))), "no training crop has a camera in its name"),
        (
            dataset(crops({1: 4, 2: 4}), gallery=without_cameras(GALLERY)),
            f"{len(GALLERY)} of {len(GALLERY) + len(QUERY)} crops of query and gallery have no camera",
        ),
        (
            dataset(crops({1: 4, 2: 4}), gallery=()),
            "no rank-1 and no mAP are measured, because there are no gallery crops",
        ),
        (dataset(crops({1: 4, 2: 4}), query=()), "no rank-1 and no mAP are measured, because there are no query crops"),
        (
            dataset(crops({1: 4, 2: 4}), gallery=crops({8: 1})),
            "`bot eval --no-camera-filter` scores data of one camera",
        ),
        (dataset(crops({1: 4, 8: 4})), "1 identity is in the training crops and in the queries"),
    ],
)
def test_a_line_for_each_property_that_spoils_a_training(data: Dataset, note: str) -> None:
    notes = training_notes(data, 2, 4)
    assert len(notes) == 1
    assert note in notes[0]


@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=8),
    p=st.integers(2, 4),
    k=st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_no_epoch_has_more_batches_than_are_announced(counts: list[int], p: int, k: int, seed: int) -> None:
    if len(counts) < p:
        return
    labels = np.repeat(np.arange(len(counts)), counts)
    assert len(list(draw_batches(labels, p, k, np.random.default_rng(seed)))) <= count_batches(counts, p, k)
