"""No command connects to anything, and none leaves a file outside the project's cache and its outputs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from helpers.command_lines import COMMAND_LINES, cases, command_line

from bot_deploy.telemetry import OPENVINO_SENDER, ORT_VARIABLE, without_telemetry

if TYPE_CHECKING:
    from pathlib import Path

# With a seccomp filter, the kernel stops at connect() alone, and not at every system call.
STRACE = ("strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect")
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace to see connect()")

# With a seccomp filter, the kernel stops at connect() alone, and not at every system call.
STRACE = ("strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect")
# Cases beside those that all tests share, with more options.
OPTIONS = {
    "match with openvino": "--device openvino",
    "eval of a checkpoint": "",
    "demo with tracks": "--fps 10 --max-frames 4",
}


# of libraries that report to their makers, or leave files in the user's home
IMPORTS = (
    *("import onnxruntime", "import openvino", "from onnxruntime.quant"),
    *("import matplotlib", "from matplotlib", "import supervision"),
)


def run_traced(trace: Path, home: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """Runs Python with an empty home folder; strace writes every connect() of it and its children to `trace`."""
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != ORT_VARIABLE and "XDG" not in name}
    return subprocess.run(
        [*STRACE, "-o", str(trace), sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "HOME": str(home), "TMPDIR": str(home.parent)},
    )


def connections(trace: Path) -> list[str]:
    """The connect() calls to other machines, or to a name server that looks for one."""
    return [line for line in trace.read_text().splitlines() if "AF_INET" in line]


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("name", [*cases("match with an index", "embed as a table"), *OPTIONS])
def test_no_command_connects_or_leaves_files(
    name: str, onnx_file: Path, checkpoint_file: Path, few_people: Path, people: Path, tmp_path: Path
) -> None:
    if "openvino" in name and find_spec("openvino") is None:
        pytest.skip("needs OpenVINO, of the extra `openvino`")
    gallery, out = tmp_path / "gallery", tmp_path / "out"
    gallery.mkdir()
    out.mkdir()
    for path in sorted((few_people / "bounding_box_test").iterdir())[:4]:
        shutil.copy(path, gallery)
    shutil.copy(onnx_file, out / "model.onnx")  # `bot calibrate` changes it
    line = command_line(
        name if name in COMMAND_LINES else name.split(maxsplit=1)[0],
        MODEL=checkpoint_file if "checkpoint" in name else out / "model.onnx",
        CHECKPOINT=checkpoint_file,
        QUERY=min(gallery.iterdir()),
        CROPS=gallery,
        DATA=people if name == "adapt" else few_people,  # it wants 25 crops of a camera
        OUT=out / "new",
    )
    options = OPTIONS.get(name, "").split()
    done = run_traced(tmp_path / "trace", tmp_path / "home", "-m", "bot_deploy", *line, *options)
    assert done.returncode == 0, done.stderr
    assert connections(tmp_path / "trace") == []
    files = {path.relative_to(tmp_path / "home") for path in (tmp_path / "home").rglob("*") if path.is_file()}
    assert {path.parts[:2] for path in files} <= {(".cache", "bot-deploy")}
    assert {path.name for path in tmp_path.iterdir()} == {"gallery", "out", "home", "trace"}


@needs_strace
@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_the_python_api_connects_to_nothing(device: str, onnx_file: Path, tmp_path: Path) -> None:
    if find_spec("openvino") is None:
        pytest.skip("needs OpenVINO, of the extra `openvino`")
    program = "import sys, bot_deploy; print(bot_deploy.open_embedder(*sys.argv[1:]).backend)"
    done = run_traced(tmp_path / "trace", tmp_path / "home", "-c", program, onnx_file, device)
    assert done.returncode == 0, done.stderr
    assert connections(tmp_path / "trace") == []
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


@needs_strace
def test_a_connection_is_seen(tmp_path: Path) -> None:
    program = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    run_traced(tmp_path / "trace", tmp_path / "home", "-c", program)
    assert len(connections(tmp_path / "trace")) == 1


def test_the_environment_is_as_before_and_the_users_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ORT_VARIABLE, raising=False)
    monkeypatch.delitem(sys.modules, OPENVINO_SENDER, raising=False)  # another test may have imported it
    modules = set(sys.modules)
    with without_telemetry():
        assert os.environ[ORT_VARIABLE] == "1"
        with pytest.raises(ModuleNotFoundError):
            __import__("openvino_telemetry")
    assert ORT_VARIABLE not in os.environ
    assert set(sys.modules) == modules
    monkeypatch.setenv(ORT_VARIABLE, "0")
    with without_telemetry():
        assert os.environ[ORT_VARIABLE] == "0"
    assert os.environ[ORT_VARIABLE] == "0"


def test_no_module_imports_a_runtime_in_another_way() -> None:
    from pathlib import Path

    root = Path(__file__).resolve().parents[1]
    for folder in ("bot_deploy", "train", "export", "demos", "benchmarks"):
        for path in (root / folder).rglob("*.py"):
            lines = path.read_text().splitlines()
            for number, line in enumerate(lines):
                if line.strip().startswith(IMPORTS):
                    assert lines[number - 1].strip() == "with without_telemetry():", f"{path}:{number + 1}"
