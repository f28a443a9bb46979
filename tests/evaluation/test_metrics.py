"""CMC, mAP and mINP against rankings by hand and against sorting loops."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bot_deploy.errors import InputError
from bot_deploy.evaluation import metrics
from bot_deploy.evaluation.metrics import DotProducts, RankingScores, evaluate

Labels = tuple[list[int], list[int], list[int], list[int]]


@dataclass
class Naive:
    cmc: list[float]
    mAP: float  # noqa: N815 - as in RankingScores
    mINP: float  # noqa: N815
    queries: int


def naive(similarity: Any, labels: Labels, max_rank: int = 50) -> Naive:
    """The protocol word by word: sort, strike out, walk down the list."""
    query_ids, gallery_ids, query_cams, gallery_cams = labels
    curves, precisions, penalties = [], [], []
    for query, row in enumerate(similarity):
        order = sorted(range(len(gallery_ids)), key=lambda g, row=row: (-float(row[g]), g))
        seen = hits = last = 0
        total = first = 0.0
        for g in order:
            own = gallery_ids[g] == query_ids[query]
            if gallery_ids[g] == -1 or (own and gallery_cams[g] == query_cams[query]):
                continue
            seen += 1
            if own:
                hits += 1
                total += hits / seen
                last = seen
                first = first or seen
        if not hits:
            continue
        curves.append([float(first <= rank) for rank in range(1, min(max_rank, len(gallery_ids)) + 1)])
        precisions.append(total / hits)
        penalties.append(hits / last)
    count = len(curves)
    cmc = [sum(column) / count for column in zip(*curves, strict=True)]
    return Naive(cmc, sum(precisions) / count, sum(penalties) / count, count)


def same(result: RankingScores, expected: Naive) -> None:
    np.testing.assert_allclose(result.cmc, expected.cmc, atol=1e-12)
    assert result.mAP == pytest.approx(expected.mAP, abs=1e-12)
    assert result.mINP == pytest.approx(expected.mINP, abs=1e-12)
    assert result.scored_queries == expected.queries


def random_labels(rng: np.random.Generator, queries: int, gallery: int, people: int = 8) -> Labels:
    return (
        rng.integers(1, people + 3, queries).tolist(),  # some ask for people who are in no gallery
        rng.integers(-1, people, gallery).tolist(),
        rng.integers(1, 4, queries).tolist(),
        rng.integers(1, 4, gallery).tolist(),
    )


# ---- by hand ----


def rank(true_at: list[int], size: int, **options: Any) -> RankingScores:
    """One query of person 1 over `size` images, best first; person 1 stands at the 0-based places `true_at`."""
    gallery = [1 if place in true_at else 2 for place in range(size)]
    return evaluate(-np.arange(size, dtype=np.float32)[None], [1], gallery, [1], [2] * size, **options)


@pytest.mark.parametrize(
    ("places", "first", "average", "inverse"),
    [
        ([0], 1, 1, 1),
        ([3], 4, 1 / 4, 1 / 4),
        ([0, 1, 2], 1, 1, 1),
        ([0, 2], 1, (1 + 2 / 3) / 2, 2 / 3),
        ([1, 3, 4], 2, (1 / 2 + 2 / 4 + 3 / 5) / 3, 3 / 5),  # interpolated it would be 0.55 + ...
        ([4], 5, 1 / 5, 1 / 5),
    ],
)
def test_one_query(places: list[int], first: int, average: float, inverse: float) -> None:
    result = rank(places, 5)
    assert result.mAP == pytest.approx(average)
    assert result.mINP == pytest.approx(inverse)
    assert result.cmc.tolist() == [float(place >= first) for place in range(1, 6)]
    assert result.scored_queries == 1


def test_two_queries_are_averaged() -> None:
    # Query 0 finds person 1 at ranks 1 and 3; query 1 finds person 2 at rank 3.
    similarity = np.array([[0.9, 0.8, 0.7, 0.1], [0.9, 0.6, 0.2, 0.8]])
    result = evaluate(similarity, [1, 2], [1, 2, 1, 3], [1, 1], [2, 2, 2, 2])
    assert result.cmc.tolist() == [0.5, 0.5, 1, 1]
    assert result.mAP == pytest.approx(((1 + 2 / 3) / 2 + 1 / 3) / 2)
    assert result.mINP == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_larger_is_closer() -> None:
    labels = ([1], [1, 2], [1], [2, 2])
    assert evaluate(np.array([[0.9, 0.1]]), *labels).cmc[0] == 1
    assert evaluate(np.array([[0.1, 0.9]]), *labels).cmc[0] == 0


def test_own_picture_of_the_same_camera_is_left_out_but_other_people_on_it_are_not() -> None:
    similarity = np.array([[0.9, 0.8, 0.7]])
    result = evaluate(similarity, [1], [1, 2, 1], [1], [1, 1, 2])
    assert result.cmc.tolist() == [0, 1, 1]
    assert result.mAP == pytest.approx(1 / 2)


def test_junk_is_left_out_and_distractors_are_wrong_answers() -> None:
    similarity = np.array([[0.9, 0.8, 0.7]])
    assert evaluate(similarity, [1], [-1, 1, 2], [1], [2, 2, 2]).cmc[0] == 1
    assert evaluate(similarity, [1], [0, 1, 2], [1], [2, 2, 2]).cmc.tolist() == [0, 1, 1]
    assert evaluate(similarity, [1], [0, -1, 1], [1], [2, 2, 2]).mAP == pytest.approx(1 / 2)


def test_equal_similarities_go_by_gallery_index() -> None:
    flat = np.full((1, 4), 0.5)
    for place in range(4):
        gallery = [2, 2, 2, 2]
        gallery[place] = 1
        result = evaluate(flat, [1], gallery, [1], [2] * 4)
        assert result.cmc.tolist() == [float(column >= place) for column in range(4)]
        assert result.mAP == pytest.approx(1 / (place + 1))


def test_queries_without_a_true_match_do_not_count() -> None:
    similarity = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
    # Person 9 is not there at all; person 2 only on the query's own camera.
    result = evaluate(similarity, [1, 9, 2], [1, 2], [1, 1, 3], [2, 3])
    assert result.scored_queries == 1
    assert result.cmc.tolist() == [1, 1]
    assert result.mAP == 1


def test_max_rank() -> None:
    assert rank([3], 8, max_rank=3).cmc.tolist() == [0, 0, 0]
    assert rank([3], 8, max_rank=4).cmc.tolist() == [0, 0, 0, 1]
    assert rank([3], 8, max_rank=3).mAP == pytest.approx(1 / 4)  # it cuts the curve, not the list
    assert rank([3], 8).cmc.shape == (8,)  # no more than there are images
    assert rank([3], 80).cmc.shape == (50,)


# ---- against sorting ----


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("max_rank", [5, 50])
def test_like_the_loop(seed: int, ties: bool, max_rank: int) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.normal(size=(40, 70)).astype(np.float32)
    if ties:
        similarity = np.round(similarity)
    labels = random_labels(rng, 40, 70)
    same(evaluate(similarity, *labels, max_rank=max_rank), naive(similarity, labels, max_rank))


def unit(rng: np.random.Generator, count: int, length: int = 16) -> npt.NDArray[np.float32]:
    vectors = rng.normal(size=(count, length)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.mark.parametrize("queries", [1, 6, 7, 8, 14, 20])
def test_embeddings_like_similarities_across_chunks(monkeypatch: pytest.MonkeyPatch, queries: int) -> None:
    rng = np.random.default_rng(queries)
    query, gallery = unit(rng, queries), unit(rng, 60)
    labels = random_labels(rng, queries, 60, people=4)
    labels[0][:] = [1 + index % 3 for index in range(queries)]
    expected = naive(query @ gallery.T, labels)
    monkeypatch.setattr(metrics, "_QUERIES_AT_ONCE", 7)
    same(evaluate(query @ gallery.T, *labels), expected)
    same(evaluate(DotProducts(query, gallery), *labels), expected)
    same(evaluate(DotProducts(query, gallery), *labels, max_rank=3), naive(query @ gallery.T, labels, 3))


def test_more_queries_than_one_real_chunk() -> None:
    rng = np.random.default_rng(0)
    count = metrics._QUERIES_AT_ONCE + 3
    query, gallery = unit(rng, count), unit(rng, 30)
    labels = random_labels(rng, count, 30)
    same(evaluate(DotProducts(query, gallery), *labels), naive(query @ gallery.T, labels))


def test_labels_of_any_kind() -> None:
    similarity = np.array([[0.9, 0.8, 0.7]])
    lists = evaluate(similarity, [1], [2, 1, 1], [1], [2, 2, 3])
    arrays = evaluate(
        similarity.tolist(),  # type: ignore[arg-type]
        np.array([1], np.int32),
        np.array([[2], [1], [1]], np.uint8),
        np.array([1]),
        (2, 2, 3),
    )
    assert (lists.mAP, lists.mINP) == (arrays.mAP, arrays.mINP) == (pytest.approx((1 / 2 + 2 / 3) / 2), 2 / 3)


# ---- one gallery image of each person ----


def naive_single_shot(similarity: Any, labels: Labels, max_rank: int) -> list[float]:
    """CMC over every possible draw of one image per person, one by one."""
    query_ids, gallery_ids, query_cams, gallery_cams = labels
    curves = []
    for query, row in enumerate(similarity):
        people: dict[int, list[int]] = {}
        for g, person in enumerate(gallery_ids):
            if person != -1 and (person, gallery_cams[g]) != (query_ids[query], query_cams[query]):
                people.setdefault(person, []).append(g)
        if query_ids[query] not in people:
            continue
        curve, draws = np.zeros(max_rank), 0
        for drawn in itertools.product(*people.values()):
            order = sorted(drawn, key=lambda g, row=row: (-float(row[g]), g))
            place = [gallery_ids[g] for g in order].index(query_ids[query])
            curve[place:] += 1
            draws += 1
        curves.append(curve / draws)
    return list(np.mean(curves, axis=0))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_single_shot_is_the_mean_over_all_draws(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.normal(size=(12, 13))
    if ties:
        similarity = np.round(similarity)
    labels = random_labels(rng, 12, 13, people=4)
    for max_rank in (2, 13):
        result = evaluate(similarity, *labels, max_rank=max_rank, single_shot=True)
        np.testing.assert_allclose(result.cmc, naive_single_shot(similarity, labels, max_rank), atol=1e-12)
    same_but_cmc = evaluate(similarity, *labels)
    assert (result.mAP, result.mINP, result.scored_queries) == (
        same_but_cmc.mAP,
        same_but_cmc.mINP,
        same_but_cmc.scored_queries,
    )


def test_single_shot_by_hand() -> None:
    # Person 1 is drawn at rank 1 or behind person 2, of whose two images one is ahead of the second.
    result = evaluate(np.array([[0.9, 0.8, 0.7, 0.6]]), [1], [1, 2, 1, 2], [1], [2] * 4, single_shot=True)
    assert result.cmc.tolist() == [0.75, 1, 1, 1]
    labels = ([1], [1, 2, 1, 2], [1], [2] * 4)
    products = DotProducts(np.array([[1.0]]), np.array([[0.9], [0.8], [0.7], [0.6]]))
    embedded = evaluate(products, *labels, single_shot=True)
    assert embedded.cmc.tolist() == [0.75, 1, 1, 1]


# ---- what cannot be scored ----


@pytest.mark.parametrize(
    ("shape", "sizes", "message"),
    [
        ((2, 3), (2, 4, 2, 4), r"similarity is \(2, 3\), but there are \(2, 4\)"),
        ((3, 2), (2, 3, 2, 3), r"similarity is \(3, 2\)"),
        ((6,), (2, 3, 2, 3), r"similarity is \(6,\)"),
        ((2, 3), (2, 3, 1, 3), "identities and cameras differ in number"),
        ((2, 3), (2, 3, 2, 2), "identities and cameras differ in number"),
    ],
)
def test_shapes_that_do_not_fit(shape: tuple[int, ...], sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(np.zeros(shape), *([1] * size for size in sizes))


@pytest.mark.parametrize(
    ("query", "gallery", "message"),
    [
        ((2, 4), (4, 4), r"similarity is \(2, 4\), but there are \(2, 3\)"),
        ((1, 4), (3, 4), r"similarity is \(1, 3\), but there are \(2, 3\)"),
        ((2, 5), (3, 4), r"query embeddings are \(2, 5\), gallery embeddings \(3, 4\)"),
    ],
)
def test_embeddings_that_do_not_fit(query: tuple[int, int], gallery: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(DotProducts(np.zeros(query), np.zeros(gallery)), [1, 1], [1, 1, 1], [1, 1], [2, 2, 2])


@pytest.mark.parametrize("row", [0, 1])
def test_not_a_number(row: int) -> None:
    similarity = np.zeros((2, 3))
    similarity[row, 2] = np.nan
    with pytest.raises(InputError, match="not a number"):
        evaluate(similarity, [1, 1], [1, 2, 3], [1, 1], [2, 2, 2])
    vectors = np.full((2, 4), np.nan, np.float32)
    products = DotProducts(vectors, unit(np.random.default_rng(0), 3, 4))
    with pytest.raises(InputError, match="not a number"):
        evaluate(products, [1, 1], [1, 2, 3], [1, 1], [2, 2, 2])


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (([1], [2, 3], [1], [2, 2]), "nobody of that name"),
        (([1], [1, 2], [1], [1, 2]), "only on the same camera"),
        (([-1], [-1, -1], [1], [2, 2]), "only junk"),
        (([1], [], [1], []), "an empty gallery"),
        (([], [1, 2], [], [1, 2]), "no query"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nothing_to_score(labels: Labels, why: str) -> None:
    with pytest.raises(InputError, match="no query has a true match"):
        evaluate(np.zeros((len(labels[0]), len(labels[1]))), *labels)


def test_dot_products_that_rank_as_euclidean_distances_do() -> None:
    from bot_deploy.evaluation.protocol import euclidean_as_dot

    rng = np.random.default_rng(3)
    query, gallery = rng.normal(size=(7, 5)).astype(np.float32), 3 * rng.normal(size=(40, 5)).astype(np.float32)
    a, b = euclidean_as_dot(query, gallery)
    for row, vector in enumerate(query):
        distances = [float(np.linalg.norm(vector - other)) for other in gallery]
        assert np.argsort(-(a[row] @ b.T)).tolist() == np.argsort(distances).tolist()
