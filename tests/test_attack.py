"""The attacks of benchmarks/attack.py: damage by chance is refused or harmless, and a planted fault is found."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.attacks import artifacts, harness, material, pictures, stores
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
EXAMPLES = {
    "pictures": 200,
    "table": 200,
    "calibration": 200,
    "database": 100,
    "rows": 200,
    "vectors": 100,
    "graph": 100,
}
FEW_EXAMPLES = 40
ATTACKS = {**pictures.ATTACKS, **artifacts.ATTACKS, **stores.ATTACKS}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[material.Material]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield material.Material(tmp_path_factory.mktemp("material"))


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_damaged_is_refused_or_right(name: str, files: material.Material) -> None:
    @settings(
        max_examples=EXAMPLES.get(name, FEW_EXAMPLES),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(rng=st.integers(0, 2**32).map(random.Random))
    def attack(rng: random.Random) -> None:
        outcome = harness.run(ATTACKS[name], name, rng, files)
        assert outcome.failure == ""

    attack()


def planted(how: str) -> harness.Attack:
    def attack(rng: random.Random, files: material.Material) -> bool:
        del rng, files
        if how == "traceback":
            raise KeyError("x")
        if how == "hang":
            while True:
                pass
        if how == "two lines":

            def refuse() -> None:
                raise InputError("one\ntwo")

            harness.refuses(refuse)
        if how == "NaN":
            artifacts.check_unit(np.full((1, 3), np.nan))
        harness.check_finished(
            {
                "exit code": harness.Finished(4, "", "bot: x\n"),
                "no message": harness.Finished(2, "", ""),
                "terminal": harness.Finished(0, "\x1b[31m", ""),
                "long": harness.Finished(1, "", "x\n" * 100),
                "no JSON": harness.Finished(0, "loaded\n{}", ""),
                "JSON of NaN": harness.Finished(0, '{"score": NaN}', ""),
            }[how],
            as_json="JSON" in how,
        )
        return True

    return attack


FAULTS = {
    "traceback": "KeyError",
    "hang": "hang of more than 1 s",
    "two lines": "no short line",
    "NaN": "no unit vector",
    "exit code": "exit code 4",
    "no message": "without a message",
    "terminal": r"raw U\+001B",
    "long": "100 lines",
    "no JSON": "no JSON document",
    "JSON of NaN": "NaN in the JSON",
}


@pytest.mark.parametrize("how", FAULTS)
def test_a_planted_fault_is_a_failure(how: str, tmp_path: Path) -> None:
    outcome = harness.run(planted(how), how, random.Random(0), material.Material(tmp_path), timeout_s=1)
    assert not outcome.refused
    assert re.search(FAULTS[how], outcome.failure)


def run_attack(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/attack.py", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.slow
def test_the_command_prints_a_table() -> None:
    result = run_attack("--seed", 3, "--count", 30, "--kills", 1)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "pictures | pictures | 30 |" in result.stdout
    assert result.stdout.splitlines()[-1].endswith(" attacks, 0 failed")


def test_a_crash_is_found_and_the_next_attack_runs(tmp_path: Path) -> None:
    """A product that ends by a signal, planted through a module that Python imports at its start."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, bot_deploy.images as images\nread, calls = images.read_image, [0]\n"
        "def crash(*arguments):\n    calls[0] += 1\n"
        "    return os.abort() if calls[0] == 3 else read(*arguments)\nimages.read_image = crash\n"
    )
    result = subprocess.run(
        [sys.executable, "benchmarks/attack.py", "--kind", "pictures", "--count", "4"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""},
    )
    assert result.returncode == 1, result.stderr
    assert "ended by signal or exit code -6" in result.stdout
    assert "| pictures | pictures | 4 |" in result.stdout


def test_what_is_attacked_is_accepted_without_an_attack(files: material.Material) -> None:
    """A model or detector that is refused before it is damaged would make its attacks pass for nothing."""
    from bot_deploy.images import read_image
    from bot_deploy.video.detectors import open_detector

    artifacts.check_unit(files.embedder.embed(sorted(files.crops.iterdir())))
    assert len(open_detector(files.detector, threads=1).detect(material.draw_crop(1, 1)).xyxy) == 1
    for frame in (files.street / "0000.png", files.street / f"{material.FRAMES_OF_A_PERSON:04d}.png"):  # left, right
        assert len(open_detector(files.street_detector, threads=1).detect(read_image(frame)).xyxy) == 1
