"""benchmarks/gpu.py without a GPU: the part that runs an engine, and what is said where a GPU is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/gpu.py", *options]
    blind = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=blind)


def test_the_runner_in_small() -> None:
    done = run("--dry-run", "--only", "runner")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.partition("\n")[2])
    assert results["worst_error"] < 1e-6  # against NumPy
    assert results["graphs"] == {"1": True, "2": True, "6": True, "8": True}  # 5 is padded to 6
    assert set(results["milliseconds"]) == {"1", "2", "5", "8", "64", "100", "512"}


def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Error: PyTorch finds no GPU; `bot env` shows what this machine has; or try --dry-run"
    ]
    assert not (tmp_path / "out").exists()
