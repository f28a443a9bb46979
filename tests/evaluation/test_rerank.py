"""k-reciprocal re-ranking against the algorithm as its paper tells it, with sets and full matrices."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bot_deploy.errors import InputError
from bot_deploy.evaluation import rerank
from bot_deploy.evaluation.rerank import k_reciprocal

Floats = npt.NDArray[np.float32]


def naive(query: Any, gallery: Any, k1: int = 20, k2: int = 6, lambda_value: float = 0.3) -> Any:
    """Zhong et al., section 3, with the details that the released code adds: see the comments."""
    features = np.concatenate([query, gallery]).astype(np.float64)
    total, queries = len(features), len(query)
    everyone = range(total)
    distance = [[float(np.square(a - b).sum()) for b in features] for a in features]
    distance = [[value / (max(row) or 1) for value in row] for row in distance]  # by the largest of each row
    order = [sorted(everyone, key=lambda j, i=i: (distance[i][j], j != i, j)) for i in everyone]
    order = [[i, *(j for j in order[i] if j != i)] for i in everyone]

    def mutual(i: int, k: int) -> set[int]:
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}  # the code counts oneself besides k

    encodings = []
    for i in everyone:
        core = mutual(i, k1)
        grown = set(core)
        for j in core:
            theirs = mutual(j, int(np.around(k1 / 2)))
            if len(theirs & core) > 2 / 3 * len(theirs):
                grown |= theirs
        weights = {j: math.exp(-distance[i][j]) for j in grown}
        encodings.append({j: weight / sum(weights.values()) for j, weight in weights.items()})
    expanded = []
    for i in everyone:
        near = order[i][:k2]
        names = {j for n in near for j in encodings[n]}
        expanded.append({j: sum(encodings[n].get(j, 0) for n in near) / len(near) for j in names})
    final = np.empty((queries, total - queries))
    for i in range(queries):
        for j in range(queries, total):
            common = sum(min(value, expanded[j].get(name, 0)) for name, value in expanded[i].items())
            jaccard = 1 - common / (2 - common)
            final[i, j - queries] = (1 - lambda_value) * jaccard + lambda_value * distance[i][j]
    return final


def clustered(seed: int, queries: int, gallery: int, *, people: int = 9, length: int = 24, spread: float = 0.6) -> Any:
    """Unit vectors around `people` centres, and who each is."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(people, length))
    who = rng.integers(0, people, queries + gallery)
    vectors = centres[who] + spread * rng.normal(size=(queries + gallery, length))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return vectors[:queries], vectors[queries:], who[:queries], who[queries:]


def lattice(seed: int, count: int) -> Floats:
    """Unit vectors with four entries of 1/2 or -1/2 among eight: their distances are exact, and mostly equal."""
    rng = np.random.default_rng(seed)
    vectors = np.zeros((count, 8), np.float32)
    for row in vectors:
        row[rng.choice(8, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return vectors


@pytest.fixture(params=["one strip", "many strips"])
def strips(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many strips":
        monkeypatch.setattr(rerank, "_STRIP_ROWS", 7)
        monkeypatch.setattr(rerank, "_BLOCK_IMAGES", 5)
        monkeypatch.setattr(rerank, "_PAIRS_AT_ONCE", 11)


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("k1", "k2", "lambda_value"), [(20, 6, 0.3), (7, 3, 0.0), (5, 1, 0.5), (2, 6, 0.3), (1, 1, 1)])
def test_like_the_paper(seed: int, k1: int, k2: int, lambda_value: float) -> None:
    query, gallery, *_ = clustered(seed, 13, 70)
    result = k_reciprocal(query, gallery, k1, k2, lambda_value)
    expected = naive(query, gallery, k1, k2, lambda_value)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=2e-6)
    for ours, theirs in zip(result, expected, strict=True):
        assert (np.diff(theirs[np.argsort(ours)]) > -1e-5).all()  # the same ranking, but for rounding


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (6, 4), (3, 9)])
def test_ties_go_by_index(seed: int, k1: int, k2: int) -> None:
    vectors = lattice(seed, 60)
    query, gallery = vectors[:9], np.concatenate([vectors[9:], vectors[:4]])
    np.testing.assert_allclose(k_reciprocal(query, gallery, k1, k2), naive(query, gallery, k1, k2), atol=2e-6)


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize(("queries", "gallery"), [(1, 1), (1, 2), (2, 1), (3, 5), (1, 19)])
def test_fewer_images_than_neighbours(queries: int, gallery: int) -> None:
    query, others, *_ = clustered(queries, queries, gallery)
    for k1, k2 in ((20, 6), (1000, 1000), (3, 30)):
        expected = naive(query, others, k1, k2)
        np.testing.assert_allclose(k_reciprocal(query, others, k1, k2), expected, atol=2e-6)


