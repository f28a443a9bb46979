"""`make quickstart`, with one epoch."""

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
    command = [
        sys.executable,
        "-m",
        "bot_deploy.demos.quickstart",
        "--out",
        str(out),
        "--set",
        "epochs=1",
        "--set",
        "milestones=[]",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for command in ("index", "match", "eval", "train", "export"):
        assert f"$ bot {command} " in result.stderr
    for line in ("model in the box", "fine-tuned on these people"):
        rank1, mean_ap = map(float, re.search(rf"{line} +([\d.]+) +([\d.]+)", result.stdout).groups())  # type: ignore[union-attr]
        assert 5 < mean_ap < rank1 < 100  # an untrained network has 1.1 and 2.0
    cosine = float(re.search(r"min cosine ([\d.]+) \(at least 0\.99999\)", result.stdout)[1])  # type: ignore[index]
    assert cosine >= 0.99999
    assert read_contract(out / "model.onnx").terms == box.TERMS  # inherited
    with Image.open(out / "ranks.png") as picture:
        assert picture.width > picture.height / 2
    assert (out / "curves.png").stat().st_size > 10_000
