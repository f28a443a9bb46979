"""Clocks that are set back, and files that are replaced while they are read."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy import open_embedder
from bot_deploy.gallery import index_folder, open_or_create_index
from bot_deploy.images import read_image

from .command_process import finish
from .harness import Fell, refuses
from .kills import CPU, check_index
from .material import CONTRACT, contract_fields, draw_crop, set_contract

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .material import Material

DAY_S = 86_400


def clock_set_back(rng: random.Random, material: Material) -> bool:
    """Two crops of one size change places and keep their times, while the clock is days behind or ahead."""
    scratch = material.empty_scratch()
    store, crops = scratch / "people.gallery", scratch / "crops"
    shutil.copytree(material.crops, crops)
    words = ("index", crops, "-o", store, "--model", material.model, *CPU, "--json")
    first, second = sorted(crops.iterdir())[:2]
    for _ in range(3):
        finished = finish(words, material.folder / "command", DAY_S * rng.choice((-3650, -1, 0, 1, 3650)))
        if finished.code:
            raise Fell(f"bot index: {finished.stderr[-200:]!r}")
        check_index(store, material, crops)
        times = [path.stat().st_mtime_ns for path in (first, second)]
        if rng.random() < 0.3:  # files from the future, or from before 1970
            times[0] += int(DAY_S * 1e9) * rng.choice((-30_000, -1, 1, 30_000))
        first.rename(scratch / "x.png")
        second.rename(first)
        (scratch / "x.png").rename(second)
        for path, mtime in zip((first, second), times, strict=True):
            os.utime(path, ns=(mtime, mtime))
    if finish(words, material.folder / "command").code:
        raise Fell("bot index")
    check_index(store, material, crops)
    return False


@contextlib.contextmanager
def replacing(replace: Callable[[], object]) -> Iterator[None]:
    """Calls `replace` again and again in a thread until the block ends."""
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            replace()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def crops_replaced(rng: random.Random, material: Material) -> bool:
    """Crops are replaced while they are indexed; afterwards the next run is right about each."""
    scratch = material.empty_scratch()
    store, crops = scratch / "people.gallery", scratch / "crops"
    shutil.copytree(material.crops, crops)
    paths, others = sorted(crops.iterdir()), sorted(material.crops.iterdir())

    def replace() -> None:
        path, other = rng.choice(paths), rng.choice(others)
        if rng.random() < 0.5:
            shutil.copy(other, scratch / "new.png")
            (scratch / "new.png").replace(path)
        else:  # written in place: a reader can meet half of it
            shutil.copy(other, path)
        time.sleep(rng.choice((0, 0.001)))

    with replacing(replace):
        for _ in range(5):
            with open_or_create_index(str(store), CONTRACT, crops) as gallery:
                refuses(lambda: index_folder(gallery, crops, material.embedder))
    with open_or_create_index(str(store), CONTRACT, crops) as gallery:
        index_folder(gallery, crops, material.embedder)
    check_index(store, material, crops)
    if gallery_size(store, crops) != len(paths):
        raise Fell("a crop is missing")
    return False


def gallery_size(store: Path, crops: Path) -> int:
    with open_or_create_index(str(store), CONTRACT, crops) as gallery:
        return len(gallery)


def query_replaced(rng: random.Random, material: Material) -> bool:
    """A picture is replaced while it is read: the pixels are those of the old or the new one, or it is refused."""
    scratch = material.empty_scratch()
    files = rng.sample(sorted(material.crops.iterdir()), 2)
    path = scratch / "query.png"
    shutil.copy(files[0], path)
    allowed = [read_image(file) for file in files]

    def replace() -> None:
        shutil.copy(rng.choice(files), scratch / "new.png")
        (scratch / "new.png").replace(path)

    with replacing(replace):
        for _ in range(200):
            pixels = refuses(lambda: read_image(path))
            if pixels is not None and not any(np.array_equal(pixels, other) for other in allowed):
                raise Fell("the pixels of neither picture")
    return False


def model_replaced(rng: random.Random, material: Material) -> bool:
    """A model is replaced while it is opened: contract and weights are of one file, or it is refused."""
    import onnx
    from onnx import numpy_helper

    scratch = material.empty_scratch()
    path, other = scratch / "model.onnx", scratch / "other.onnx"
    set_contract(material.model, json.dumps(contract_fields(fingerprint="other")), other)
    network = onnx.load(str(other))
    for tensor in network.graph.initializer:
        if tensor.name == "centre":
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor) / 7, "centre"))
    onnx.save(network, str(other))
    shutil.copy(material.model, path)
    crop = draw_crop(1, 1)
    expected = {name: open_embedder(file, "cpu", threads=1).embed(crop) for name, file in
                ((CONTRACT.fingerprint, material.model), ("other", other))}  # fmt: skip

    def replace() -> None:
        shutil.copy(rng.choice((material.model, other)), scratch / "new.onnx")
        (scratch / "new.onnx").replace(path)
        time.sleep(rng.uniform(0, 0.03))

    refused = False
    with replacing(replace):
        for _ in range(30):
            embedder = refuses(lambda: open_embedder(path, "cpu", threads=1))
            refused |= embedder is None
            if embedder and not np.allclose(embedder.embed(crop), expected[embedder.contract.fingerprint], atol=1e-5):
                raise Fell("the contract of one model and the weights of another")
    return refused


ATTACKS = {
    "clock set back": clock_set_back,
    "crops replaced": crops_replaced,
    "query replaced": query_replaced,
    "model replaced": model_replaced,
}
