"""Measures the gallery: indexing and matching time, search time, size on disk, and whether it survives kill -9.

    python benchmarks/gallery.py MODEL.onnx --data Market-1501.zip

Prints a markdown table. Crops of --data are copied to a temporary folder; each run of `bot` is a new process.
1. The time to index 20,000 crops, and the time to embed them alone, in turns of 2,000 crops.
2. The time of a whole `bot match` of one crop against those 20,000.
3. 50 kills at random moments while 2,000 crops are indexed. After each kill, the gallery must open, and each row must
   hold the embedding of its file. The finished gallery must rank like a gallery that was never interrupted.
4. A million random vectors of 512 dimensions: opening, exact search, size on disk.
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
from bot_deploy.gallery import GalleryItem, LocalIndex, search

CROPS, CROPS_PER_TURN, MATCHES = 20_000, 2000, 7
CROPS_TO_KILL, KILLS = 2000, 50
VECTORS, DIM, QUERIES = 1_000_000, 512, 20
SECTIONS = ("index", "kills", "million")


def copy_crops(data: str, folder: Path, count: int) -> list[Path]:
    """Copy `count` crops of all splits to `folder`; a small data set is repeated under other names."""
    dataset = open_dataset(data)
    crops = [*dataset.gallery, *dataset.query, *dataset.train]
    folder.mkdir(parents=True)
    paths = []
    for number in range(count):
        source = crops[number % len(crops)].path
        suffix = f"_{number // len(crops)}" if number >= len(crops) else ""
        paths.append(folder / f"{source.name.partition('.')[0]}{suffix}.jpg")
        paths[-1].write_bytes(source.read_bytes())
    return paths


def run_bot(*arguments: object, cache: Path) -> tuple[dict, float]:
    """The JSON output of `bot`, and the seconds of the whole process."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "bot_deploy", *map(str, arguments), "--json"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, env=environment)
    return json.loads(process.stdout), time.perf_counter() - started


def time_indexing(embedder: Embedder, paths: list[Path], work: Path) -> tuple[list[float], list[float]]:
    """Seconds to embed `paths` alone, and to index them, per turn, so that other load hits both alike."""
    alone: list[float] = []
    indexing: list[float] = []
    for number, start in enumerate(range(0, len(paths), CROPS_PER_TURN)):
        folder = work / "turns" / str(number)
        folder.mkdir(parents=True)
        for path in paths[start : start + CROPS_PER_TURN]:
            os.link(path, folder / path.name)
        files = sorted(folder.iterdir())

        def embed(files: list[Path] = files) -> float:
            started = time.perf_counter()
            embedder.embed_files(files)
            return time.perf_counter() - started

        def index(folder: Path = folder, number: int = number) -> float:
            started = time.perf_counter()
            with galleries.open_or_create_index(str(work / f"{number}.gallery"), embedder.contract, folder) as gallery:
                galleries.index_folder(gallery, folder, embedder)
            return time.perf_counter() - started

        embedder.embed_files(files)  # now the files are in the page cache for both
        turns = [(alone, embed), (indexing, index)]
        for seconds, run in turns if number % 2 else reversed(turns):
            seconds.append(run())
    return alone, indexing


def kill_indexing(model: Path, embedder: Embedder, paths: list[Path], work: Path) -> tuple[int, int, float]:
    """Number of kills, number of wrong rows and rankings, and the largest absolute difference of a score."""
    folder, store_path = work / "killed", work / "killed.gallery"
    folder.mkdir()
    for path in paths:
        os.link(path, folder / path.name)
    files = sorted(folder.iterdir())
    vectors, _ = embedder.embed_files(files)
    expected = {path.name: vector for path, vector in zip(files, vectors, strict=True)}
    rng, kills, wrong_rows = random.Random(0), 0, 0
    command = [sys.executable, "-m", "bot_deploy", "index", folder, "-o", store_path, "--model", model]
    started = time.perf_counter()
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    full_seconds = time.perf_counter() - started
    shutil.rmtree(store_path)
    while kills < KILLS:
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.05, 1) * full_seconds)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if not galleries.is_index(str(store_path)):
            continue  # killed before the gallery was created
        with galleries.open_or_create_index(str(store_path), embedder.contract, folder) as gallery:
            assert isinstance(gallery, LocalIndex)
            rows = list(gallery.items())
            wrong_rows += len(rows) != len(gallery)
            for row in rows:
                hit = gallery.search(expected[row.path], 1)[0]
                wrong_rows += hit.item.path != row.path or hit.score < 0.99999
            if len(rows) == len(files):
                gallery.remove([row.path for row in rows])  # so that the next process has work
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    difference = 0.0
    with galleries.open_or_create_index(str(store_path), embedder.contract, folder) as gallery:
        clean = LocalIndex(work / "clean.gallery", embedder.contract.embedding_space, embedder.contract.dim, folder)
        clean.add([GalleryItem(path.name) for path in files], vectors)
        for name in rng.sample(sorted(expected), 100):
            hits, clean_hits = (store.search(expected[name], len(files)) for store in (gallery, clean))
            scores = {hit.item.path: hit.score for hit in clean_hits}
            difference = max(difference, *(abs(hit.score - scores[hit.item.path]) for hit in hits))
            wrong_rows += [hit.item.path for hit in hits[:50]] != [hit.item.path for hit in clean_hits[:50]]
        clean.close()
    return kills, wrong_rows, difference


