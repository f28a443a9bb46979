"""A path that does not exist or is a pipe is reported before a model is opened and before PyTorch is imported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from helpers.commands import Printed, run_in_turn

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = ("torch", "onnxruntime", "openvino", "tensorrt")
CASES = [
    ("match none.jpg crops --model model.onnx", "none.jpg: no such image"),
    ("match crops none --model model.onnx", "none: no such folder"),
    ("match crops none.db --model model.onnx", "none.db: no gallery there"),
    ("match crops crops --model none.onnx", "none.onnx: no such model file"),
    ("index none -o x.gallery --model model.onnx", "none: no such folder"),
    ("index crops -o x.gallery --model none.onnx", "none.onnx: no such model file"),
    ("eval none.onnx --data crops", "none.onnx: no such model file"),
    ("eval model.pt --data none", "none: no such folder or file"),
    ("embed none.jpg -o x.npy --model model.onnx", "none.jpg: no such image"),
    ("embed crops -o x.npy --model none.onnx", "none.onnx: no such model file"),
    ("calibrate none.onnx --data crops", "none.onnx: no such model file"),
    ("calibrate model.onnx --data none", "none: no such folder or file"),
    ("doctor none.onnx --images crops", "none.onnx: no such model file"),
    ("doctor model.onnx --images none", "none: no such folder"),
    ("verify none.pt model.onnx --data crops", "none.pt: no such model file"),
    ("verify model.pt none.onnx --data crops", "none.onnx: no such model file"),
    ("verify model.pt model.onnx --data none", "none: no such folder or file"),
    ("bench none.onnx", "none.onnx: no such model file"),
    ("bench model.onnx --images none", "none: no such folder"),
    ("bench model.onnx --baseline none.pt", "none.pt: no such model file"),
    ("export none.pt", "none.pt: no such run or checkpoint"),
    ("export model.pt --data none", "none: no such folder or file"),
    ("demo --source none.mp4 --model model.onnx", "none.mp4: no such file or folder"),
    ("demo --source crops --model none.onnx", "none.onnx: no such model file"),
    ("demo --source crops --model model.onnx --detector none.onnx", "none.onnx: no such detector"),
    ("demo --source env:NO_SUCH_VARIABLE", "env:NO_SUCH_VARIABLE: this environment variable is not set"),
    ("demo --source @none", "@none: cannot be read"),
    ("serve --model none.onnx", "none.onnx: no such model file"),
    ("serve --api-key env:NO_SUCH_VARIABLE", "env:NO_SUCH_VARIABLE: this environment variable is not set"),
    ("import none.pth --out x.pt", "none.pth: no such file"),
    ("wrap none.onnx --data crops", "none.onnx: no such model file"),
    ("train --data none", "none: no such folder or file"),
    ("ablate --data none", "none: no such folder or file"),
]


@pytest.fixture(scope="module")
def of_missing_paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Printed]]:
    """The folder of each command of CASES, and what the command printed."""
    folders = {command: a_folder(tmp_path_factory.mktemp("missing")) for command, _ in CASES}
    printed = run_in_turn([(folder, command.split()) for command, folder in folders.items()], without=HEAVY)
    return dict(zip(folders, zip(folders.values(), printed, strict=True), strict=True))


def a_folder(folder: Path) -> Path:
    (folder / "crops").mkdir()
    (folder / "model.onnx").write_bytes(b"not opened")
    (folder / "model.pt").write_bytes(b"not opened")
    return folder


@pytest.mark.parametrize(("command", "message"), CASES, ids=[command for command, _ in CASES])
def test_a_path_that_does_not_exist(
    command: str, message: str, of_missing_paths: dict[str, tuple[Path, Printed]]
) -> None:
    folder, done = of_missing_paths[command]
    assert done.code == 2, done.err
    assert message in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert sorted(path.name for path in folder.iterdir()) == ["crops", "model.onnx", "model.pt"]


PIPES = [
    "eval model.onnx --data pipe.zip",
    "eval model.onnx --data pipe.csv",
    "train --data pipe.zip",
    "train --data crops --unlabelled pipe.zip",
    "train --data crops --recipe pipe.toml",
    "train --data crops --teacher pipe.onnx",
    "ablate --data pipe.zip",
    "calibrate model.onnx --data pipe.zip",
    "verify model.pt model.onnx --data pipe.zip",
    "export model.pt --data pipe.zip",
    "export pipe.pt",
    "import pipe.pth --out x.pt",
    "wrap pipe.onnx",
    "match pipe.png crops --model model.onnx",
    "match crops pipe.png --model model.onnx",
    "match crops crops --model pipe.onnx",
    "index pipe.zip -o x.gallery --model model.onnx",
    "index crops -o x.gallery --model model.onnx --metadata pipe.csv",
    "embed pipe.png -o x.npy --model model.onnx",
    "doctor model.onnx --images pipe.zip",
    "bench pipe.onnx",
    "demo --source pipe.mp4 --model model.onnx",
    "demo --source crops --model model.onnx --detector pipe.onnx",
]


@pytest.fixture(scope="module")
def of_pipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Printed]:
    """What each command of PIPES printed."""
    folder = a_folder(tmp_path_factory.mktemp("pipes"))
    for suffix in ("zip", "csv", "toml", "onnx", "pt", "pth", "png", "mp4"):
        os.mkfifo(folder / f"fifo.{suffix}")
        (folder / f"pipe.{suffix}").symlink_to(f"fifo.{suffix}")
    printed = run_in_turn([(folder, command.split()) for command in PIPES], without=HEAVY, timeout_s=60)
    return dict(zip(PIPES, printed, strict=True))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
@pytest.mark.parametrize("command", PIPES)
def test_a_pipe_blocks_no_command(command: str, of_pipes: dict[str, Printed]) -> None:
    done = of_pipes[command]
    assert done.code == 2, done.err
    assert "pipe." in done.err
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) < 10
