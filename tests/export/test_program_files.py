"""What is written beside an engine for Triton."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import text_format
from helpers.fake_cuda import CONTRACT, SIDECAR
from helpers.triton_server import triton_model_config

from bot_deploy.artifacts import engine_file
from bot_deploy.artifacts.contract import from_json
from bot_deploy.errors import InputError, RunError
from bot_deploy.export.program_files import write_triton_engine

if TYPE_CHECKING:
    from pathlib import Path

ENGINE = b"an engine"  # SIDECAR holds its hash


@pytest.fixture(params=["ours", "tritonclient"])
def model_config(request: pytest.FixtureRequest) -> Any:
    """The message `ModelConfig`: as the tests describe it, and as NVIDIA does."""
    if request.param == "ours":
        return triton_model_config()
    for name in ("tritonclient", "grpc"):
        pytest.importorskip(name, reason="needs `pip install tritonclient[grpc]`")
    return importlib.import_module("tritonclient.grpc.model_config_pb2").ModelConfig


def test_an_engine_becomes_a_model_of_the_repository(model_config: Any, tmp_path: Path) -> None:
    engine_file.write(tmp_path / "model.engine", ENGINE, SIDECAR)
    config, plan = write_triton_engine(tmp_path / "model.engine")
    folder = tmp_path / "triton" / "reid_engine"
    assert (config, plan) == (folder / "config.pbtxt", folder / "1" / "model.plan")
    assert plan.read_bytes() == ENGINE
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == sorted([config, plan])
    parsed = text_format.Parse(config.read_text(encoding="utf-8"), model_config())
    assert (parsed.name, parsed.platform) == ("reid_engine", "tensorrt_plan")
    assert parsed.max_batch_size == SIDECAR.profile[2] == 4
    assert parsed.dynamic_batching.max_queue_delay_microseconds == 2000
    tensors = [(one.name, one.data_type, list(one.dims)) for one in (*parsed.input, *parsed.output)]
    assert tensors == [("images", 2, [4, 2, 3]), ("embeddings", 11, [3])]  # uint8, float32
    assert from_json(parsed.parameters["bot_deploy.contract"].string_value, "config.pbtxt") == CONTRACT


def test_a_second_export_replaces_the_first(tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    for profile in ((1, 2, 4), (1, 8, 16)):
        engine_file.write(engine, ENGINE, replace(SIDECAR, profile=profile))
        config, _ = write_triton_engine(engine)
        assert f"max_batch_size: {profile[2]}\n" in config.read_text(encoding="utf-8")


def test_triton_does_not_run_an_engine_of_tensorrt_rtx(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine_file.write(tmp_path / "model.engine", ENGINE, replace(SIDECAR, package="tensorrt-rtx"))
    assert write_triton_engine(tmp_path / "model.engine") == ()
    assert not (tmp_path / "triton").exists()
    assert "Triton does not run model.engine, because tensorrt-rtx built it" in caplog.text


def test_an_engine_that_is_not_that_of_its_sidecar_is_refused(tmp_path: Path) -> None:
    engine_file.write(tmp_path / "model.engine", b"another", SIDECAR)
    with pytest.raises(InputError, match=r"model\.engine"):
        write_triton_engine(tmp_path / "model.engine")
    assert not (tmp_path / "triton").exists()


def test_a_file_in_place_of_the_repository_is_one_line(tmp_path: Path) -> None:
    engine_file.write(tmp_path / "model.engine", ENGINE, SIDECAR)
    (tmp_path / "triton").write_bytes(b"")
    with pytest.raises(RunError, match=r"1: cannot be written \(Not a directory\)"):
        write_triton_engine(tmp_path / "model.engine")
