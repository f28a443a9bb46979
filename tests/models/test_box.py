"""The built-in model: it opens without a path, every command finds it, and training starts from its weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers.commands import run_bot

from bot_deploy import open_embedder
from bot_deploy.artifacts import checkpoint, read_contract
from bot_deploy.artifacts.checkpoint import Checkpoint, contract_of
from bot_deploy.backends.torch import runner
from bot_deploy.errors import InputError
from bot_deploy.export.compact import round_weights, write_compact
from bot_deploy.images import find_images
from bot_deploy.model import InferenceGraph, ReID
from bot_deploy.models import box
from bot_deploy.models.terms import is_first_use
from bot_deploy.train import weights

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), np.uint8)
FP16_ERROR = 2.0**-11  # relative, of a number that is rounded to FP16; the smallest numbers have steps of 2^-24


@pytest.fixture(scope="module")
def saved() -> Checkpoint:
    """A network with random weights, and random statistics of batch-norm, as after a training."""
    torch.manual_seed(0)
    model = ReID("resnet18", 5)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            for values in (module.weight, module.running_mean, module.running_var):
                torch.nn.init.uniform_(values, 0.5, 1.5)
            module.num_batches_tracked += 3
    return Checkpoint(contract_of(model, 64, 32), model.state_dict(), 5, 1, "bnneck", ("people",))


@pytest.fixture(scope="module")
def compact_file(saved: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compact") / "model.onnx"
    write_compact(round_weights(saved), path)
    return path


def test_weights_come_back_within_fp16_and_batch_norm_exactly(saved: Checkpoint, compact_file: Path) -> None:
    back = checkpoint.load(compact_file)
    assert (back.last_stride, back.neck, back.stem) == (1, "bnneck", "torchvision")
    for key, value in saved.state.items():
        if key.startswith("classifier.") or key.endswith("num_batches_tracked"):
            continue
        error = (back.state[key] - value).abs()
        assert (error <= FP16_ERROR * value.abs() + 2.0**-24).all() if value.dim() > 1 else not error.any(), key
    rounded = {key for key, value in saved.state.items() if key in back.state and (back.state[key] != value).any()}
    assert rounded
    assert back.contract.fingerprint == contract_of(back.build(), 64, 32).fingerprint != saved.contract.fingerprint


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_a_compact_file_computes_in_float32(saved: Checkpoint, compact_file: Path, device: str) -> None:
    rounded = round_weights(saved)
    expected = runner(InferenceGraph(rounded.build(), rounded.contract), "cpu")(IMAGES)
    embedded = open_embedder(compact_file, device).run(IMAGES)
    assert (embedded * expected).sum(1).min() > 0.999999  # activations in FP16 give 0.9999


def test_an_ordinary_export_is_no_checkpoint(onnx_file: Path) -> None:
    with pytest.raises(InputError, match=r"batch-norm is folded; name the checkpoint, model\.pt"):
        checkpoint.load(onnx_file)


def test_the_shipped_file_is_small_calibrated_and_holds_its_terms() -> None:
    contract = read_contract(box.PATH)
    assert box.PATH.stat().st_size <= 9_000_000
    assert contract.terms == box.TERMS
    assert "research" in contract.terms
    assert contract.calibration is not None
    assert contract.calibration.target_false_accept_rate == 0.001
    assert "/" not in contract.calibration.data  # no path of the machine that made it
    back = checkpoint.load(box.PATH)
    assert contract_of(back.build(), *contract.size).fingerprint == contract.fingerprint


def test_open_embedder_without_a_path_opens_the_box() -> None:
    embedder = open_embedder()
    crop = np.random.default_rng(1).integers(0, 256, (*embedder.contract.size, 3), np.uint8)
    expected = open_embedder(box.PATH).embed(crop)
    assert np.array_equal(embedder.embed(crop), expected)
    assert np.array_equal(open_embedder("box").embed(crop), expected)


def test_training_starts_from_the_box() -> None:
    model = ReID(read_contract(box.PATH).arch, 7)
    weights.initialize(model, "box")
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(box.PATH).graph.initializer}
    for key, value in model.state_dict().items():
        if not key.startswith("classifier.") and not key.endswith("num_batches_tracked"):
            assert np.array_equal(value.numpy(), stored[key].astype(np.float32)), key
    assert weights.inherited_terms("box") == box.TERMS
    with pytest.raises(InputError, match="set arch=mobilenet_v2"):
        weights.initialize(ReID("resnet18", 7), "box")


def test_the_order_is_model_then_newest_run_then_box(people: Path, onnx_file: Path, tmp_path: Path) -> None:
    crops = find_images(people / "query")[:2]
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    terms = "for research only"
    first = run_bot("match", *crops, "--json", cwd=tmp_path, **cache)
    assert first.returncode == 0, first.stderr
    assert "model box on ONNX Runtime" in first.stderr
    assert terms in first.stderr
    assert terms not in first.stdout
    document = json.loads(first.stdout)
    a, b = open_embedder("box").embed(crops)
    assert document["matches"][0]["score"] == pytest.approx(float(a @ b), abs=1e-5)
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "model.onnx").write_bytes(onnx_file.read_bytes())
    second = run_bot("match", *crops, cwd=tmp_path, **cache)
    assert f"model {Path('runs/mine/model.onnx')} on " in second.stderr
    third = run_bot("match", *crops, "--model", "box", "--json", cwd=tmp_path, **cache)
    assert "model box on " in third.stderr
    assert terms not in third.stderr  # said once
    assert json.loads(third.stdout)["matches"] == document["matches"]


def test_terms_are_repeated_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert [is_first_use("box"), is_first_use("box"), is_first_use("other")] == [True, False, True]
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [is_first_use("box"), is_first_use("box")] == [True, True]


def test_calibration_of_the_box_goes_into_a_copy(people: Path, tmp_path: Path) -> None:
    before = box.PATH.read_bytes()
    done = run_bot("calibrate", "box", "--data", people, "--far", "0.2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    contract = read_contract(tmp_path / "runs" / "box" / "model.onnx")
    assert contract.calibration is not None
    assert contract.calibration.target_false_accept_rate == 0.2
    assert dataclasses.replace(contract, calibration=None) == dataclasses.replace(
        read_contract(box.PATH), calibration=None
    )
    assert box.PATH.read_bytes() == before
