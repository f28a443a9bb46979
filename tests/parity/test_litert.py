"""LiteRT files against PyTorch; they need the extra `litert`, which CI does not install because of its size."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bot_deploy import open_embedder
from bot_deploy.artifacts import read_contract
from bot_deploy.artifacts.contract import from_json
from bot_deploy.errors import InputError, RunError
from bot_deploy.export import export

is_missing = importlib.util.find_spec("litert_torch") is None


@pytest.mark.skipif(is_missing, reason="needs litert-torch, of the extra `litert`")
@pytest.mark.filterwarnings("ignore")  # of the converter and what it imports
def test_the_file_gives_what_pytorch_gives(checkpoint_file: Path, few_people: Path, tmp_path: Path, crops: Any) -> None:
    from ai_edge_litert.interpreter import Interpreter

    handlers = logging.root.handlers[:]
    onnx, made = export(checkpoint_file, tmp_path, data=few_people, litert=True)
    assert made.path == tmp_path / "model.tflite"
    assert made.parity
    assert made.parity.passed
    assert made.parity.min_cosine > 0.99999
    assert made.parity.map_change == pytest.approx(0, abs=0.1)
    assert logging.root.handlers == handlers  # the converter adds one
    (contract,) = made.files
    assert from_json(contract.read_text(), str(contract)) == read_contract(onnx.path)
    interpreter = Interpreter(model_path=str(made.path))
    interpreter.allocate_tensors()
    (image,), (embedding,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (image["dtype"], tuple(image["shape"])) == (np.uint8, (1, 64, 32, 3))
    rows = []
    for crop in crops:
        interpreter.set_tensor(image["index"], crop[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(embedding["index"])[0].copy())
    np.testing.assert_allclose(rows, open_embedder(checkpoint_file).run(crops), atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.tflite", "model.tflite.json"]


@pytest.mark.skipif(not is_missing, reason="litert-torch is installed")
def test_without_the_converter_nothing_is_written(checkpoint_file: Path, few_people: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"litert_torch is not installed; pip install 'bot-deploy\[litert\]'"):
        export(checkpoint_file, tmp_path, data=few_people, litert=True)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_onnx_is_no_source(
    onnx_file: Path, few_people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bot_deploy.export import make_consumer, pipeline

    monkeypatch.setattr(pipeline, "check_litert", lambda: None)
    with pytest.raises(InputError, match="is exported already; name its checkpoint"):
        export(onnx_file, tmp_path, data=few_people, litert=True, consumer=make_consumer("opencv"))
