"""One function reads, and one writes, the contract of every kind of model file."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.commands import run_python
from helpers.fake_cuda import SIDECAR

from bot_deploy.artifacts import checkpoint, engine_file, read_contract, write_contract
from bot_deploy.artifacts.contract import Calibration
from bot_deploy.errors import InputError

CALIBRATION = Calibration(
    data="m.zip", genuine_pairs=100, impostor_pairs=2000, target_false_accept_rate=0.01,
    threshold=0.6, reject_threshold=0.3, false_reject_rate=0.2,
    curve=((0.5, 0.1), (0.6, 0.01)),
)  # fmt: skip


@pytest.fixture(params=["onnx", "pt", "engine"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path: Path = tmp_path / f"model.{request.param}"
    if request.param == "engine":
        engine_file.write(path, b"an engine", SIDECAR)
        return path
    source = "onnx_file" if request.param == "onnx" else "checkpoint_file"
    return Path(shutil.copy(request.getfixturevalue(source), path))


def test_the_contract_of_every_kind_of_file(model: Path, checkpoint_file: Path) -> None:
    contract = read_contract(str(model))
    assert contract == (SIDECAR.contract if model.suffix == ".engine" else checkpoint.load(checkpoint_file).contract)


def test_a_written_contract_is_read_again_and_nothing_else_changes(model: Path) -> None:
    before = model.read_bytes()
    contract = replace(read_contract(model), calibration=CALIBRATION)
    write_contract(model, contract)
    assert read_contract(model) == contract
    if model.suffix == ".engine":
        assert engine_file.read(model) == (before, replace(SIDECAR, contract=contract))
    elif model.suffix == ".pt":
        (tmp := model.with_name("before.pt")).write_bytes(before)
        old, new = checkpoint.load(tmp), checkpoint.load(model)
        assert replace(old, contract=contract, state={}) == replace(new, state={})
        assert old.state.keys() == new.state.keys()
        assert all(torch.equal(new.state[key], value) for key, value in old.state.items())
    else:
        assert model.read_bytes().startswith(before[:1000])
        write_contract(model, replace(contract, calibration=None))
        assert read_contract(model) == replace(contract, calibration=None)


@pytest.mark.parametrize("function", [read_contract, lambda path: write_contract(path, SIDECAR.contract)])
def test_what_is_no_model_file(tmp_path: Path, function: object) -> None:
    (tmp_path / "model.zip").write_bytes(b"")
    for name, message in (
        ("", r"a folder; name the model in it, such as .*model\.onnx$"),
        ("none.onnx", r"none\.onnx: no such model file; `bot export` writes one$"),
        ("model.zip", r"model\.zip: models end in \.onnx or \.engine or \.pt or \.xml$"),
    ):
        with pytest.raises(InputError, match=message):
            function(tmp_path / name)  # type: ignore[operator]


def test_only_a_checkpoint_needs_torch(onnx_file: Path, tmp_path: Path) -> None:
    engine_file.write(tmp_path / "model.engine", b"an engine", SIDECAR)
    program = (
        "import sys; from bot_deploy.artifacts import read_contract\n"
        "print([read_contract(path).dim for path in sys.argv[1:]])\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'onnx', 'onnxruntime', 'tensorrt'}))"
    )
    done = run_python("-c", program, onnx_file, tmp_path / "model.engine")
    assert done.stdout.splitlines() == ["[512, 3]", "[]"], done.stderr
