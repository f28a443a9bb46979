"""A model that is replaced while it is opened is refused: its contract and its weights would be of two models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bot_deploy import open_embedder
from bot_deploy.backends import onnxruntime
from bot_deploy.errors import RunError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("whole", [True, False])
def test_a_model_replaced_between_contract_and_weights_is_refused(
    whole: bool, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "model.onnx", tmp_path / "other.onnx"
    path.write_bytes(onnx_file.read_bytes())
    other.write_bytes(onnx_file.read_bytes() if whole else b"half of a model")
    open_session = onnxruntime.open_session

    def replace_and_open(*arguments: Any) -> Any:
        if other.exists():
            other.replace(path)
        return open_session(*arguments)

    monkeypatch.setattr(onnxruntime, "open_session", replace_and_open)
    with pytest.raises(RunError, match=r"model\.onnx: was replaced while it was opened; try again$"):
        open_embedder(path, "cpu")
    if whole:
        assert open_embedder(path, "cpu").contract.dim > 0  # at rest, it opens
