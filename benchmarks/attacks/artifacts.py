"""Damaged models and files of runs: each is opened as the product opens it, and used if it is accepted."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bot_deploy import open_embedder
from bot_deploy.artifacts.contract import from_json

from .harness import Fell, bot, refuses
from .material import CONTRACT, contract_fields, draw_crop, set_contract
from .mutate import damage, damage_document

if TYPE_CHECKING:
    import random

    from .material import Material

COMMAND_EVERY = 10  # attacks; the others call the Python API


def onnx(rng: random.Random, material: Material) -> bool:
    """Damages the bytes of an ONNX model."""
    path = material.empty_scratch() / "model.onnx"
    path.write_bytes(damage(material.model.read_bytes(), rng))
    return use_model(rng, path, material)


def contract(rng: random.Random, material: Material) -> bool:
    """Damages the fields or the text of a contract in a model."""
    text = json.dumps(damage_document(contract_fields(), rng))
    if rng.random() < 0.3:
        text = damage(CONTRACT.to_json().encode(), rng).decode(errors="replace")
    path = material.empty_scratch() / "model.onnx"
    with contextlib.suppress(UnicodeEncodeError):  # a protobuf holds no surrogates
        return use_model(rng, set_contract(material.model, text, path), material)
    return refuses(lambda: from_json(text, "m.onnx")) is None


def calibration(rng: random.Random, material: Material) -> bool:
    """Damages the fields of a calibration: a match must not depend on NaN or on a threshold that is no cosine."""
    fields = contract_fields()
    fields["calibration"] = damage_document(fields["calibration"], rng)
    path = set_contract(material.model, json.dumps(fields), material.empty_scratch() / "model.onnx")
    return use_model(rng, path, material)


def use_model(rng: random.Random, path: Path, material: Material) -> bool:
    if rng.random() < 1 / COMMAND_EVERY:
        query = min(material.crops.iterdir())
        finished = bot("match", query, material.gallery, "--model", path, "--device", "cpu", "--threads", 1, "--json")
        if finished.code == 0:
            document = finished.document()
            if any(not -1 <= match["score"] <= 1 for match in document["matches"]):
                raise Fell("a score that is no cosine")
        return finished.code != 0
    embedder = refuses(lambda: open_embedder(path, "cpu", threads=1))
    if embedder is None:
        return True
    vectors = refuses(lambda: embedder.embed([draw_crop(1, 1), draw_crop(2, 1)]))
    if vectors is not None:
        check_unit(vectors)
    found = embedder.contract.calibration
    if found and not -1 <= found.reject_threshold <= found.threshold <= 1:
        raise Fell(f"a threshold of {found.threshold} was accepted")
    return vectors is None


def check_unit(vectors: Any) -> None:
    if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=0.02):
        raise Fell("an embedding that is no unit vector")


def sidecar(rng: random.Random, material: Material) -> bool:
    """Damages the sidecar of an engine, or the engine itself."""
    import hashlib

    from bot_deploy.artifacts import engine_file

    path = material.empty_scratch() / "model.engine"
    engine = b"an engine of several bytes" * 20
    described = engine_file.Sidecar(
        contract=CONTRACT,
        sha256=hashlib.sha256(engine).hexdigest(),
        onnx_sha256="0" * 64,
        package="tensorrt",
        version="10.1",
        gpu_archs=("sm89",),
        profile=(1, 8, 64),
        precision="fp16",
    )
    text = described.to_json()
    way = rng.choice(("fields", "text", "engine"))
    if way == "fields":
        text = json.dumps(damage_document(json.loads(text), rng))
    elif way == "text":
        text = damage(text.encode(), rng).decode(errors="replace")
    changed = damage(engine, rng) if way == "engine" else engine
    path.write_bytes(changed)
    engine_file.sidecar_path(path).write_text(text, errors="surrogatepass")
    read = refuses(lambda: engine_file.read(path))
    if read and changed != engine:
        raise Fell("a changed engine under an unchanged checksum")
    if rng.random() < 1 / COMMAND_EVERY:
        bot("match", min(material.crops.iterdir()), material.crops, "--model", path)
    return read is None


# ---- PyTorch files ----


@cache
def torch_files() -> dict[str, bytes]:
    """A checkpoint, a state of training and weights of another toolkit, as bytes."""
    import torch

    from bot_deploy.artifacts.checkpoint import KIND, contract_of
    from bot_deploy.model import ReID

    torch.manual_seed(0)
    model = ReID("mobilenet_v2", 4)
    made = contract_of(model, 64, 32)
    fields = {"contract": made.to_json(), "state": model.state_dict(), "num_ids": 4, "last_stride": 1}
    fields |= {"neck": "bnneck", "data": ["people"], "stem": "torchvision", "kind": KIND}
    foreign = {"backbone.conv1.weight": torch.zeros(2, 3), "heads.bottleneck.0.weight": torch.zeros(3)}
    return {
        "checkpoint": saved(fields),
        "small checkpoint": saved({**fields, "state": {"neck.weight": torch.zeros(3)}}),
        "foreign": saved({"state_dict": foreign}),
        "state": state_file(),
    }


@cache
def trained_checkpoint() -> bytes:
    """A checkpoint of a ResNet-18, which is exported in seconds."""
    import torch

    from bot_deploy.artifacts.checkpoint import KIND, contract_of
    from bot_deploy.model import ReID

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ReID("resnet18", 4, last_stride=2)
    fields = {"contract": contract_of(model, 64, 32).to_json(), "state": model.state_dict(), "num_ids": 4}
    fields |= {"last_stride": 2, "neck": "bnneck", "data": ["people"], "stem": "torchvision", "kind": KIND}
    return saved(fields)


def small_state() -> Any:
    """The state of a training whose network has six weights."""
    import torch
    from torch import nn

    from bot_deploy.train.losses import CenterLoss
    from bot_deploy.train.state import TrainingState

    model, center = nn.Linear(2, 3), CenterLoss(2, 3)
    optimizers = torch.optim.Adam(model.parameters()), torch.optim.SGD(center.parameters(), lr=0.5)
    return TrainingState(model, center, *optimizers, torch.amp.GradScaler("cpu", enabled=False))  # type: ignore[arg-type]


def state_file() -> bytes:
    import torch

    from bot_deploy.train.run_files import EpochMetrics
    from bot_deploy.train.state import save_state

    state = small_state()
    (state.model(torch.ones(1, 2)).sum() + state.center(torch.ones(2, 3), torch.tensor([0, 1]))).backward()
    state.optimizer.step()
    state.center_optimizer.step()
    state.epoch, state.metrics = 2, [EpochMetrics(epoch=1, lr=0.1), EpochMetrics(epoch=2)]
    with tempfile.TemporaryDirectory() as folder:
        save_state(state, Path(folder) / "state.pt")
        return (Path(folder) / "state.pt").read_bytes()


def saved(fields: Any) -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save(fields, stream)
    return stream.getvalue()


def changed_torch_file(name: str, rng: random.Random) -> bytes:
    import torch

    data = torch_files()[name]
    if rng.random() < 0.5:
        return damage(data, rng)
    tensors = (torch.zeros(0), torch.full((3,), float("nan")), torch.zeros(2, dtype=torch.complex64))
    return saved(damage_document(torch.load(io.BytesIO(data), weights_only=True), rng, (*tensors, "x")))


def checkpoint(rng: random.Random, material: Material) -> bool:
    """Damages a checkpoint; one in ten has all its weights and is run."""
    from bot_deploy.artifacts import checkpoint as files

    whole = rng.random() < 1 / COMMAND_EVERY
    path = material.empty_scratch() / "model.pt"
    path.write_bytes(changed_torch_file("checkpoint" if whole else "small checkpoint", rng))
    if not whole:
        loaded = refuses(lambda: files.load(path))
        return loaded is None or refuses(loaded.build) is None
    embedder = refuses(lambda: open_embedder(path, "cpu", threads=1))
    vectors = refuses(lambda: embedder.embed(draw_crop(1, 1))) if embedder else None
    if vectors is not None:
        check_unit(vectors)
    return vectors is None


def training_state(rng: random.Random, material: Material) -> bool:
    """Damages the state.pt of a run."""
    import torch

    from bot_deploy.train.state import restore_state

    path = material.empty_scratch() / "state.pt"
    path.write_bytes(changed_torch_file("state", rng))
    state = small_state()
    if refuses(lambda: restore_state(state, path) or True) is None:
        return True
    (state.model(torch.ones(1, 2)).sum() + state.center(torch.ones(2, 3), torch.tensor([0, 1]))).backward()
    state.optimizer.step()  # what was accepted can go on
    state.center_optimizer.step()
    return False


def foreign_checkpoint(rng: random.Random, material: Material) -> bool:
    """Damages the weights of another toolkit."""
    from bot_deploy.export.importers.checkpoint import import_checkpoint

    path = material.empty_scratch() / "foreign.pth"
    path.write_bytes(changed_torch_file("foreign", rng))
    if rng.random() < 1 / COMMAND_EVERY:
        return bot("import", path, "--from", "fast-reid", "--out", path.with_name("new.pt")).code != 0
    return refuses(lambda: import_checkpoint(path)) is None


# ---- tables, recipes, detectors ----


def recipe(rng: random.Random, material: Material) -> bool:
    """Damages the config.toml of a run, which is also a recipe."""
    from bot_deploy.train import run_files
    from bot_deploy.train.recipe import Recipe, load_recipe, to_toml

    text = f'{to_toml(Recipe())}\n[data]\nsources = ["people"]\ncrops = 4\nfingerprint = "f"\n'
    folder = material.empty_scratch()
    path = folder / run_files.CONFIG_NAME
    if rng.random() < 0.5:
        lines = text.splitlines()
        key = rng.choice([line.partition(" =")[0] for line in lines if " = " in line])
        value = rng.choice(
            ("nan", "inf", "-1", "0", "1" + "0" * 400, "1e999", '""', "[]", "true", "[[1]]", "{}", '"x"')
        )
        text = "\n".join(f"{key} = {value}" if line.startswith(f"{key} =") else line for line in lines)
        path.write_text(text)
    else:
        path.write_bytes(damage(text.encode(), rng))
    refuses(lambda: run_files.read_config(folder))
    if rng.random() < 1 / COMMAND_EVERY:
        bot("train", "--resume", "--out", folder, "--data", folder / "nowhere")
    return refuses(lambda: load_recipe(path)) is None


def table(rng: random.Random, material: Material) -> bool:
    """Damages a table of crops, and a table of metadata."""
    from bot_deploy.datasets import open_dataset
    from bot_deploy.gallery import read_metadata

    folder = material.empty_scratch()
    for path in material.crops.iterdir():
        os.link(path, folder / path.name)
    rows = [f"{path.name},{path.name[:4]},{path.name[6]},train" for path in sorted(material.crops.iterdir())]
    text = "\n".join(["path,identity,camera,split", *rows]).encode()
    if rng.random() < 0.3:
        text = text.decode().replace(",", rng.choice((";", "\t", ", "))).encode(rng.choice(("utf-16", "utf-8-sig")))
    if rng.random() < 0.3:
        cell = rng.choice(
            (b"nan", b"-1", b"=1+1", b"9" * 50, b"\x00", b'"', b"../../etc/passwd", b"\xff", b"x" * 200_000)
        )
        text = text.replace(rng.choice((b"0001", b"train", b"c1s1", b",1,")), cell, 1)
    else:
        text = damage(text, rng)
    crops, metadata = folder / "crops.csv", folder / "metadata.csv"
    crops.write_bytes(text)
    metadata.write_bytes(text.replace(b"split", b"time", 1).replace(b"train", b"2026-01-31T12:00"))
    if rng.random() < 1 / COMMAND_EVERY:
        model = ("--model", material.model, "--device", "cpu", "--threads", 1)
        bot("index", material.crops, "-o", folder / "new.gallery", "--metadata", metadata, "--json", *model)
        return bot("eval", material.model, "--data", crops, "--json").code != 0
    refuses(lambda: read_metadata(metadata))
    dataset = refuses(lambda: open_dataset(str(crops)))
    return dataset is None


def detector(rng: random.Random, material: Material) -> bool:
    """Damages the network of a detector."""
    from bot_deploy.video.detectors import open_detector

    path = material.empty_scratch() / "detector.onnx"
    path.write_bytes(damage(material.detector.read_bytes(), rng))
    opened = refuses(lambda: open_detector(path, threads=1))
    if opened is None:
        return True
    found = refuses(lambda: opened.detect(draw_crop(1, 1)))
    if found and not (np.isfinite(found.xyxy).all() and ((found.confidence >= 0) & (found.confidence <= 1)).all()):
        raise Fell("a box or a score that is no number")
    return found is None


ATTACKS = {
    "onnx": onnx,
    "contract": contract,
    "calibration": calibration,
    "sidecar": sidecar,
    "checkpoint": checkpoint,
    "state.pt": training_state,
    "foreign weights": foreign_checkpoint,
    "recipe": recipe,
    "table": table,
    "detector": detector,
}
