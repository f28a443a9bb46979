"""Whole commands of `bot` killed at random moments: train, index, calibrate, export, and a demo that enrols.

Each attack kills a command once or twice, checks what it left, runs it again to its end, and checks the result.
"""

from __future__ import annotations

import csv
import json
import shutil
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bot_deploy import open_embedder
from bot_deploy.artifacts import read_contract
from bot_deploy.gallery import open_or_create_index
from bot_deploy.images import read_image

from .artifacts import trained_checkpoint
from .command_process import finish, kill, kill_surely, preload
from .harness import Fell
from .material import CONTRACT, STREET_FPS, contract_fields, draw_crop, set_contract

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from .material import Material

TIMEOUT_S = 600  # of one attack
FILES_PER_COMMIT = 4  # crops between two commits of an index
MIN_COSINE_OF_TRACK = 0.9  # of the mean of a track, which a demo enrols, with its best crop
CLOCKS_S = (0, 0, -86_400, 7 * 86_400)  # of the run after a kill: sometimes its clock is a day behind, or a week ahead
CPU = ("--device", "cpu", "--threads", 1)


def check_no_leftovers(folder: Path) -> None:
    """Raises Fell for a temporary file in `folder`."""
    if left := [path.name for path in folder.rglob(".*") if path.name.endswith(".tmp") or "unverified" in path.name]:
        raise Fell(f"left over: {left[:3]}")


def succeeds(words: tuple[object, ...], material: Material, rng: random.Random, codes: tuple[int, ...] = (0,)) -> Any:
    """Runs the command after a kill, sometimes with another clock; raises Fell unless it ends well."""
    finished = finish(words, material.folder / "command", rng.choice(CLOCKS_S))
    if finished.code not in codes:
        raise Fell(f"the next bot {words[0]}: exit code {finished.code}, {finished.stderr[-300:]!r}")
    return finished


def duration(words: tuple[object, ...], material: Material) -> float:
    """Seconds of a run of the command without a kill; raises Fell unless it succeeds."""
    preload()  # outside of the time
    started = time.monotonic()
    finished = finish(words, material.folder / "command")
    if finished.code:
        raise Fell(f"bot {words[0]} without a kill: {finished.stderr[-300:]!r}")
    return time.monotonic() - started


def once(material: Material, name: str, make: Any) -> Any:
    """What `make` returned at its first call for `material`."""
    if name not in material.references:
        material.references[name] = make()
    return material.references[name]


# ---- index ----


def check_index(store: Path, material: Material, crops: Path, min_cosine: float = 0.999) -> set[str]:
    """Opens an index, and checks the vector of every row; returns the paths of the rows."""
    with open_or_create_index(str(store), CONTRACT, crops) as gallery:
        paths = [item.path for item in gallery.items()]
        if len(paths) != len(gallery):
            raise Fell(f"{len(gallery)} images, {len(paths)} rows")
        if paths:
            expected = material.embedder.embed([read_image(crops / path) for path in paths])
            if np.einsum("nd,nd->n", gallery.vectors(paths), expected).min() < min_cosine:
                raise Fell("a row has the vector of another picture")
    return set(paths)


def small_commits() -> None:
    """Makes `bot index` commit after every few crops."""
    from bot_deploy.gallery import indexing

    indexing.FILES_PER_COMMIT = FILES_PER_COMMIT


def index(rng: random.Random, material: Material) -> bool:
    """Kills `bot index`; no committed row is lost, and the next run completes it."""
    scratch = material.empty_scratch()
    store, crops, log = scratch / "people.gallery", scratch / "crops", material.folder / "command"
    shutil.copytree(material.crops, crops)
    words = ("index", crops, "-o", store, "--model", material.model, *CPU, "--json")
    if rng.random() < 0.3:
        words += ("--ann", "hnsw")

    def reference() -> float:
        seconds = duration(words, material)
        shutil.rmtree(store)
        return seconds

    seconds = once(material, "index", reference)
    was_killed = kill_surely(
        words, log, seconds, rng, scratch, lambda: shutil.rmtree(store, ignore_errors=True), small_commits
    )
    committed = check_index(store, material, crops)
    kill(words, log, seconds, rng, scratch, small_commits)
    rows = check_index(store, material, crops)
    if not committed <= rows:
        raise Fell(f"{len(committed - rows)} committed rows are lost")
    document = succeeds(words, material, rng).document()
    if len(check_index(store, material, crops)) != len(list(crops.iterdir())) or document["broken"]:
        raise Fell("the index is not complete")
    query = rng.choice(sorted(crops.iterdir()))
    best = succeeds(("match", query, store, "--model", material.model, *CPU, "--json"), material, rng).document()
    if best["matches"][0]["score"] < 0.999 or not best["matches"][0]["path"].endswith(query.name):
        raise Fell("a crop does not match itself")
    check_no_leftovers(scratch)
    return was_killed


