"""The soak benchmark: its slope, and a short run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_the_slope_leaves_the_start_out() -> None:
    spec = importlib.util.spec_from_file_location("soak", SOAK)
    assert spec is not None
    assert spec.loader is not None
    soak = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(soak)
    frames = np.arange(0, 10_000, 100)
    mib = np.where(frames < 3000, frames / 10, 300 + (frames - 3000) * 7 / 100_000)
    assert soak.slope_mib(list(zip(frames.tolist(), mib.tolist(), strict=True))) == pytest.approx(7)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the resident memory is read from /proc")
def test_a_short_run_prints_the_table() -> None:
    command = [sys.executable, SOAK, "--minutes", "0.1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SOAK.parents[1])
    assert result.returncode in {0, 1}, result.stderr  # the slope of six seconds says nothing
    cells = result.stdout.splitlines()[-1].strip("| ").split(" | ")
    assert cells[0] == "0.1"
    assert int(cells[1].replace(",", "")) > 10
