"""The nearest vectors in a mapped file: by NumPy, by FAISS, by a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.random_gallery import (
    SPACE,
    Vectors,
    check_like_naive,
    naive,
    needs_faiss,
    open_test_index,
    random_items,
    random_unit_vectors,
)

from bot_deploy.gallery import GalleryItem, LocalIndex, search, vector_file
from bot_deploy.gallery.hnsw import recall_at_10


def test_every_half_is_multiplied_exactly() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)].reshape(-1, 2)
    for query in ([1, 0], [0, 1], [-0.5, 0]):
        expected = every.astype(np.float64) @ np.asarray(query)
        np.testing.assert_array_equal(search.dot_products_float16(every, np.asarray(query, np.float32)), expected)


@needs_faiss
def test_faiss_reads_the_mapped_file_itself(place: Path) -> None:
    import faiss

    rows, vectors = random_items(300)
    with open_test_index(str(place)) as gallery:
        gallery.add(rows, vectors)
        with gallery._reading() as (state, mapped):
            index = search.faiss_index(mapped.bytes, *mapped.vectors.shape)
            assert index.ntotal == state.length
            assert not faiss.downcast_index(index).codes.is_owned
            allowed = np.random.default_rng(0).random(state.length) < 0.3
            for query in random_unit_vectors(np.random.default_rng(4), 5):
                for mask in (None, allowed):
                    lists = [
                        {slot for slot in near if mapped.scores(near, query)[list(near).index(slot)] > 0.3}
                        for near in (
                            search.candidates_faiss(index, query, 300, mask),
                            search.candidates_numpy(mapped.vectors, query, 300, mask),
                        )
                    ]
                    assert lists[0] == lists[1]
    # The header that it was given lives in memory only.
    assert (place / "vectors-1.f16").read_bytes()[: vector_file.HEADER_BYTES] == vector_file.MAGIC.ljust(
        vector_file.HEADER_BYTES, b"\0"
    )


@needs_faiss
def test_hnsw_finds_nearly_all_and_never_the_removed(place: Path) -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(random_unit_vectors(rng, 150, 32), 20, axis=0)
    vectors = people + 0.1 * rng.normal(size=people.shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [GalleryItem(f"{number:05d}.jpg", camera=number % 3) for number in range(len(vectors))]
    with LocalIndex(place, SPACE, 32, Path("/people")) as gallery:
        gallery.add(rows[:2500], vectors[:2500])
        gallery.remove([row.path for row in rows[:100]])
        assert gallery.build_hnsw() > 0.95  # of 2,400, compacted
        gallery.add(rows[2500:], vectors[2500:])
        gallery.remove([row.path for row in rows[100:120]])
        rows, vectors = rows[120:], vectors[120:]
        hits = 0
        queries = range(0, len(rows), 199)
        for number in queries:
            expected = [path for _, path in naive(rows, vectors.astype(np.float16), vectors[number])[:10]]
            hits += len({hit.item.path for hit in gallery.search(vectors[number], 10)} & set(expected))
        assert hits / (10 * len(queries)) > 0.95
        # With a filter the search is exact.
        check_like_naive(gallery, rows, vectors, vectors[0], 10, cameras=[1])
        with gallery._reading() as (state, mapped):

            class Nothing:
                def candidates(self, query: Vectors, top: int) -> search.Slots:
                    return np.arange(20)

            assert recall_at_10(Nothing(), mapped) < 0.05  # type: ignore[arg-type]
            assert state.length == 2900
        gallery.compact()  # the graph was of other slots
        check_like_naive(gallery, rows, vectors, vectors[5], 10)


@needs_faiss
def test_a_damaged_graph_is_named_and_searches_are_exact(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows, vectors = random_items(50)
    with open_test_index(str(place)) as gallery:
        gallery.add(rows, vectors)
        gallery.build_hnsw()
        path = place / "hnsw-1.faiss"
    whole = path.read_bytes()
    flipped = bytes([*whole[:2000], whole[2000] ^ 1, *whole[2001:]])
    for data in (b"", b"junk" * 100, whole[:-100], whole[:-32], flipped):
        path.write_bytes(data)
        caplog.clear()
        with open_test_index(str(place)) as gallery:
            check_like_naive(gallery, rows, vectors, vectors[0], 5)
            check_like_naive(gallery, rows, vectors, vectors[1], 5)
            assert caplog.messages == [f"{path}: a damaged graph; searches are exact until `bot index` builds it again"]
            assert not gallery.hnsw_is_current()
            gallery.build_hnsw()
            assert gallery.hnsw_is_current()


@needs_faiss
def test_a_graph_of_later_vectors_is_not_followed(place: Path) -> None:
    rows, vectors = random_items(60)
    with open_test_index(str(place)) as reader, open_test_index(str(place)) as writer:
        writer.add(rows[:30], vectors[:30])
        with reader._reading():
            writer.add(rows[30:], vectors[30:])
            writer.build_hnsw()
            state, mapped = reader._state(), reader._mapped[1]
            assert reader._graphs.open(state.generation, mapped) is None
        assert reader.hnsw_is_current() == writer.hnsw_is_current()
        check_like_naive(reader, rows, vectors, vectors[40], 10)