# ---- calibrate ----


def calibrate(rng: random.Random, material: Material) -> bool:
    """Kills `bot calibrate`; the model has the old or the new calibration, and is otherwise as it was."""
    folder, log = material.empty_scratch(), material.folder / "command"
    old = CONTRACT.calibration if rng.random() < 0.5 else None
    fields = contract_fields() if old else contract_fields(calibration=None)
    path = set_contract(material.model, json.dumps(fields), folder / "model.onnx")
    words = ("calibrate", path, "--data", material.strangers, "--far", 0.1, *CPU)
    plot = path.with_name("model.onnx.calibration.png")

    def reference() -> tuple[float, Any]:
        return duration(words, material), read_contract(path).calibration

    def again() -> None:
        set_contract(material.model, json.dumps(fields), path)
        plot.unlink(missing_ok=True)

    seconds, new = once(material, "calibrate", reference)
    again()
    was_killed = kill_surely(words, log, seconds, rng, folder, again)
    check_model(path, material)
    if read_contract(path).calibration not in {old, new}:
        raise Fell("a calibration that is neither the old nor the new one")
    if plot.exists():
        check_picture(plot)
    succeeds(words, material, rng)
    if read_contract(path).calibration != new:
        raise Fell("the next calibration differs from one without a kill")
    check_model(path, material)
    check_picture(plot)
    check_no_leftovers(folder)
    return was_killed


def check_model(path: Path, material: Material) -> None:
    crop = draw_crop(1, 1)
    if not np.array_equal(open_embedder(path, "cpu", threads=1).embed(crop), material.embedder.embed(crop)):
        raise Fell("a model with other embeddings")


