"""Batch-norm statistics of a user's crops: against plain loops, and where they help or are refused."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bot_deploy import cli
from bot_deploy.artifacts import checkpoint
from bot_deploy.artifacts.checkpoint import Checkpoint, contract_of
from bot_deploy.errors import InputError
from bot_deploy.model import InferenceGraph, ReID
from bot_deploy.train import batch_norm
from bot_deploy.train.batch_norm import adapt_batch_norm, measure_statistics, read_crops, relative_gap

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.images import Pixels

SIZE = (32, 16)
CASTS = {1: (70, 0, 0), 2: (0, 0, 70)}  # camera -> what its light adds to red, green and blue


@pytest.fixture(scope="module")
def saved() -> Checkpoint:
    torch.manual_seed(0)
    model = ReID("resnet18", 4)
    return Checkpoint(contract_of(model, *SIZE), model.state_dict(), 4, 1, "bnneck", ("data",))


def draw_crops(root: Path, people: int, shade: int = 0) -> tuple[list[Path], list[int]]:
    """A crop of each of `people` people under the light of two cameras, and the camera of each crop."""
    files, cameras = [], []
    for person in range(people):
        rng = np.random.default_rng(person)
        clothes = rng.integers(20, 120, (4, 2, 3)).repeat(8, 0).repeat(8, 1)
        for camera, cast in CASTS.items():
            noise = rng.integers(0, 20, (*SIZE, 3))
            path = root / f"{person:04d}_c{camera}s1_000001_01.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((clothes + noise + np.array(cast) + shade).clip(0, 255).astype(np.uint8)).save(path)
            files.append(path)
            cameras.append(camera)
    return files, cameras


def pixels_of(files: list[Path]) -> Pixels:
    pixels, errors = read_crops(files, SIZE)
    assert not any(errors)
    return pixels


def test_the_statistics_are_those_of_a_loop(saved: Checkpoint) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (150, *SIZE, 3), dtype=np.uint8)
    order = np.random.default_rng(1).permutation(150)
    adapted = measure_statistics(saved, pixels, order.tolist())
    # The first layer sees the pixels through one convolution, whatever the other layers do.
    model = saved.build().eval()
    graph = InferenceGraph(model, saved.contract)
    means, variances = [], []
    for start in (0, 64):  # the last 22 crops are less than half of a batch
        batch = torch.from_numpy(pixels[order[start : start + 64]]).float().permute(0, 3, 1, 2)
        with torch.inference_mode():
            values = model.backbone.conv1(batch * graph.scale + graph.shift).double()  # type: ignore[operator, union-attr]
        flat = values.permute(1, 0, 2, 3).reshape(64, -1)
        means.append(flat.mean(1))
        variances.append(((flat - flat.mean(1, keepdim=True)) ** 2).sum(1) / (flat.shape[1] - 1))
    state = adapted.state
    np.testing.assert_allclose(state["backbone.bn1.running_mean"], sum(means) / 2, atol=1e-4)
    np.testing.assert_allclose(state["backbone.bn1.running_var"], sum(variances) / 2, rtol=1e-4)
    changed = {key for key, value in saved.state.items() if not torch.equal(value, state[key])}
    assert {key.rpartition(".")[2] for key in changed} == {"running_mean", "running_var", "num_batches_tracked"}
    assert "neck.running_var" in changed
    assert adapted.contract.fingerprint == contract_of(adapted.build(), *SIZE).fingerprint != saved.contract.fingerprint


def test_the_relative_gap_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(7, 5)) + np.array([[1.0, 0, 0, 0, 0]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cameras = [1, 2, None, 1, 2, 1, 5]
    same, different, every = [], [], []
    for i in range(7):
        for j in range(7):
            if cameras[i] is None or cameras[j] is None:
                continue
            cosine = float(vectors[i] @ vectors[j])
            every.append(cosine)
            if i != j:
                (same if cameras[i] == cameras[j] else different).append(cosine)
    expected = (np.mean(same) - np.mean(different)) / np.std(every)
    assert relative_gap(vectors.astype(np.float32), cameras) == pytest.approx(expected, rel=1e-4)


def test_cameras_of_another_light(saved: Checkpoint, tmp_path: Path) -> None:
    files, cameras = draw_crops(tmp_path / "crops", 80)
    adapted = adapt_batch_norm(saved, pixels_of(files), cameras)
    assert adapted.gap_after < 0.9 * adapted.gap_before
    # A loop over the crops in the order of their files embeds as the new network does.
    graph = InferenceGraph(adapted.checkpoint.build(), adapted.checkpoint.contract).eval()
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files]))
        vectors = graph(pixels).numpy()
    assert adapted.gap_after == pytest.approx(relative_gap(vectors, cameras), rel=1e-3)


def test_what_cannot_be_adapted_to(saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, cameras = draw_crops(tmp_path / "few", 63)
    with pytest.raises(InputError, match="need 128 crops of at least 2 cameras, and 126 are usable"):
        adapt_batch_norm(saved, pixels_of(files), cameras)
    files, cameras = draw_crops(tmp_path / "crops", 64)
    with pytest.raises(InputError, match="of at least 2 cameras"):
        adapt_batch_norm(saved, pixels_of(files), [1] * 128)
    vit = dataclasses.replace(saved, state={})
    monkeypatch.setattr(Checkpoint, "build", lambda _: nn.Linear(1, 1))
    with pytest.raises(InputError, match="resnet18 has no batch-norm"):
        measure_statistics(vit, np.zeros((128, *SIZE, 3), np.uint8), range(128))


def test_no_gain_is_refused(saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, cameras = draw_crops(tmp_path / "crops", 64)
    monkeypatch.setattr(batch_norm, "measure_statistics", lambda same, *_: same)
    with pytest.raises(InputError, match="they would gain nothing; use the model as it is"):
        adapt_batch_norm(saved, pixels_of(files), cameras)


def test_a_broken_crop_keeps_its_row(tmp_path: Path) -> None:
    files, _ = draw_crops(tmp_path / "crops", 2)
    files[1].write_bytes(b"no image")
    pixels, errors = read_crops(files, SIZE)
    assert [error is not None for error in errors] == [False, True, False, False]
    assert str(files[1]) in str(errors[1])
    assert not pixels[1].any()
    for row in (0, 2, 3):
        np.testing.assert_array_equal(pixels[row], np.asarray(Image.open(files[row])))


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        cli.main([str(word) for word in words])
    printed = capsys.readouterr()
    return int(done.value.code or 0), printed.out, printed.err


def test_command(
    saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    draw_crops(tmp_path / "crops", 80)
    (tmp_path / "runs/mine").mkdir(parents=True)
    checkpoint.save(saved, tmp_path / "runs/mine/model.pt")
    code, out, err = run(
        capsys, "adapt", "runs/mine", "--batch-norm", "--images", "crops", "-o", "adapted.pt", "--json"
    )
    assert code == 0, err
    document = json.loads(out)
    assert document["crops"] == 160
    assert document["relative_gap"]["after"] < document["relative_gap"]["before"]
    assert err.splitlines()[-1].endswith("next: bot export adapted.pt")
    adapted = checkpoint.load(tmp_path / "adapted.pt")
    # An index of these crops gives the same network: their files are read again.
    assert run(capsys, "index", "crops", "-o", "x.gallery", "--model", "runs/mine/model.pt")[0] == 0
    code, out, _ = run(capsys, "adapt", "runs/mine", "--batch-norm", "--gallery", "x.gallery", "-o", "again.pt")
    assert code == 0
    assert "160 crops of 2 cameras" in out
    assert checkpoint.load(tmp_path / "again.pt").contract == adapted.contract
    for words, message in (
        (["runs/mine", "--images", "crops", "-o", "runs/mine/model.pt"], "is the model itself"),
        (["runs/mine", "--images", "crops", "-o", "x.onnx"], "ends in .pt"),
        (["runs/none", "--images", "crops"], "no such file"),
    ):
        code, _, err = run(capsys, "adapt", "--batch-norm", *words)
        assert (code, message in err) == (2, True), err


def test_broken_crops_are_named_and_not_counted(
    saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    files, _ = draw_crops(tmp_path / "crops", 80)
    checkpoint.save(saved, tmp_path / "model.pt")
    assert run(capsys, "index", "crops", "-o", "x.gallery", "--model", "model.pt")[0] == 0
    broken = files[0].name
    files[0].write_bytes(b"no image")
    written = []
    for way in (("--images", "crops"), ("--gallery", "x.gallery")):
        code, out, err = run(capsys, "adapt", "model.pt", "--batch-norm", *way, "-o", "adapted.pt")
        assert code == 0, err
        assert "159 crops of 2 cameras" in out
        named = [line for line in err.splitlines() if line.startswith("left out: ")]
        assert len(named) == 1
        assert broken in named[0]
        code, out, _ = run(capsys, "adapt", "model.pt", "--batch-norm", *way, "-o", "adapted.pt", "--json")
        assert (code, json.loads(out)["crops"]) == (0, 159)
        written.append(checkpoint.load(tmp_path / "adapted.pt").contract)
    files[0].unlink()  # the broken crop changes nothing
    assert run(capsys, "adapt", "model.pt", "--batch-norm", "--images", "crops", "-o", "adapted.pt")[0] == 0
    assert written == [checkpoint.load(tmp_path / "adapted.pt").contract] * 2
