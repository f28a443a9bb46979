"""Writers that run at the same time, and writers that are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.random_gallery import (
    DIM,
    HEIGHT,
    SPACE,
    WIDTH,
    Vectors,
    check_like_naive,
    open_test_index,
    project,
    random_unit_vectors,
)

from bot_deploy import gallery as galleries
from bot_deploy import images
from bot_deploy.embedder import Embedder
from bot_deploy.gallery import GalleryItem

WRITER = """
    import sys
    from pathlib import Path
    import numpy as np
    from bot_deploy.gallery import GalleryItem, LocalIndex

    place, first, last, step = Path(sys.argv[1]), *map(int, sys.argv[2:])
    print("ready", flush=True)
    with LocalIndex(place, "{space}", {dim}, Path("/people")) as gallery:
        for start in range(first, last, step):
            numbers = range(start, min(last, start + step))
            vectors = np.stack([np.random.default_rng(number).normal(size={dim}) for number in numbers])
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            gallery.add([GalleryItem(str(number)) for number in numbers], vectors.astype(np.float32))
            gallery.remove([str(number) for number in numbers if number % 3])
"""


def script(text: str, *arguments: object) -> subprocess.Popen[str]:
    code = textwrap.dedent(text)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def of_number(path: str) -> Vectors:
    vector = np.random.default_rng(int(path)).normal(size=DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32).astype(np.float16).astype(np.float64)


def test_two_writers_and_a_reader_at_once(place: Path) -> None:
    open_test_index(str(place)).close()
    text = WRITER.format(space=SPACE, dim=DIM)
    writers = [script(text, place, 0, 900, 10), script(text, place, 600, 1500, 10)]
    sizes = set()
    with open_test_index(str(place)) as reader:
        query = random_unit_vectors(np.random.default_rng(9), 1)[0]
        while any(writer.poll() is None for writer in writers):
            found = reader.search(query, 2000)
            sizes.add(len(found))
            for one in found[:: max(1, len(found) // 20)]:
                vector = of_number(one.item.path)
                assert one.score == pytest.approx(float(vector @ query / np.linalg.norm(vector)), abs=2e-6)
        assert [writer.wait() for writer in writers] == [0, 0]
        assert len(sizes) > 5
        left = [str(number) for number in range(0, 1500, 3)]
        assert sorted(row.path for row in reader.items()) == sorted(left)
        check_like_naive(
            reader, [GalleryItem(path) for path in left], np.stack([of_number(path) for path in left]), query, 500
        )
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.close()


INDEXER = """
    import sys
    from pathlib import Path
    import numpy as np
    from bot_deploy import gallery
    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.embedder import Embedder
    from bot_deploy.gallery import indexing

    indexing.FILES_PER_COMMIT = 16
    matrix = np.random.default_rng(0).normal(size=({height} * {width} * 3, {dim}))

    def run(batch):
        vectors = (batch.reshape(len(batch), -1).astype(np.float64) - 127) @ matrix
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    contract = Contract(arch="x", height={height}, width={width}, dim={dim}, fingerprint="{space}")
    embedder = Embedder(contract, "a projection", run)
    place, crops = sys.argv[1], Path(sys.argv[2])
    print("ready", flush=True)
    while True:
        with gallery.open_or_create_index(place, contract, crops) as people:
            gallery.index_folder(people, crops, embedder)
            people.remove([row.path for row in people.items()][: len(people) * 2 // 3])
        print("round", flush=True)
"""


@pytest.mark.slow
def test_kills_at_random_moments_lose_and_corrupt_nothing(place: Path, crops: Path, embedder: Embedder) -> None:
    expected = {
        path.relative_to(crops).as_posix(): project(images.read_image(path)).astype(np.float16)
        for path in images.find_images(crops)
    }
    text = INDEXER.format(height=HEIGHT, width=WIDTH, dim=DIM, space=SPACE[:16])
    rng = random.Random(0)
    counts = set()
    # Moments are parts of the time that a round takes here, so that a slow machine is killed at all stages, too.
    indexing = script(text, place, crops)
    assert indexing.stdout is not None
    started = time.monotonic()
    assert indexing.stdout.readline() == "round\n"
    round_s = time.monotonic() - started
    indexing.kill()
    indexing.communicate()
    for number in range(20):
        indexing = script(text, place, crops)
        time.sleep((number + rng.random()) / 20 * 1.5 * round_s)
        indexing.send_signal(signal.SIGKILL)
        assert indexing.wait() == -signal.SIGKILL
        assert indexing.stdout is not None
        indexing.stdout.close()
        with open_test_index(str(place), root=crops) as gallery:
            rows = list(gallery.items())
            counts.add(len(rows))
            assert len(gallery) == len(rows)
            assert {row.path for row in rows} <= set(expected)
            for row in rows:
                query = expected[row.path].astype(np.float32)
                found = gallery.search(query / np.linalg.norm(query), 1)[0]
                assert (found.item.path, found.score) == (row.path, pytest.approx(1, abs=1e-6))
            with gallery._reading() as (state, mapped):
                held = dict(gallery._database.execute("SELECT slot, path FROM rows"))
                assert all(slot < state.length for slot in held)
                for slot, path in held.items():
                    # One matrix product or many: the last bit of a half may differ.
                    np.testing.assert_allclose(mapped.vectors[slot], expected[os.fsdecode(path)], rtol=1e-3, atol=1e-7)
    assert len(counts) >= 3  # killed at different stages
    with (
        open_test_index(str(place), root=crops) as gallery,
        open_test_index(str(place.with_name("clean")), root=crops) as clean,
    ):
        for one in (gallery, clean):
            galleries.index_folder(one, crops, embedder)
        for query in random_unit_vectors(np.random.default_rng(10), 5):
            assert [found.item for found in gallery.search(query, 120)] == [
                found.item for found in clean.search(query, 120)
            ]