def check_picture(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


# ---- export ----


def export(rng: random.Random, material: Material) -> bool:
    """Kills `bot export`; model.onnx is the old or the new one, and the next export clears up after the killed one."""
    folder, log = material.empty_scratch(), material.folder / "command"
    (folder / "model.pt").write_bytes(trained_checkpoint())
    path, crop = folder / "model.onnx", draw_crop(1, 1)
    words = ("export", folder / "model.pt", "--data", material.people, "--out", folder)

    def reference() -> tuple[float, Any]:
        seconds = duration(words, material)
        return seconds, open_embedder(path, "cpu", threads=1).embed(crop)

    seconds, new = once(material, "export", reference)
    path.unlink(missing_ok=True)
    if rng.random() < 0.5:
        shutil.copy(material.model, path)
    old = path.read_bytes() if path.exists() else None
    was_killed = kill_surely(words, log, seconds, rng, folder, lambda: old and path.write_bytes(old))
    if not path.exists() and old:
        raise Fell("the old model is gone")
    if path.exists() and path.read_bytes() != old:
        check_embedding(path, crop, new)
    succeeds(words, material, rng)
    check_embedding(path, crop, new)
    check_no_leftovers(folder)
    return was_killed


def check_embedding(path: Path, crop: Any, expected: Any) -> None:
    if not np.allclose(open_embedder(path, "cpu", threads=1).embed(crop), expected, atol=1e-6):
        raise Fell(f"{path.name} is not the exported model")


# ---- train ----

RESULTS = ("epoch", "lr", "id_loss", "triplet_loss", "center_loss", "accuracy", "rank1", "mAP")  # without times
SETTINGS = ("epochs=3", "height=64", "width=32", "identities_per_batch=2", "images_per_identity=2", "seed=1")


def train(rng: random.Random, material: Material) -> bool:
    """Kills `bot train`; the run is resumed, and its weights and metrics are those of a run without a stop."""
    run, log = material.empty_scratch() / "run", material.folder / "command"
    words: tuple[object, ...] = ("train", "--recipe", "quick", "--weights", "none", "--data", material.people)
    words += ("--out", run, *(word for setting in SETTINGS for word in ("--set", setting)))

    def reference() -> tuple[float, Any, Any]:
        seconds = duration(words, material)
        results = weights(run / "model.pt"), metrics(run)
        shutil.rmtree(run)
        return seconds, *results

    seconds, expected, expected_metrics = once(material, "train", reference)
    was_killed = kill_surely(words, log, seconds, rng, run, lambda: shutil.rmtree(run, ignore_errors=True))
    check_run(run, expected_metrics)
    if rng.random() < 0.3:  # and the resumed one
        kill((*words, "--resume"), log, seconds / 2, rng, run)
        check_run(run, expected_metrics)
    succeeds((*words, "--resume"), material, rng)
    check_run(run, expected_metrics)
    if metrics(run) != expected_metrics:
        raise Fell("metrics.csv differs from that of a run without a stop")
    resumed = weights(run / "model.pt")
    if resumed.keys() != expected.keys() or any(not resumed[name].equal(expected[name]) for name in expected):
        raise Fell("the weights differ from those of a run without a stop")
    check_no_leftovers(run)
    return was_killed


def weights(path: Path) -> Any:
    """The tensors of a checkpoint, by name."""
    from bot_deploy.artifacts import checkpoint

    return checkpoint.load_tensors(path)["state"]


def metrics(run: Path) -> list[list[str]]:
    with (run / "metrics.csv").open() as table:
        return [[row[name] for name in RESULTS] for row in csv.DictReader(table)]


def check_run(run: Path, expected: list[list[str]]) -> None:
    """Raises Fell unless each file of the run that is there is whole."""
    from bot_deploy.artifacts import checkpoint

    for name in ("model.pt", "state.pt"):
        if (run / name).exists():
            checkpoint.load_tensors(run / name)
    if (run / "metrics.csv").exists() and (rows := metrics(run)) != expected[: len(rows)]:
        raise Fell("other metrics than those of a run without a stop")
    if (run / "curves.png").exists():
        check_picture(run / "curves.png")


# ---- demo ----


def demo(rng: random.Random, material: Material) -> bool:
    """Kills `bot demo` while it enrols; who was reported is in the gallery, events are whole lines, the video opens."""
    scratch, log = material.empty_scratch(), material.folder / "command"
    store, events, video = scratch / "people.gallery", scratch / "events.jsonl", scratch / "seen.mp4"
    words: tuple[object, ...] = ("demo", "--source", material.street, "--fps", STREET_FPS, "--headless")
    words += ("--detector", material.street_detector, "--model", material.model, *CPU, "--embed-every", 1)
    words += ("--auto-enrol", "--gallery", store, "--events", events, "--output", video, "--json")

    def again() -> None:
        material.empty_scratch()

    def reference() -> tuple[float, int]:
        seconds = duration(words, material)
        enrolled = len(check_people(store, events, material))
        again()
        return seconds, enrolled

    seconds, people = once(material, "demo", reference)
    if people < 5:
        raise Fell(f"only {people} people were enrolled without a kill")
    was_killed = kill_surely(words, log, seconds, rng, scratch, again)
    before = check_people(store, events, material)
    check_recording(scratch, events)
    crops = store / "crops"
    if any(crops.glob("*/*.png")):
        index = ("index", crops, "-o", store, "--model", material.model, *CPU, "--json")
        if succeeds(index, material, rng).document()["broken"]:
            raise Fell("a half-written crop")
    document = succeeds(words, material, rng).document()
    if document["frames"] != len(list(material.street.iterdir())):
        raise Fell(f"{document['frames']} frames in the next run")
    after = check_people(store, events, material)
    if not before <= after:
        raise Fell(f"{len(before - after)} people are lost")
    if count_frames(video) < document["frames"] - STREET_FPS:
        raise Fell("the recording of the next run lacks frames")
    check_no_leftovers(scratch)
    return was_killed


def check_people(store: Path, events: Path, material: Material) -> set[str]:
    """The names in the gallery; raises Fell for a half event, a lost person, or a row with another vector."""
    with_end = events.read_text() if events.exists() else ""
    if with_end and not with_end.endswith("\n"):
        raise Fell("half a line in the events")
    reported = {name for line in with_end.splitlines() if (name := json.loads(line)["name"]) is not None}
    if not (store / "gallery.sqlite").exists():
        if reported:
            raise Fell("people were reported, and there is no gallery")
        return set()
    check_index(store, material, store / "crops", MIN_COSINE_OF_TRACK)
    with open_or_create_index(str(store), CONTRACT, store / "crops") as gallery:
        names = {item.identity or "" for item in gallery.items()}
    if lost := reported - names:
        raise Fell(f"{len(lost)} people who were reported are not in the gallery")
    return names


def check_recording(folder: Path, events: Path) -> None:
    """Raises Fell unless what a killed demo recorded can be played, but for about its last two seconds."""
    (part,) = list(folder.glob("seen.part*.mp4")) or [None]
    recorded = count_frames(part) if part and part.stat().st_size else 0
    if (folder / "seen.mp4").exists():
        recorded = max(recorded, count_frames(folder / "seen.mp4"))
    last = (
        max((json.loads(line)["frame"] for line in events.read_text().splitlines()), default=0)
        if events.exists()
        else 0
    )
    if recorded < last - 3 * STREET_FPS:
        raise Fell(f"{recorded} frames of at least {last} are in the recording")


def count_frames(path: Path) -> int:
    """The frames of a video; 0 if it has none."""
    import av

    try:
        with av.open(str(path)) as container:
            return sum(1 for _ in container.decode(video=0)) if container.streams.video else 0
    except (av.error.FFmpegError, OSError):
        return 0


ATTACKS = {"train": train, "index": index, "demo": demo, "calibrate": calibrate, "export": export}
