"""The exported ONNX model against PyTorch, and the parity check."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch

from bot_deploy import open_embedder
from bot_deploy.artifacts import checkpoint
from bot_deploy.artifacts.checkpoint import contract_of
from bot_deploy.artifacts.contract import METADATA_KEY, Contract, from_json
from bot_deploy.datasets import open_dataset
from bot_deploy.embedder import Embedder
from bot_deploy.evaluation.protocol import evaluate_dataset
from bot_deploy.export import parity, steps
from bot_deploy.export.graph import inference_graph
from bot_deploy.export.to_onnx import to_onnx
from bot_deploy.model import ReID

if TYPE_CHECKING:
    from bot_deploy.model import InferenceGraph


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_any_batch_gives_what_pytorch_gives(onnx_file: Path, checkpoint_file: Path, batch: int) -> None:
    images = np.random.default_rng(batch).integers(0, 256, (batch, 64, 32, 3), dtype=np.uint8)
    exported, torch_ = open_embedder(onnx_file).run(images), open_embedder(checkpoint_file).run(images)
    assert exported.shape == (batch, 512)
    assert exported.dtype == np.float32
    np.testing.assert_allclose(exported, torch_, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(exported, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("arch", ["mobilenet_v2", "resnet50"])
def test_other_backbones_export_with_trained_looking_statistics(tmp_path: Path, arch: str) -> None:
    torch.manual_seed(1)
    model = ReID(arch, 5).train()
    model(torch.randn(8, 3, 64, 32))  # sets batch-norm statistics, so that embeddings differ between images
    saved = checkpoint.Checkpoint(contract_of(model, 64, 32), model.state_dict(), 5, 1, "bnneck", ("none",))
    checkpoint.save(saved, tmp_path / "model.pt")
    to_onnx(inference_graph(saved, saved.contract), saved.contract, tmp_path / "model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 32, 3), dtype=np.uint8)
    exported, torch_ = open_embedder(tmp_path / "model.onnx"), open_embedder(tmp_path / "model.pt")
    assert exported.contract == torch_.contract
    np.testing.assert_allclose(exported.run(images), torch_.run(images), atol=1e-5)


def test_graph_is_complete_and_carries_only_what_inference_needs(onnx_file: Path, checkpoint_file: Path) -> None:
    model = onnx.load(str(onnx_file))
    (images,), (embeddings,) = model.graph.input, model.graph.output
    assert images.name == "images"
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value or d.dim_param for d in images.type.tensor_type.shape.dim] == ["N", 64, 32, 3]
    assert embeddings.name == "embeddings"
    assert embeddings.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [d.dim_value or d.dim_param for d in embeddings.type.tensor_type.shape.dim] == ["N", 512]
    # 8 identities were in training: no weight of the classifier is left.
    assert not [tensor.name for tensor in model.graph.initializer if 8 in tensor.dims]
    contract = from_json({p.key: p.value for p in model.metadata_props}[METADATA_KEY], "model")
    assert contract == checkpoint.load(checkpoint_file).contract
    # Nothing about the machine that exported it.
    assert str(Path.home()).encode() not in onnx_file.read_bytes()
    assert b"site-packages" not in onnx_file.read_bytes()


def test_export_scores_as_pytorch_does(onnx_file: Path, checkpoint_file: Path, people: Path) -> None:
    dataset = open_dataset(people)
    exported, torch_ = (evaluate_dataset(open_embedder(file), dataset) for file in (onnx_file, checkpoint_file))
    assert abs(exported.rank1 - torch_.rank1) <= 0.05
    assert abs(exported.mAP - torch_.mAP) <= 0.05


def _altered(embedder: Embedder, change: object) -> Embedder:
    compute = embedder.compute
    return replace(embedder, compute=lambda batch: change(compute(batch)))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        pytest.param(lambda v: v, True, id="same"),
        pytest.param(lambda v: v + 1e-6, True, id="rounding"),
        pytest.param(lambda v: v * 2, False, id="not-normalised"),
        pytest.param(lambda v: np.roll(v, 1, axis=1), False, id="permuted"),
        pytest.param(lambda v: np.full_like(v, np.nan), False, id="nan"),
        pytest.param(np.zeros_like, False, id="zeros"),
        pytest.param(lambda v: v if len(v) == 1 else v[::-1], False, id="batch-mixed-up"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # from the zeros and NaNs above
def test_parity_fails_other_embeddings(onnx_file: Path, people: Path, change: object, passes: bool) -> None:
    embedder = open_embedder(onnx_file)
    crops = parity.sample_crops(open_dataset(people), (64, 32), count=20)
    result = parity.compare_embeddings(embedder, _altered(embedder, change), crops, parity.TOLERANCES["fp32"])
    assert result.passed is passes
    assert ("passed" if passes else "FAILED") in result.table()


def test_one_bad_crop_among_many_fails_parity(onnx_file: Path, people: Path) -> None:
    embedder = open_embedder(onnx_file)
    crops = parity.sample_crops(open_dataset(people), (64, 32), count=64)

    def spoil(vectors: np.ndarray) -> np.ndarray:
        spoilt = vectors.copy()
        if len(spoilt) == 64:
            spoilt[17] = np.roll(spoilt[17], 3)
        return spoilt

    result = parity.compare_embeddings(embedder, _altered(embedder, spoil), crops, parity.TOLERANCES["fp32"])
    assert not result.passed
    assert result.mean_cosine > 0.99  # a limit on the mean would not notice it


def _network_of(vectors: np.ndarray) -> Embedder:
    """A model whose embedding of a picture of the grey value n is the n-th of `vectors`."""
    contract = Contract(arch="a table", height=4, width=2, dim=vectors.shape[1], fingerprint="t")
    return Embedder(contract, "a table", lambda batch: vectors[batch[:, 0, 0, 0]].astype(np.float32))


def _grey_crops(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 2, 3), np.uint8)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_collapsed_network_whose_neighbours_change_fails_and_is_named() -> None:
    """All embeddings are nearly one, so that their cosines with the reference stay high: only the neighbours differ."""
    rng = np.random.default_rng(0)
    before, after = (_unit(1 / 8 + 0.001 * rng.normal(size=(100, 64))) for _ in range(2))
    result = parity.compare_embeddings(
        _network_of(before), _network_of(after), _grey_crops(100), parity.TOLERANCES["int8"]
    )
    assert result.min_cosine > 0.999
    assert result.top1_agreement < 0.1
    assert result.mean_similarity == pytest.approx((before @ before.T)[~np.eye(100, dtype=bool)].mean(), abs=1e-6)
    assert result.collapsed
    assert not result.passed
    assert "collapsed: all crops look alike" in result.table()
    same = parity.compare_embeddings(
        _network_of(before), _network_of(before), _grey_crops(100), parity.TOLERANCES["fp32"]
    )
    assert same.collapsed
    assert same.passed  # the export is right; the warning says what it is worth


def test_neighbours_that_are_equally_near_may_swap() -> None:
    """Three copies of each crop, as frames of a standing person are: rounding decides which copy is the nearest."""
    rng = np.random.default_rng(1)
    before = np.repeat(_unit(rng.normal(size=(20, 64))), 3, axis=0)
    after = _unit(before + 1e-7 * rng.normal(size=before.shape))
    result = parity.compare_embeddings(
        _network_of(before), _network_of(after), _grey_crops(60), parity.TOLERANCES["fp32"]
    )
    assert result.top1_agreement == 1
    assert not result.collapsed
    assert result.passed


@pytest.mark.parametrize(
    ("precision", "agreement", "passes"),
    [
        ("fp32", 0.99, True),
        ("fp32", 0.98, False),
        ("fp16", 0.95, True),
        ("fp16", 0.94, False),
        ("int8", 0.5, True),
        ("int8", 0.49, False),
        ("int8", 0.03, False),
        ("int8", float("nan"), False),
    ],
)
def test_limits_of_the_agreement(precision: str, agreement: float, passes: bool) -> None:
    figures = dict.fromkeys(("max_abs_error", "max_norm_error"), 0.0)
    figures |= dict.fromkeys(("min_cosine", "mean_cosine", "top10_agreement"), 1.0)
    tolerance = parity.TOLERANCES[precision]
    result = parity.Parity(crops=256, batches=(1,), top1_agreement=agreement, tolerance=tolerance, **figures)
    assert result.passed is passes


def test_figures_against_a_naive_loop(onnx_file: Path, people: Path) -> None:
    embedder = open_embedder(onnx_file)
    crops = parity.sample_crops(open_dataset(people), (64, 32), count=12)
    noise = np.random.default_rng(0).normal(0, 0.01, (12, 512)).astype(np.float32)

    def disturb(vectors: np.ndarray) -> np.ndarray:
        return vectors + noise[: len(vectors)] if len(vectors) == 12 else vectors

    result = parity.compare_embeddings(embedder, _altered(embedder, disturb), crops, parity.Tolerance(0.5))
    a = embedder.run(crops).astype(float)
    b = a + noise
    cosines = [float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) for x, y in zip(a, b, strict=True)]
    assert result.min_cosine == pytest.approx(min(cosines), abs=1e-5)
    assert result.max_abs_error == pytest.approx(np.abs(noise).max(), abs=1e-5)
    assert result.max_norm_error == pytest.approx(max(abs(np.linalg.norm(y) - 1) for y in b), abs=1e-5)
    same = 0
    for row in range(12):
        others = [column for column in range(12) if column != row]
        same += max(others, key=lambda o: a[row] @ a[o]) == max(others, key=lambda o: b[row] @ b[o])
    assert result.top1_agreement == pytest.approx(same / 12)


def test_failed_parity_keeps_the_artifact_as_rejected_and_exits_3(
    tmp_path: Path,
    checkpoint_file: Path,
    people: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def wrong(graph: InferenceGraph, contract: Contract, path: Path, opset: int) -> None:
        broken = copy.deepcopy(graph)
        broken.neck.running_mean += 0.5
        to_onnx(broken, contract, path, opset)

    monkeypatch.setattr(steps, "to_onnx", wrong)
    (tmp_path / "model.onnx").write_bytes(b"of an earlier export")
    from click.testing import CliRunner

    from bot_deploy.commands.export import export_command
    from bot_deploy.errors import ParityError

    result = CliRunner().invoke(
        export_command, [str(checkpoint_file), "--data", str(people), "--out", str(tmp_path), "--json"]
    )
    assert isinstance(result.exception, ParityError)
    assert result.exception.exit_code == 3
    document = json.loads(result.stdout)
    assert document["parity"]["passed"] is False
    assert "FAILED" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx.rejected"]


def test_export_command_prints_one_document(tmp_path: Path, checkpoint_file: Path) -> None:
    (tmp_path / "model.onnx.rejected").write_bytes(b"of an earlier export")
    result = subprocess.run(
        [sys.executable, "-m", "bot_deploy", "export", str(checkpoint_file), "--out", str(tmp_path), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    document = json.loads(result.stdout)
    assert document["model"] == str(tmp_path / "model.onnx")
    assert document["parity"]["passed"] is True
    assert "min cosine" in result.stderr
    assert (tmp_path / "model.onnx").is_file()
    assert not (tmp_path / "model.onnx.rejected").exists()
