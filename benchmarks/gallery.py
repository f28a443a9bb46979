"""The gallery's store: how fast, how large, and what kill -9 does to it.

    python benchmarks/gallery.py MODEL.onnx --data Market-1501.zip

Prints markdown. Real crops of --data in a temporary folder; every `bot` is a process of its own.
1. Indexing 20,000 crops against embedding them alone, in turns of a few thousand.
2. `bot match` of one crop against those 20,000: the whole process.
3. 50 kills at random moments while indexing 2,000 crops; after each, the store must open and hold for every row
   the vector that its file gives. Finished at the end, it must rank as one that was never disturbed.
4. A million vectors of 512 (random, as good as any for exact search): opening, searching, size on disk.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from bot_deploy import gallery as galleries
from bot_deploy.datasets import open_dataset
from bot_deploy.embedder import Embedder, open_embedder
from bot_deploy.gallery import GalleryItem, Store, search

CROPS, TURN, MATCHES = 20_000, 2000, 7
KILLED, KILLS = 2000, 50
MILLION, DIM, QUERIES = 1_000_000, 512, 20


def extract(data: str, folder: Path, count: int) -> list[Path]:
    """`count` crops of all parts; in a smaller set some more than once, under other names."""
    dataset = open_dataset(data)
    crops = [*dataset.gallery, *dataset.query, *dataset.train]
    folder.mkdir(parents=True)
    paths = []
    for number in range(count):
        source = crops[number % len(crops)].path
        again = f"_{number // len(crops)}" if number >= len(crops) else ""
        paths.append(folder / f"{source.name.partition('.')[0]}{again}.jpg")
        paths[-1].write_bytes(source.read_bytes())
    return paths


def bot(*arguments: object, cache: Path) -> tuple[dict, float]:
    """What `bot` printed, and the seconds of the whole process."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "bot_deploy", *map(str, arguments), "--json"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, env=environment)
    return json.loads(done.stdout), time.perf_counter() - started


def overhead(embedder: Embedder, paths: list[Path], work: Path) -> tuple[list[float], list[float]]:
    """Seconds to embed `paths` alone, and to index them, in turns, so that a busy machine is fair to both."""
    alone: list[float] = []
    indexing: list[float] = []
    for number, start in enumerate(range(0, len(paths), TURN)):
        part = work / "parts" / str(number)
        part.mkdir(parents=True)
        for path in paths[start : start + TURN]:
            os.link(path, part / path.name)
        files = sorted(part.iterdir())

        def embed(files: list[Path] = files) -> float:
            started = time.perf_counter()
            embedder.embed_files(files)
            return time.perf_counter() - started

        def index(part: Path = part, number: int = number) -> float:
            started = time.perf_counter()
            with galleries.create_gallery(str(work / f"{number}.gallery"), embedder.contract, part) as gallery:
                galleries.index_folder(gallery, part, embedder)
            return time.perf_counter() - started

        embedder.embed_files(files)  # from here on both find the files in memory
        turns = [(alone, embed), (indexing, index)]
        for seconds, run in turns if number % 2 else reversed(turns):
            seconds.append(run())
    return alone, indexing


def kills(model: Path, embedder: Embedder, paths: list[Path], work: Path) -> tuple[int, int, float]:
    """Kills that hit an indexing process, rows found wrong, and the largest |difference| of a ranking's scores."""
    folder, place = work / "killed", work / "killed.gallery"
    folder.mkdir()
    for path in paths:
        os.link(path, folder / path.name)
    files = sorted(folder.iterdir())
    vectors, _ = embedder.embed_files(files)
    expected = {path.name: vector for path, vector in zip(files, vectors, strict=True)}
    rng, hit, wrong = random.Random(0), 0, 0
    command = [sys.executable, "-m", "bot_deploy", "index", folder, "-o", place, "--model", model]
    started = time.perf_counter()
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    whole = time.perf_counter() - started
    shutil.rmtree(place)
    while hit < KILLS:
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.05, 1) * whole)
        process.send_signal(signal.SIGKILL)
        hit += process.wait() == -signal.SIGKILL
        if not galleries.is_gallery(str(place)):
            continue  # killed before it began
        with galleries.create_gallery(str(place), embedder.contract, folder) as gallery:
            assert isinstance(gallery, Store)
            rows = list(gallery.items())
            wrong += len(rows) != len(gallery)
            for row in rows:
                found = gallery.search(expected[row.path], 1)[0]
                wrong += found.item.path != row.path or found.score < 0.99999
            if len(rows) == len(files):
                gallery.remove([row.path for row in rows])  # so that there is something to kill again
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    difference = 0.0
    with galleries.create_gallery(str(place), embedder.contract, folder) as gallery:
        clean = Store(work / "clean.gallery", embedder.contract.embedding_space, embedder.contract.dim, folder)
        clean.add([GalleryItem(path.name) for path in files], vectors)
        for name in rng.sample(sorted(expected), 100):
            ours, theirs = (one.search(expected[name], len(files)) for one in (gallery, clean))
            scores = {found.item.path: found.score for found in theirs}
            difference = max(difference, *(abs(found.score - scores[found.item.path]) for found in ours))
            wrong += [found.item.path for found in ours[:50]] != [found.item.path for found in theirs[:50]]
        clean.close()
    return hit, wrong, difference


