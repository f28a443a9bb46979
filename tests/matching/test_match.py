"""Queries and a gallery to rankings, against plain loops."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers.random_gallery import (
    Vectors,
    as_stored,
    draw,
    filter_predicate,
    naive,
    open_test_index,
    project,
    random_items,
    random_unit_vectors,
)

from bot_deploy import images
from bot_deploy.artifacts.contract import Calibration
from bot_deploy.datasets.names import CropMetadata
from bot_deploy.embedder import Embedder
from bot_deploy.errors import ImageError, InputError
from bot_deploy.evaluation.rerank import k_reciprocal
from bot_deploy.gallery import GalleryItem
from bot_deploy.matching.match import Match, Ranking, rank
from bot_deploy.matching.queries import Query, merge_queries, read_queries
from bot_deploy.matching.verdict import Verdict, make_verdict

CALIBRATION = Calibration(
    data="d", genuine_pairs=100, impostor_pairs=1000, target_false_accept_rate=0.01,
    threshold=0.6, reject_threshold=0.3, false_reject_rate=0.2,
    curve=((0.0, 0.5), (0.6, 0.01), (0.9, 0.0001)),
)  # fmt: skip


# ---- queries ----


def test_a_folder_of_queries(embedder: Embedder, tmp_path: Path) -> None:
    root = tmp_path / "asked"
    seen = {
        "0002_c1s1_000451_03.png": (CropMetadata("0002", 1, 451), None, (1,)),
        "alice/2026-01-31_12-30-05_cam3.png": (CropMetadata(None, 3, 1769862605), "alice", (3,)),
        "bob/c4/x.png": (CropMetadata(None, 4, None), "bob", (4,)),
        "x.png": (CropMetadata(), "asked", ()),
    }
    for seed, name in enumerate(seen):
        draw(root / name, seed)
    (root / "alice" / "broken.jpg").write_bytes(b"no image")
    (root / "notes.txt").touch()
    queries, broken = read_queries(root, embedder)
    assert [query.path for query in queries] == sorted(root / name for name in seen)
    for query in queries:
        known = seen[query.path.relative_to(root).as_posix()]
        assert (query.metadata, query.folder, query.cameras) == known
        np.testing.assert_array_equal(query.vector, project(images.read_image(query.path)))
        assert query.shots == ()
    assert {path: str(error) for path, error in broken.items()} == {
        root / "alice" / "broken.jpg": f"{root}/alice/broken.jpg: not a JPEG, PNG, WebP, BMP, GIF, TIFF or AVIF image"
    }
    # One of them by its name is the same query.
    (one,), none = read_queries(root / "x.png", embedder)
    assert none == {}
    assert (one.path, one.metadata, one.folder) == (root / "x.png", CropMetadata(), "asked")
    np.testing.assert_array_equal(one.vector, project(images.read_image(root / "x.png")))


def test_no_usable_query(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"none of 2 image files is usable as a query; images end in .*\.png"):
        read_queries(tmp_path, embedder)
    for name, message in (("a.jpg", "the file is empty"), ("none.jpg", "cannot be read")):
        with pytest.raises(ImageError, match=message):
            read_queries(tmp_path / name, embedder)


def shot(name: str, vector: list[float], identity: str | None, folder: str | None, *cameras: int) -> Query:
    return Query(Path(name), np.asarray(vector, np.float32), CropMetadata(identity, None, 5), folder, cameras)


def test_one_person_by_hand() -> None:
    shots = [
        shot("p/a", [1, 0, 0], "7", None, 3),
        shot("p/b", [0.6, 0.8, 0], "7", None, 1),
        shot("p/c", [0, 0, 1], "7", None, 3),
    ]
    person = merge_queries(Path("p"), shots)
    # The mean is (1.6, 0.8, 1) / 3.
    np.testing.assert_allclose(person.vector, np.array([1.6, 0.8, 1]) / 4.2**0.5, atol=1e-6)
    assert person.vector.dtype == np.float32
    assert (person.path, person.shots) == (Path("p"), (Path("p/a"), Path("p/b"), Path("p/c")))
    assert person.metadata == CropMetadata("7")  # several times are none
    assert (person.folder, person.cameras) == (None, (1, 3))
    assert person.shot_cameras == (3, 1, 3)  # with their weights, for the means of an adapted model


@pytest.mark.parametrize(
    ("identities", "folders", "agreed"),
    [
        (("7", "8"), (None, None), (None, None)),
        (("7", None), (None, "x"), (None, None)),
        ((None, None), ("x", "x"), (None, "x")),
        ((None, None), ("x", "y"), (None, None)),
    ],
)
def test_one_person_is_who_all_shots_agree_on(identities: Any, folders: Any, agreed: Any) -> None:
    shots = [shot("a", [1, 0], identities[0], folders[0]), shot("b", [-1, 0], identities[1], folders[1])]
    person = merge_queries(Path("p"), shots)
    assert (person.metadata.identity, person.folder) == agreed
    assert not person.vector.any()  # opposite ones have no mean direction, and no NaN


# ---- ranking ----


class Filled(NamedTuple):
    gallery: Any
    rows: list[GalleryItem]
    vectors: Vectors

    def expected(self, query: Query, least: float = -1, **filters: Any) -> list[tuple[float, str]]:
        scored = naive(self.rows, as_stored(self.gallery, self.vectors), query.vector, filter_predicate(**filters))
        return [one for one in scored if one[0] >= least]


@pytest.fixture
def filled(address: str) -> Iterator[Filled]:
    rows, vectors = random_items(300)
    with open_test_index(address) as gallery:
        gallery.add(rows, vectors)
        yield Filled(gallery, rows, vectors)


def asked(count: int, **fields: Any) -> list[Query]:
    vectors = random_unit_vectors(np.random.default_rng(1), count)
    return [Query(Path(f"{number}.jpg"), vector, **fields) for number, vector in enumerate(vectors)]


def check(ranking: Ranking, filled: Filled, expected: list[tuple[float, str]]) -> None:
    root = filled.gallery.root
    assert [match.path for match in ranking.matches] == [root / path for _, path in expected]
    assert [match.score for match in ranking.matches] == pytest.approx([score for score, _ in expected], abs=2e-6)
    assert [match.rank for match in ranking.matches] == list(range(1, len(expected) + 1))
    known = {root / row.path: (row.identity, row.camera, row.time) for row in filled.rows}
    assert all((match.identity, match.camera, match.time) == known[match.path] for match in ranking.matches)


def test_each_query_by_itself(filled: Filled) -> None:
    queries = asked(4)
    lengths = set()
    for filters in ({}, {"cameras": [1, 2], "since": 20}, {"exclude_cameras": [3], "until": 60.5}):
        rankings = rank(queries, filled.gallery, CALIBRATION, 20, 0.35, **filters)
        lengths |= {len(ranking.matches) for ranking in rankings}
        for query, ranking in zip(queries, rankings, strict=True):
            assert ranking.query == query.path
            check(ranking, filled, filled.expected(query, 0.35, **filters)[:20])
            left = len(filled.expected(query, **filters))
            assert ranking.verdict == make_verdict(
                CALIBRATION, ranking.matches[0].score, left, cameras=[ranking.matches[0].camera]
            )
    assert 20 in lengths  # both limits were met
    assert min(lengths) < 20
    (nobody,) = rank(queries[:1], filled.gallery, CALIBRATION, 20, 0.99)
    assert nobody.matches == ()
    assert nobody.verdict == make_verdict(CALIBRATION, None, len(filled.gallery))


def test_other_cameras_than_each_querys_own(filled: Filled) -> None:
    cameras: list[tuple[int, ...]] = [(1,), (0, 2), (9,)]
    queries = [Query(query.path, query.vector, cameras=own) for query, own in zip(asked(3), cameras, strict=True)]
    rankings = rank(queries, filled.gallery, None, 300, exclude_same_camera=True, exclude_cameras=[3])
    for query, ranking in zip(queries, rankings, strict=True):
        check(ranking, filled, filled.expected(query, exclude_cameras=[3, *query.cameras]))
    with pytest.raises(InputError, match=r"^0\.jpg: no camera ID in the file name"):
        rank(asked(1), filled.gallery, None, exclude_same_camera=True)


@pytest.mark.parametrize(("reranked", "top"), [(1000, 30), (40, 30), (40, 60)])
def test_rerank_like_the_whole_small_gallery(
    filled: Filled, reranked: int, top: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot_deploy.matching.match.RERANKED_MATCHES", reranked)
    queries = asked(3)
    rankings = rank(queries, filled.gallery, CALIBRATION, top, 0.1, rerank=True)
    places = {row.path: place for place, row in enumerate(filled.rows)}
    exact = as_stored(filled.gallery, filled.vectors).astype(np.float32)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    for query, ranking in zip(queries, rankings, strict=True):
        near = filled.expected(query)[: max(top, reranked)]
        distances = k_reciprocal(query.vector[None], exact[[places[path] for _, path in near]])[0]
        order = [near[place] for place in np.argsort(distances, kind="stable")]
        assert order != near
        check(ranking, filled, [one for one in order if one[0] >= 0.1][:top])
        assert ranking.verdict == make_verdict(
            CALIBRATION, ranking.matches[0].score, len(filled.gallery), cameras=[ranking.matches[0].camera]
        )


@pytest.mark.parametrize(("people", "warned"), [(300, True), (75, False), (74, False), (76, True), (0, False)])
def test_rerank_knows_when_people_have_few_pictures(
    people: int, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """300 pictures: of so many people each, or of nobody who is known. Distractors are no person."""
    vectors = random_unit_vectors(np.random.default_rng(2), 340)
    rows = [GalleryItem(f"{row}.jpg", identity=f"p{row % people}" if people else None) for row in range(300)]
    rows += [GalleryItem(f"{row}.jpg", identity="0000") for row in range(300, 340)]
    with open_test_index(str(tmp_path / "x.gallery")) as index:
        index.add(rows, vectors)
        (plain,) = rank(asked(1), index, CALIBRATION)
        assert not caplog.text
        (reranked,) = rank(asked(1), index, CALIBRATION, rerank=True)
    note = f"re-ranking makes ranks worse where people have few pictures: {300 / max(people, 1):.1f} per person here"
    assert (note in caplog.text) == (note in reranked.verdict.explanation) == warned
    assert "re-ranking" not in plain.verdict.explanation


def test_rerank_of_nothing(filled: Filled) -> None:
    assert rank(asked(1), filled.gallery, None, rerank=True, cameras=[77])[0].matches == ()


# ---- right and wrong ----


@pytest.mark.parametrize(
    ("wanted", "found", "right"),
    [
        ("0002", "0002", True),
        ("alice", "alice", True),
        ("0002", "0007", False),
        ("0002", "0000", False),  # a distractor is somebody else
        ("0002", "-1", None),  # junk counts for nothing
        ("0002", None, None),
        (None, "0002", None),
        (None, None, None),
        ("-1", "-1", None),
        ("-1", "0002", None),
        ("0000", "0000", None),
        ("0000", "0002", None),
    ],
)
def test_right(wanted: str | None, found: str | None, right: bool | None) -> None:
    match = Match(Path("m"), 0.5, 1, found)
    assert Ranking(Path("q"), (match,), Verdict("", ""), CropMetadata(wanted)).is_correct(match) is right


def test_a_folder_names_an_identity_where_the_gallery_knows_it(filled: Filled) -> None:
    queries = [
        *asked(1, folder="person 3"),
        *asked(1, folder="holiday"),
        *asked(1, metadata=CropMetadata("0009")),  # whom nobody here is called
        *asked(1, metadata=CropMetadata("person 2"), folder="holiday"),
    ]
    rankings = rank(queries, filled.gallery, None, 300)
    assert [ranking.metadata.identity for ranking in rankings] == ["person 3", None, None, "person 2"]
    for match in rankings[0].matches:
        assert rankings[0].is_correct(match) is (None if match.identity is None else match.identity == "person 3")
