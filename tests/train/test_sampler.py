"""P x K batches: their shape, repeated and dropped images, and their number on the real labels."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bot_deploy.errors import InputError
from bot_deploy.train.sampler import draw_batches

Labels = npt.NDArray[np.int64]

MARKET = Path(__file__).resolve().parents[3] / "shared" / "data" / "Market-1501-v15.09.15.zip"


def make_labels(counts: list[int], seed: int = 0) -> Labels:
    """Shuffled labels with counts[i] images of identity i."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


def epoch(labels: Labels, p: int, k: int, seed: int = 0) -> list[Labels]:
    return list(draw_batches(labels, p, k, np.random.default_rng(seed)))


COUNTS = [1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 30]


@pytest.mark.parametrize(("p", "k"), [(16, 4), (8, 4), (3, 2), (11, 1), (2, 7)])
def test_every_batch_is_p_identities_of_k_consecutive_images(p: int, k: int) -> None:
    labels = make_labels(COUNTS * 2)
    drawn = epoch(labels, p, k)
    assert drawn
    for batch in drawn:
        assert batch.shape == (p * k,)
        groups = labels[batch].reshape(p, k)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0].tolist())) == p


@pytest.mark.parametrize("seed", range(3))
def test_no_image_twice_in_an_epoch_where_an_identity_has_enough(seed: int) -> None:
    labels = make_labels(COUNTS * 2)
    used = Counter(np.concatenate(epoch(labels, 4, 4, seed)).tolist())
    images = Counter(labels.tolist())
    enough = [index for index in used if images[labels[index]] >= 4]
    assert len(enough) > 20
    assert all(used[index] == 1 for index in enough)


def test_an_identity_with_too_few_images_is_resampled_from_its_own() -> None:
    labels = make_labels([1, 2, 3, 4])
    repeats = set()
    for seed in range(20):
        (batch,) = epoch(labels, 4, 4, seed)
        for identity, count in enumerate((1, 2, 3, 4)):
            own = batch[labels[batch] == identity]
            assert len(own) == 4
            repeats.add((identity, len(set(own.tolist()))))
            assert len(set(own.tolist())) <= count
    # With replacement: three draws of four may even be one image; four images are never repeated.
    assert {(0, 1), (1, 2), (2, 3), (3, 4)} <= repeats
    assert {(1, 1), (2, 2)} <= repeats
    assert {number for identity, number in repeats if identity == 3} == {4}


def test_a_remainder_is_dropped_and_every_whole_chunk_used() -> None:
    # With P = 1 an epoch lasts until no identity has a chunk left.
    labels = make_labels(COUNTS)
    chunks = Counter(int(labels[batch][0]) for batch in epoch(labels, 1, 4))
    assert chunks == {identity: max(count // 4, 1) for identity, count in enumerate(COUNTS)}


def test_dropped_images_change_from_epoch_to_epoch() -> None:
    labels = make_labels([7])
    dropped = {tuple(set(range(7)) - set(epoch(labels, 1, 4, seed)[0].tolist())) for seed in range(20)}
    assert len(dropped) > 5


@pytest.mark.parametrize("p", [2, 4, 7])
def test_an_epoch_ends_when_fewer_than_p_identities_have_chunks_left(p: int) -> None:
    counts = [12, 12, 12, 12, 16, 20, 4]
    labels = make_labels(counts)
    for seed in range(5):
        drawn = epoch(labels, p, 4, seed)
        used = Counter(labels[np.concatenate(drawn)].tolist())
        left = [identity for identity, count in enumerate(counts) if used[identity] < count]
        assert len(left) < p
        assert len(drawn) * p * 4 + sum(counts[identity] - used[identity] for identity in left) == sum(counts)


def test_identities_are_drawn_evenly() -> None:
    labels = make_labels([4] * 8)
    first = Counter(int(label) for seed in range(400) for label in set(labels[epoch(labels, 2, 4, seed)[0]].tolist()))
    # Each is in the first batch with probability 1/4: 100 of 400, standard deviation 8.7.
    assert set(first) == set(range(8))
    assert all(60 < count < 140 for count in first.values())


def test_the_seed_decides_the_batches() -> None:
    labels = make_labels(COUNTS * 2)
    once, again, other = (np.stack(epoch(labels, 4, 4, seed)[:5]) for seed in (5, 5, 6))
    np.testing.assert_array_equal(once, again)
    assert (once != other).any()


def test_epochs_of_one_generator_differ() -> None:
    labels, rng = make_labels(COUNTS * 2), np.random.default_rng(0)
    first, second = (np.stack(list(draw_batches(labels, 4, 4, rng))[:5]) for _ in range(2))
    assert (first != second).any()


def test_identities_need_not_be_numbered_from_zero() -> None:
    labels = np.array([7, 7, 1500, 1500, 3, 3])
    (batch,) = epoch(labels, 3, 2)
    assert sorted(batch.tolist()) == list(range(6))


def test_too_few_identities() -> None:
    with pytest.raises(InputError, match=r"3 identities, but a batch takes 16; set identities_per_batch to 3 or less"):
        epoch(make_labels([4, 4, 4]), 16, 4)


@pytest.mark.skipif(not MARKET.exists(), reason=f"no Market-1501 at {MARKET}")
def test_about_183_batches_an_epoch_on_market_1501() -> None:
    with zipfile.ZipFile(MARKET) as archive:
        names = [name.split("/") for name in archive.namelist() if name.endswith(".jpg")]
    train = [name[-1] for name in names if name[-2] == "bounding_box_train"]
    _, labels = np.unique([int(name.split("_")[0]) for name in train], return_inverse=True)
    assert (len(labels), labels.max() + 1) == (12_936, 751)
    sizes = [len(epoch(labels, 16, 4, seed)) for seed in range(6)]
    assert all(abs(size - 183) <= 1 for size in sizes), sizes
