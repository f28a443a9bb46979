"""`make quickstart`, on fewer people."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from bot_deploy.artifacts import read_contract
from bot_deploy.models import box


@pytest.mark.slow
def test_quickstart_runs_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "run"
    few = ["--train-identities", "16", "--test-identities", "16"]
    command = [sys.executable, "-m", "bot_deploy.demos.quickstart", "--out", str(out), *few]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"{len(list((out / 'people' / 'query').iterdir()))} queries" in result.stdout
    for command in ("index", "match", "eval", "train", "export"):
        assert f"$ bot {command} " in result.stderr
    assert "\\n" not in result.stdout
    for line, lowest in (("built-in model", 50), ("fine-tuned on these people", 20)):  # after one epoch
        rank1, mean_ap = map(float, re.search(rf"{line} +([\d.]+) +([\d.]+)", result.stdout).groups())  # type: ignore[union-attr]
        assert lowest < rank1 < 100, result.stdout  # an untrained network has 8 and 6
        assert lowest < mean_ap < 100, result.stdout
    cosine = float(re.search(r"min cosine ([\d.]+) \(at least 0\.99999\)", result.stdout)[1])  # type: ignore[index]
    assert cosine >= 0.99999
    assert read_contract(out / "model.onnx").terms == box.TERMS  # inherited
    with Image.open(out / "ranks.png") as picture:
        assert picture.width > picture.height / 2
    assert (out / "curves.png").stat().st_size > 10_000