def million(work: Path) -> dict[str, float]:
    """Seconds and gigabytes of a store of a million vectors."""
    rng, place = np.random.default_rng(0), work / "million.gallery"
    started = time.perf_counter()
    with Store(place, "synthetic", DIM, work) as gallery:
        for start in range(0, MILLION, 50_000):
            vectors = rng.normal(size=(50_000, DIM)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            rows = [
                GalleryItem(
                    f"{n // 1000:04d}/{n:07d}_c{n % 6}s1_{n % 99999:06d}_00.jpg", 3000, 10**18 + n, n.to_bytes(8, "big")
                )
                for n in range(start, start + 50_000)
            ]
            gallery.add([row._replace(identity=row.path[:4], camera=3, time=5.0) for row in rows], vectors)
    measured = {"adding": time.perf_counter() - started}
    measured["GB"] = sum(file.stat().st_size for file in place.iterdir()) / 1e9
    queries = rng.normal(size=(QUERIES, DIM)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    for name, least in (("FAISS", 0), ("NumPy", sys.maxsize)):
        search.FAISS_FROM = least
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        gallery = Store(place)
        with gallery, gallery._reading():  # noqa: SLF001 - maps the vectors
            measured[f"opening, {name}"] = time.perf_counter() - started
            measured[f"MB more after opening, {name}"] = (
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            ) / 1e3
        with Store(place) as gallery:
            gallery.search(queries[0], 10)
            seconds = []
            for query in queries:
                started = time.perf_counter()
                gallery.search(query, 10)
                seconds.append(time.perf_counter() - started)
        measured[f"a search, {name}"] = statistics.median(seconds)
    return measured


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True)
@click.option("--only", type=click.Choice(["index", "kills", "million"]), multiple=True)
def main(model: Path, data: str, only: tuple[str, ...]) -> None:
    """Print the tables of the gallery's store as markdown."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        wanted = only or ("index", "kills", "million")
        print("| what | measured |\n| --- | --- |")
        paths = extract(data, work / "crops", CROPS if "index" in wanted else KILLED) if wanted != ("million",) else []
        if "index" in wanted:
            embedder = open_embedder(model)
            alone, indexing = overhead(embedder, paths, work)
            more = 100 * (statistics.median(indexing) / statistics.median(alone) - 1)
            print(f"| embedding {len(paths):,} crops alone | {sum(alone):.1f} s |")
            print(f"| indexing them (medians of {len(alone)} turns) | {sum(indexing):.1f} s ({more:+.1f} %) |")
            _, first = bot("match", paths[7], work / "crops", "--model", model, cache=work / "cache")
            print(f"| `bot match` against a folder of {len(paths):,} seen for the first time | {first:.1f} s |")
            again = [
                bot("match", path, work / "crops", "--model", model, cache=work / "cache")[1]
                for path in paths[:MATCHES]
            ]
            print(f"| ... against the same folder again (median of {MATCHES}) | {statistics.median(again):.2f} s |")
            out = work / "people.gallery"
            bot("index", work / "crops", "-o", out, "--model", model, cache=work / "cache")
            stored = [bot("match", path, out, "--model", model, cache=work / "cache")[1] for path in paths[:MATCHES]]
            print(f"| ... against people.gallery (median of {MATCHES}) | {statistics.median(stored):.2f} s |")
            for path in paths[:10]:
                shutil.copy(path, path.with_name(f"new_{path.name}"))
            document, seconds = bot("index", work / "crops", "-o", out, "--model", model, cache=work / "cache")
            print(f"| ten new files among them: embedded / whole process | {document['new']} / {seconds:.2f} s |")
        if "kills" in wanted:
            hit, wrong, difference = kills(model, open_embedder(model), paths[:KILLED], work)
            print(f"| kill -9 while indexing {KILLED:,} crops | {hit} kills |")
            print(f"| ... wrong or lost rows, rankings that differ | {wrong} |")
            print(f"| ... largest difference of a score from an undisturbed index | {difference:.1e} |")
        if "million" in wanted:
            measured = million(work)
            print(f"| {MILLION:,} vectors of {DIM}: adding | {measured['adding']:.0f} s |")
            print(f"| ... on disk | {measured['GB']:.3f} GB |")
            for engine in ("FAISS", "NumPy"):
                opening, more = measured[f"opening, {engine}"], measured[f"MB more after opening, {engine}"]
                print(f"| ... opening, {engine} | {1e3 * opening:.1f} ms, {more:.0f} MB |")
                print(f"| ... exact search of one query, {engine} (median) | {measured[f'a search, {engine}']:.2f} s |")


if __name__ == "__main__":
    main()
