"""`bot export` and `bot verify`: files, messages and errors."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from helpers.fake_cuda import MODEL

from bot_deploy import cli
from bot_deploy.artifacts import checkpoint, engine_file
from bot_deploy.artifacts.checkpoint import contract_of
from bot_deploy.backends import nvidia
from bot_deploy.commands.export import export_command
from bot_deploy.commands.verify import verify
from bot_deploy.errors import InputError, ParityError, RunError
from bot_deploy.export import parity, steps
from bot_deploy.export.exported_model import ExportedModel
from bot_deploy.export.steps import ExportContext, export_engine
from bot_deploy.export.to_onnx import to_onnx

if TYPE_CHECKING:
    from pathlib import Path


def test_an_engine_that_fails_on_its_own_gpu_is_no_artifact(
    context: ExportContext, exported: ExportedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx to build an engine")

    def broken(path: Path, *, check: bool) -> None:
        assert not check
        raise RunError(f"{path.name} cannot run a batch of 2")

    monkeypatch.setattr(nvidia, "find_gpu", lambda: MODEL)
    monkeypatch.setattr(steps, "open_embedder", broken)
    context = replace(context, out=tmp_path)
    exported = replace(exported, path=shutil.copy(exported.path, tmp_path / "model.onnx"))
    with pytest.raises(RunError, match="cannot run a batch of 2"):
        export_engine(context, "fp32", (1, 2, 4), ["sm89"], [exported])
    assert list(tmp_path.iterdir()) == [exported.path]
    monkeypatch.setattr(nvidia, "find_gpu", lambda: replace(MODEL, arch="sm120"))
    artifact = export_engine(context, "fp32", (1, 2, 4), ["sm89"], [exported])
    assert (artifact.parity, artifact.not_run) == (None, "built for sm89, but the GPU is sm120")


def test_export_writes_every_artifact_and_reports_the_one_that_cannot_run_here(
    checkpoint_file: Path,
    people: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx to build an engine")

    def none() -> None:
        raise RunError("no NVIDIA GPU")

    monkeypatch.setattr(nvidia, "find_gpu", none)
    written = []
    monkeypatch.setattr(
        steps, "to_onnx", lambda *arguments: (written.append(arguments[1].precision), to_onnx(*arguments))
    )
    arguments = [str(checkpoint_file), "--fp16", "--trt", "--gpu-arch", "sm89", "--batch", "1:2:4"]
    result = CliRunner().invoke(export_command, [*arguments, "--data", str(people), "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["model"] == str(tmp_path / "model.onnx")
    names = {artifact["path"].rpartition("/")[2]: artifact for artifact in document["artifacts"]}
    assert list(names) == ["model.onnx", "model.fp16.onnx", "model.engine"]
    for name in ("model.onnx", "model.fp16.onnx"):
        assert names[name]["parity"]["passed"] is True
        assert abs(names[name]["parity"]["map_change"]) < 1  # scored, because --data is given
    assert names["model.engine"]["precision"] == "fp16"
    assert names["model.engine"]["parity"] is None
    assert "no NVIDIA GPU" in names["model.engine"]["not_run"]
    assert "NOT verified, because it cannot run here: no NVIDIA GPU" in caplog.text
    # Each graph is made once, and the engine is built from the verified file.
    assert written == ["fp32", "fp16"]
    _, sidecar = engine_file.read(tmp_path / "model.engine")
    assert sidecar.onnx_sha256 == hashlib.sha256((tmp_path / "model.fp16.onnx").read_bytes()).hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "model.engine.json"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--batch", "1:2:4"], 2, "--workspace and --adopt are about the engine; add --trt"),
        (["--gpu-arch", "sm89"], 2, "add --trt"),
        (["--fp32"], 2, "add --trt"),
        (["--adopt", "{file}"], 2, "add --trt"),
        (["--trt", "--adopt", "{file}", "--engine-level", "5"], 2, "only its precision can be given"),
        (["--trt", "--adopt", "none.engine"], 2, "none.engine: no such engine"),
        (["--trt", "--compatible", "all"], 2, "'all' is not one of"),
        (["--trt", "--batch", "4"], 2, "'4' is not MIN:OPT:MAX"),
        (["--trt", "--batch", "1:x:2"], 2, "'1:x:2' is not MIN:OPT:MAX"),
        (["--trt", "--batch", "8:4:16", "--gpu-arch", "sm89"], 2, "batch 8:4:16: choose min:opt:max"),
        (["--trt", "--batch", "0:4:16", "--gpu-arch", "sm89"], 2, "batch 0:4:16: choose min:opt:max"),
        (["--trt", "--fp32", "--int8"], 2, "both set the engine's precision"),
        (["--trt", "--gpu-arch", "8.9"], 2, "write sm89 for compute capability 8.9"),
        (["--trt", "--gpu-arch", "sm89, sm50"], 2, "does not build for sm50, but for sm"),
        (["--opset", "99"], 2, "opset 99: choose from 11 to 23"),
        (["--out", "{file}/out"], 1, "out: cannot be written (Not a directory)"),
    ],
)
def test_wrong_usage_is_an_error_before_work_begins(
    arguments: list[str],
    code: int,
    message: str,
    checkpoint_file: Path,
    people: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "sm50" in " ".join(arguments):
        pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx, which knows the GPUs that it builds for")

    def forbidden(*arguments: object) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr(steps, "evaluate_dataset", forbidden)
    monkeypatch.setattr(steps, "to_onnx", forbidden)
    (tmp_path / "file").touch()
    arguments = [word.format(file=tmp_path / "file") for word in arguments]
    with pytest.raises(SystemExit) as result:
        cli.main(["export", str(checkpoint_file), "--data", str(people), "--out", str(tmp_path / "out"), *arguments])
    assert result.value.code == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_engine_without_tensorrt_is_refused_before_work_begins(
    checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia, "is_installed", lambda package: False)
    result = CliRunner().invoke(export_command, [str(checkpoint_file), "--trt", "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, RunError)
    assert "pip install 'bot-deploy[tensorrt-rtx]'" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_no_engine_is_built_from_a_rejected_model(context: ExportContext, tmp_path: Path) -> None:
    context = replace(context, out=tmp_path)
    rejected = ExportedModel(tmp_path / "model.fp16.onnx.rejected", "fp16", "crops", None)
    with pytest.raises(
        ParityError, match=r"no model\.engine, because it would be built from .*model\.fp16\.onnx\.rejected"
    ):
        export_engine(context, "fp16", exported=[rejected])
    assert list(tmp_path.iterdir()) == []


def test_verify_passes_an_export_of_the_same_model(onnx_file: Path, checkpoint_file: Path, people: Path) -> None:
    result = CliRunner().invoke(verify, [str(checkpoint_file), str(onnx_file), "--data", str(people), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["parity"]["passed"] is True
    assert document["parity"]["tolerance"] == {"min_cosine": 0.99999, "map_change": None, "min_top1": 0.99}
    assert document["parity"]["rank1_change"] == pytest.approx(0, abs=0.01)


def test_verify_fails_other_weights_with_exit_code_3(
    onnx_file: Path, checkpoint_file: Path, people: Path, tmp_path: Path
) -> None:
    saved = checkpoint.load(checkpoint_file)
    state = copy.deepcopy(saved.state)
    state["backbone.layer4.1.conv2.weight"] += 0.05
    model = replace(saved, state=state).build()
    checkpoint.save(replace(saved, state=state, contract=contract_of(model, 64, 32)), tmp_path / "other.pt")
    result = CliRunner().invoke(verify, [str(onnx_file), str(tmp_path / "other.pt"), "--data", str(people)])
    assert isinstance(result.exception, ParityError)
    assert result.exception.exit_code == 3
    assert "they hold different weights" in str(result.exception)
    assert "FAILED" in result.stderr


def test_verify_refuses_models_of_different_sizes(onnx_file: Path, checkpoint_file: Path, tmp_path: Path) -> None:
    saved = checkpoint.load(checkpoint_file)
    small = replace(saved, contract=replace(saved.contract, height=32, width=16))
    checkpoint.save(small, tmp_path / "small.pt")
    result = CliRunner().invoke(verify, [str(onnx_file), str(tmp_path / "small.pt")])
    assert isinstance(result.exception, InputError)
    assert "crops of 64x32 cannot be compared with 512 from 32x16" in str(result.exception)


def test_change_of_map_beyond_the_tolerance_fails() -> None:
    figures = parity.Parity(9, (1,), 0.1, 0.98, 0.99, 0.0, 1.0, 1.0, parity.TOLERANCES["int8"], 0.0, None)
    assert figures.passed
    assert replace(figures, map_change=-0.5).passed
    assert not replace(figures, map_change=-0.51).passed
    assert not replace(figures, map_change=0.51).passed
    assert not replace(figures, map_change=float("nan")).passed
    assert not replace(figures, min_cosine=0.9699).passed
    assert replace(figures, tolerance=parity.TOLERANCES["fp16"], min_cosine=0.9991, map_change=-3.0).passed