@pytest.mark.usefixtures("strips")
def test_all_the_same_picture() -> None:
    vector = lattice(0, 1)
    result = k_reciprocal(np.repeat(vector, 3, 0), np.repeat(vector, 40, 0))
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result, naive(np.repeat(vector, 3, 0), np.repeat(vector, 40, 0)), atol=2e-6)


@pytest.mark.usefixtures("strips")
def test_lengths_that_are_not_one() -> None:
    """The released code takes squared Euclidean distances of whatever it is given."""
    query, gallery, *_ = clustered(5, 10, 50)
    scale = np.random.default_rng(5).uniform(1, 4, 50).astype(np.float32)[:, None]
    np.testing.assert_allclose(k_reciprocal(query, gallery * scale), naive(query, gallery * scale), atol=5e-6)


def test_what_does_not_change_the_result() -> None:
    query, gallery, *_ = clustered(2, 12, 60)
    expected = k_reciprocal(query, gallery)
    order = np.random.default_rng(0).permutation(60)
    np.testing.assert_allclose(k_reciprocal(query, gallery[order]), expected[:, order], atol=1e-6)
    np.testing.assert_allclose(k_reciprocal(query.astype(np.float64), gallery.tolist()), expected, atol=1e-6)
    before = query.copy(), gallery.copy()
    assert np.array_equal(k_reciprocal(query, gallery), expected)  # to the last digit
    assert np.array_equal(query, before[0])
    assert np.array_equal(gallery, before[1])


def test_lambda_1_is_no_re_ranking() -> None:
    query, gallery, *_ = clustered(3, 12, 60)
    order = np.argsort(k_reciprocal(query, gallery, lambda_value=1))
    assert np.array_equal(order, np.argsort(-(query @ gallery.T)))


def test_it_brings_people_together() -> None:
    from bot_deploy.evaluation.metrics import evaluate

    query, gallery, asked, there = clustered(0, 60, 600, people=30, spread=1.6)
    labels = (asked, there, np.zeros(60), np.ones(600))
    plain = evaluate(query @ gallery.T, *labels).mAP
    assert evaluate(-k_reciprocal(query, gallery), *labels).mAP > plain + 0.05


@pytest.mark.parametrize(
    ("query", "gallery", "options", "message"),
    [
        ((2, 4), (3, 5), {}, r"\(2, 4\) and \(3, 5\)"),
        ((4,), (3, 4), {}, r"give \[Q, D\] and \[G, D\]"),
        ((0, 4), (3, 4), {}, "neither of them empty"),
        ((2, 4), (0, 4), {}, "neither of them empty"),
        ((2, 4), (3, 4), {"k1": 0}, "k1=0, k2=6"),
        ((2, 4), (3, 4), {"k2": 0}, "k2=0"),
        ((2, 4), (3, 4), {"lambda_value": 1.5}, "lambda_value=1.5"),
        ((2, 4), (3, 4), {"lambda_value": math.nan}, "lambda_value=nan"),
    ],
)
def test_what_cannot_be_re_ranked(query: Any, gallery: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        k_reciprocal(np.ones(query), np.ones(gallery), **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(bad: float) -> None:
    vectors = np.ones((3, 4))
    vectors[1, 2] = bad
    with pytest.raises(InputError, match="not finite"):
        k_reciprocal(np.ones((2, 4)), vectors)


MEMORY = """
import numpy as np
from bot_deploy.evaluation.rerank import k_reciprocal

def peak():  # ru_maxrss would begin with that of the process that started this one
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

rng = np.random.default_rng(0)
who = rng.integers(0, 500, 7000)
vectors = rng.normal(size=(500, 32))[who] + 0.8 * rng.normal(size=(7000, 32))
vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
k_reciprocal(vectors[:20], vectors[20:60])
before = peak()
k_reciprocal(vectors[:1000], vectors[1000:])
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory() -> None:
    """One float32 matrix of 7,000 x 7,000 would be 187 MiB; the released code holds several."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert 20 < int(done.stdout) / 1024 < 130  # the distances alone take 23
