"""The programs themselves, in environments of their own, track a real video with our exports.

BOT_ULTRALYTICS_PYTHON and BOT_BOXMOT_PYTHON name an interpreter with `ultralytics` or `boxmot`, with onnxruntime and
OpenCV. They are AGPL-3.0, so that no extra of ours installs them.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bot_deploy import open_embedder
from bot_deploy.export import export, make_consumer

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "consumers.py"
FRAMES = 700  # of the video, from its first; three people walk through, one at a time


def interpreter(name: str) -> Path:
    """The interpreter with the package `name`."""
    variable = f"BOT_{name.upper()}_PYTHON"
    if variable not in os.environ:
        pytest.skip(f"needs {name} in an environment of its own: set {variable} to its interpreter")
    return Path(os.environ[variable])


@pytest.fixture(scope="module")
def benchmark() -> dict[str, Any]:
    return runpy.run_path(str(BENCHMARK))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ultralytics", "boxmot"])
def test_the_tracker_gets_our_embeddings(
    name: str, benchmark: dict[str, Any], shared: Path, few_people: Path, tmp_path: Path
) -> None:
    python = interpreter(name)
    video, detections = shared / "media" / "one-by-one-person-detection.mp4", tmp_path / "detections.npz"
    benchmark["detect"](video, shared / "detector" / "yolox_nano_416.onnx", FRAMES, detections)
    model = export("box", tmp_path, data=few_people, consumer=make_consumer(name))[-1]
    benchmark["run_client"](python, name, model.path, video, detections, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as answer:
        cosines = benchmark["cosines"](answer, open_embedder())
        assert len(cosines) >= 100
        assert cosines.mean() >= 0.99
        assert (cosines >= 0.98).mean() > 0.9  # the others: where the built-in model jumps, see benchmarks/README.md
        frames, ids = answer["tracks"][:, 0], answer["tracks"][:, 1]
        # Each person is one track for most of the frames that show it, counted by eye.
        for first, last in ((57, 199), (232, 449), (504, 699)):
            inside = ids[(frames >= first) & (frames <= last)]
            assert np.unique(inside, return_counts=True)[1].max() > 0.6 * (last - first)
