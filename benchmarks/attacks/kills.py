"""Programs killed at random moments, clocks that are set back, and files that are replaced while they are read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np

from bot_deploy.gallery import index_folder, open_or_create_index
from bot_deploy.images import read_image

from .harness import Fell, bot
from .material import CALIBRATION, CONTRACT, contract_fields, draw_crop, set_contract

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from .material import Material

TIMEOUT_S = 300  # of one attack
FILES_PER_COMMIT = 4  # crops between two commits of an index


def killed(program: Callable[[], object], seconds: float) -> bool:
    """Runs `program` in a fork of this process, which has its imports, and kills it after `seconds`.

    Returns whether it was still running.
    """
    child = os.fork()
    if not child:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        try:
            program()
        finally:
            os._exit(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def check_no_leftovers(folder: Path) -> None:
    """Raises Fell for a temporary file in `folder`."""
    if left := [path.name for path in folder.rglob(".*") if path.name.endswith(".tmp") or "unverified" in path.name]:
        raise Fell(f"left over: {left[:3]}")


def check_index(store: Path, material: Material, crops: Path) -> set[str]:
    """Opens an index, and checks the vector of every row; returns the paths of the rows."""
    with open_or_create_index(str(store), CONTRACT, crops) as gallery:
        paths = [item.path for item in gallery.items()]
        if len(paths) != len(gallery):
            raise Fell(f"{len(gallery)} images, {len(paths)} rows")
        if paths:
            expected = material.embedder.embed([read_image(crops / path) for path in paths])
            if not np.allclose(gallery.vectors(paths), expected, atol=2e-3):
                raise Fell("a row has the vector of another picture")
    return set(paths)


def index(rng: random.Random, material: Material) -> bool:
    """Kills `bot index`; no committed row is lost, and the next run completes it."""
    from bot_deploy.gallery import indexing

    scratch = material.empty_scratch()
    store, crops = scratch / "people.gallery", scratch / "crops"
    shutil.copytree(material.crops, crops)
    embedder = material.embedder
    rows: set[str] = set()

    def program() -> None:
        with (
            mock.patch.object(indexing, "FILES_PER_COMMIT", FILES_PER_COMMIT),
            open_or_create_index(str(store), CONTRACT, crops) as gallery,
        ):
            index_folder(gallery, crops, embedder)

    was_killed = killed(program, rng.uniform(0, 0.15))
    now = check_index(store, material, crops)
    killed(program, rng.uniform(0, 0.15))
    rows = check_index(store, material, crops)
    if not now <= rows:
        raise Fell(f"{len(now - rows)} committed rows are lost")
    program()
    if len(check_index(store, material, crops)) != len(list(crops.iterdir())):
        raise Fell("the index is not complete")
    check_no_leftovers(store)
    return was_killed


def calibrate(rng: random.Random, material: Material) -> bool:
    """Kills the writing of a calibration; the model is the old or the new one, and opens."""
    from bot_deploy.artifacts import read_contract, write_contract

    folder = material.empty_scratch()
    path = set_contract(material.model, json.dumps(contract_fields(calibration=None)), folder / "model.onnx")

    def program() -> None:
        while True:
            write_contract(path, CONTRACT)

    was_killed = killed(program, rng.uniform(0, 0.05))
    if read_contract(path).calibration not in {None, CALIBRATION}:
        raise Fell("another calibration")
    write_contract(path, CONTRACT)
    check_no_leftovers(folder)
    return was_killed


def export(rng: random.Random, material: Material) -> bool:
    """Kills `bot export`; a model.onnx that is there opens, and the next export leaves nothing of the killed one."""
    import torch

    from bot_deploy import open_embedder

    from .artifacts import torch_files

    folder = material.empty_scratch()
    (folder / "model.pt").write_bytes(torch_files()["checkpoint"])
    torch.set_num_threads(1)

    def program() -> None:
        from bot_deploy.cli import main

        main(["export", str(folder / "model.pt"), "--data", str(material.people), "--out", str(folder)])

    was_killed = killed(program, rng.uniform(0, 8))
    if (folder / "model.onnx").exists():
        open_embedder(folder / "model.onnx", "cpu", threads=1)
    finished = bot("export", folder / "model.pt", "--data", material.people, "--out", folder)
    if finished.code not in {0, 3}:  # an untrained network may be rejected
        raise Fell(f"the next export: {finished.stderr[-200:]!r}")
    check_no_leftovers(folder)
    return was_killed


def train(rng: random.Random, material: Material) -> bool:
    """Kills `bot train` and resumes it; state, model and table are whole, and the run ends."""
    import torch

    from bot_deploy.artifacts import checkpoint

    run = material.empty_scratch() / "run"
    torch.set_num_threads(1)
    settings = ("epochs=3", "height=64", "width=32", "identities_per_batch=2", "images_per_identity=2", "seed=1")
    words = ["train", "--recipe", "quick", "--weights", "none", "--data", str(material.people), "--out", str(run)]
    words += [word for setting in settings for word in ("--set", setting)]

    def program(*more: str) -> Callable[[], None]:
        from bot_deploy.cli import main

        return lambda: main([*words, *more])

    was_killed = killed(program(), rng.uniform(0, 6))
    killed(program("--resume"), rng.uniform(0, 6))
    if (run / "model.pt").exists():
        checkpoint.load(run / "model.pt").build()
    finished = bot(*words, "--resume")
    if finished.code:
        raise Fell(f"not resumed: {finished.stderr[-300:]!r}")
    epochs = [line.partition(",")[0] for line in (run / "metrics.csv").read_text().splitlines()[1:]]
    if epochs not in (["1", "2", "3"], ["0", "1", "2", "3"]):
        raise Fell(f"epochs {epochs} in metrics.csv")
    check_no_leftovers(run)
    return was_killed


def demo(rng: random.Random, material: Material) -> bool:
    """Kills a demo that enrols; everybody who was reported is in the gallery, and events are whole lines."""
    from bot_deploy.demos.enrolment import Enroller, open_enrolment_gallery
    from bot_deploy.demos.recorder import Recorder

    scratch = material.empty_scratch()
    store, events = scratch / "people.gallery", scratch / "events.jsonl"
    embedder = material.embedder

    def program() -> None:
        gallery = open_enrolment_gallery(str(store), embedder)
        enroller = Enroller(gallery)
        with Recorder(None, events, 10) as recorder:
            for number in range(1000):
                crop = draw_crop(number, 0)
                person = enroller.enrol_stranger(crop, embedder.embed(crop)[0])
                recorder.write_event({"enrolled": person.name})

    was_killed = killed(program, rng.uniform(0.05, 0.6))
    reported = [json.loads(line)["enrolled"] for line in events.read_text().splitlines()] if events.exists() else []
    gallery = open_enrolment_gallery(str(store), embedder)
    names = {item.identity for item in gallery.items()}
    gallery.close()
    if lost := set(reported) - names:
        raise Fell(f"{len(lost)} enrolled people are lost")
    rows = check_index(store, material, store / "crops")
    finished = bot("index", store / "crops", "-o", store, "--model", material.model, "--device", "cpu", "--json")
    if rows and (finished.code or finished.document()["broken"]):
        raise Fell(f"a half-written crop: {finished.stdout[-200:]!r}")
    return was_killed


def clock_set_back(rng: random.Random, material: Material) -> bool:
    """A crop is replaced by another of the same size and time while the clock is a day behind."""
    del rng
    scratch = material.empty_scratch()
    store, crops = scratch / "people.gallery", scratch / "crops"
    shutil.copytree(material.crops, crops)
    first, second = sorted(crops.iterdir())[:2]
    for at in (time.time(), time.time() - 86_400):
        with (
            mock.patch("time.time", return_value=at),
            mock.patch("time.time_ns", return_value=int(at * 1e9)),
            open_or_create_index(str(store), CONTRACT, crops) as gallery,
        ):
            index_folder(gallery, crops, material.embedder)
        check_index(store, material, crops)
        times = first.stat().st_mtime_ns, second.stat().st_mtime_ns
        first.rename(scratch / "x.png")
        second.rename(first)
        (scratch / "x.png").rename(second)
        for path, mtime in zip((first, second), times, strict=True):
            os.utime(path, ns=(mtime, mtime))
    with open_or_create_index(str(store), CONTRACT, crops) as gallery:
        index_folder(gallery, crops, material.embedder)
    check_index(store, material, crops)
    return False


def replaced_while_read(rng: random.Random, material: Material) -> bool:
    """Crops are replaced while they are indexed; afterwards the next run is right about each."""
    scratch = material.empty_scratch()
    store, crops = scratch / "people.gallery", scratch / "crops"
    shutil.copytree(material.crops, crops)
    paths, others = sorted(crops.iterdir()), sorted(material.crops.iterdir())
    ended = threading.Event()
    choices = [(rng.choice(paths), rng.choice(others)) for _ in range(100_000)]

    def replace() -> None:
        for path, other in choices:
            if ended.is_set():
                return
            shutil.copy(other, scratch / "new.png")
            (scratch / "new.png").replace(path)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(5):
            with open_or_create_index(str(store), CONTRACT, crops) as gallery:
                index_folder(gallery, crops, material.embedder)
    finally:
        ended.set()
        thread.join()
    with open_or_create_index(str(store), CONTRACT, crops) as gallery:
        index_folder(gallery, crops, material.embedder)
    check_index(store, material, crops)
    return False


ATTACKS = {
    "train": train,
    "index": index,
    "demo": demo,
    "calibrate": calibrate,
    "export": export,
    "clock set back": clock_set_back,
    "replaced while read": replaced_while_read,
}
