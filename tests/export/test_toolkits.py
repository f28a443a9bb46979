"""Imported networks against the code of their toolkits, in environments of their own.

BOT_TORCHREID_PYTHON, BOT_FASTREID_PYTHON, BOT_BOXMOT_PYTHON and BOT_BOXMOT16_PYTHON name an interpreter with torchreid
0.2.5, fastreid 1.4.0, boxmot or boxmot 16.0.11. BoxMOT is AGPL-3.0, so that no extra of ours installs it.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "toolkits.py"
# One of each kind; the benchmark has all
NETWORKS = {
    "torchreid": (
        "torchreid osnet_x0_25",
        "torchreid osnet_ain_x0_25",
        "torchreid osnet_ibn_x1_0",
        "torchreid resnet18",
    ),
    "fastreid": (
        *("fastreid BoT R18", "fastreid BoT MobileNetV2", "fastreid AGW R50", "fastreid SBS S50"),
        *("fastreid MGN R50 IBN", "fastreid ViT as TransReID, after"),
    ),
    "boxmot": ("boxmot osnet_x0_25",),
    "boxmot16": ("boxmot16 CLIP-ReID, stride 12, camera", "boxmot16 CLIP-ReID, after"),
}


@pytest.fixture(scope="module")
def benchmark() -> dict[str, Any]:
    return runpy.run_path(str(BENCHMARK))


@pytest.mark.slow
@pytest.mark.parametrize("toolkit", NETWORKS)
def test_the_import_embeds_as_the_toolkit_does(toolkit: str, benchmark: dict[str, Any], tmp_path: Path) -> None:
    variable = f"BOT_{toolkit.upper()}_PYTHON"
    if variable not in os.environ:
        pytest.skip(f"needs {toolkit} in an environment of its own: set {variable} to its interpreter")
    benchmark["run_toolkit"](Path(os.environ[variable]), NETWORKS[toolkit], tmp_path)
    for network in NETWORKS[toolkit]:
        found = benchmark["compare"](network, tmp_path)
        assert found.cosines.min() > 0.99999, network  # of what is left without the mean of the crops
        assert found.max_difference < 5e-5, network


def test_the_networks_are_those_of_the_benchmark(benchmark: dict[str, Any]) -> None:
    assert set(NETWORKS) == set(benchmark["TOOLKITS"])
    assert {name for names in NETWORKS.values() for name in names} <= set(benchmark["network_names"]())
