"""`make quickstart`, with one epoch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


@pytest.mark.slow
def test_quickstart_runs_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "bot_deploy.demos.quickstart", "--out", str(out), "--set", "epochs=1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for verb in ("train", "export", "eval", "match"):
        assert f"$ bot {verb} " in result.stderr
    for line in ("untrained model", "trained, exported"):
        rank1, mean_ap = map(float, re.search(rf"{line} +([\d.]+) +([\d.]+)", result.stdout).groups())  # type: ignore[union-attr]
        assert 0 <= rank1 <= 100
        assert 0 < mean_ap < 100
    cosine = float(re.search(r"min cosine ([\d.]+) \(at least 0\.99999\)", result.stdout)[1])  # type: ignore[index]
    assert cosine >= 0.99999
    assert (out / "model.onnx").is_file()
    with Image.open(out / "ranks.png") as picture:
        assert picture.width > picture.height / 2
    assert (out / "curves.png").stat().st_size > 10_000