def measure_million(work: Path) -> dict[str, float]:
    """Seconds and gigabytes of a gallery with a million vectors."""
    rng, store_path = np.random.default_rng(0), work / "million.gallery"
    started = time.perf_counter()
    with LocalIndex(store_path, "synthetic", DIM, work) as gallery:
        for start in range(0, VECTORS, 50_000):
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
    measured["GB"] = sum(file.stat().st_size for file in store_path.iterdir()) / 1e9
    queries = rng.normal(size=(QUERIES, DIM)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    for name, min_vectors in (("FAISS", 0), ("NumPy", sys.maxsize)):
        search.FAISS_MIN_VECTORS = min_vectors
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        gallery = LocalIndex(store_path)
        with gallery, gallery._reading():  # noqa: SLF001 - it maps the vectors
            measured[f"opening, {name}"] = time.perf_counter() - started
            measured[f"MB more after opening, {name}"] = (
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            ) / 1e3
        with LocalIndex(store_path) as gallery:
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
@click.option("--data", required=True, help="Data set of crops.")
@click.option("--only", type=click.Choice(SECTIONS), multiple=True, help="Section to measure; default: all.")
def main(model: Path, data: str, only: tuple[str, ...]) -> None:
    """Print the measurements of the gallery as markdown."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        sections = only or SECTIONS
        print("| what | measured |\n| --- | --- |")
        paths = (
            copy_crops(data, work / "crops", CROPS if "index" in sections else CROPS_TO_KILL)
            if sections != ("million",)
            else []
        )
        if "index" in sections:
            embedder = open_embedder(model)
            alone, indexing = time_indexing(embedder, paths, work)
            overhead = 100 * (statistics.median(indexing) / statistics.median(alone) - 1)
            print(f"| embedding {len(paths):,} crops alone | {sum(alone):.1f} s |")
            print(f"| indexing them (medians of {len(alone)} turns) | {sum(indexing):.1f} s ({overhead:+.1f} %) |")
            _, first = run_bot("match", paths[7], work / "crops", "--model", model, cache=work / "cache")
            print(f"| `bot match` against a folder of {len(paths):,} indexed for the first time | {first:.1f} s |")
            repeated = [
                run_bot("match", path, work / "crops", "--model", model, cache=work / "cache")[1]
                for path in paths[:MATCHES]
            ]
            print(f"| ... against the same folder again (median of {MATCHES}) | {statistics.median(repeated):.2f} s |")
            out = work / "people.gallery"
            run_bot("index", work / "crops", "-o", out, "--model", model, cache=work / "cache")
            stored = [
                run_bot("match", path, out, "--model", model, cache=work / "cache")[1] for path in paths[:MATCHES]
            ]
            print(f"| ... against people.gallery (median of {MATCHES}) | {statistics.median(stored):.2f} s |")
            for path in paths[:10]:
                shutil.copy(path, path.with_name(f"new_{path.name}"))
            document, seconds = run_bot("index", work / "crops", "-o", out, "--model", model, cache=work / "cache")
            print(f"| ten new files among them: embedded / whole process | {document['new']} / {seconds:.2f} s |")
        if "kills" in sections:
            kills, wrong_rows, difference = kill_indexing(model, open_embedder(model), paths[:CROPS_TO_KILL], work)
            print(f"| kill -9 while indexing {CROPS_TO_KILL:,} crops | {kills} kills |")
            print(f"| ... wrong or lost rows, rankings that differ | {wrong_rows} |")
            print(f"| ... largest difference of a score from an uninterrupted index | {difference:.1e} |")
        if "million" in sections:
            measured = measure_million(work)
            print(f"| {VECTORS:,} vectors of {DIM}: adding | {measured['adding']:.0f} s |")
            print(f"| ... on disk | {measured['GB']:.3f} GB |")
            for engine in ("FAISS", "NumPy"):
                opening, memory = measured[f"opening, {engine}"], measured[f"MB more after opening, {engine}"]
                print(f"| ... opening, {engine} | {1e3 * opening:.1f} ms, {memory:.0f} MB |")
                print(f"| ... exact search of one query, {engine} (median) | {measured[f'a search, {engine}']:.2f} s |")


if __name__ == "__main__":
    main()
