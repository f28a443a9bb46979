"""With --json, stdout holds one document, whatever other libraries print there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from helpers.commands import run_in_process_of_bot

if TYPE_CHECKING:
    from pathlib import Path

# A loader that prints, in Python and in C, while a package is imported, and a C library that prints while the model
# runs and once more when the process ends.
NOISE = """
import ctypes, importlib.abc, os, sys
from bot_deploy.embedder import Embedder

class Loader(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("onnxruntime", "torch", "cv2"):
            print("NOISE of Python")
            os.write(1, b"NOISE of a descriptor\\n")
            libc.puts(b"NOISE of C")

libc = ctypes.CDLL(None)
sys.meta_path.insert(0, Loader())

run = Embedder.run
def noisy(self, batch):
    os.write(1, b"NOISE of a run\\n")
    libc.puts(b"NOISE of C, which waits in its buffer")
    print("NOISE of Python, which waits in its buffer")
    return run(self, batch)
Embedder.run = noisy
"""


def commands(model: Path, people: Path, out: Path) -> dict[str, list[object]]:
    query = sorted((people / "query").iterdir())[0]
    return {
        "match": [query, people / "bounding_box_test", "--model", model],
        "index": [people / "bounding_box_test", "-o", out / "x.gallery", "--model", model],
        "eval": [model, "--data", people],
        "embed": [people / "query", "-o", out / "x.npy", "--model", model],
        "doctor": [model, "--images", people / "query"],
        "demo": [
            "--source",
            people / "query",
            "--headless",
            "--model",
            model,
            "--gallery",
            out / "g",
            "--max-frames",
            3,
        ],
    }


@pytest.mark.parametrize("name", ["match", "index", "eval", "embed", "doctor", "demo"])
def test_json_is_one_document(name: str, onnx_file: Path, people: Path, tmp_path: Path) -> None:
    arguments = commands(onnx_file, people, tmp_path)[name]
    done = run_in_process_of_bot(NOISE, name, *arguments, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), dict)
    assert done.stdout.count("\n") == 1
    of_a_run = () if name == "doctor" else ("of a run", "of C, which", "of Python, which")  # doctor uses `compute`
    for kind in ("of Python", "of a descriptor", "of C", *of_a_run):
        assert f"NOISE {kind}" in done.stderr


@pytest.mark.slow
def test_json_of_calibrate_export_and_verify(
    onnx_file: Path, checkpoint_file: Path, people: Path, few_people: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(onnx_file.read_bytes())
    for arguments in (
        ["calibrate", model, "--data", people, "--far", 0.1],
        ["export", checkpoint_file, "--data", few_people, "--out", tmp_path / "out"],
        ["verify", checkpoint_file, onnx_file, "--data", few_people],
    ):
        done = run_in_process_of_bot(NOISE, *arguments, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert isinstance(json.loads(done.stdout), dict)
        assert "NOISE" in done.stderr


def test_results_for_people_are_clean_too_and_help_is_on_stdout(onnx_file: Path, people: Path, tmp_path: Path) -> None:
    done = run_in_process_of_bot(NOISE, "eval", onnx_file, "--data", people, cwd=tmp_path)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert done.stdout.startswith("rank-1 ")
    assert run_in_process_of_bot("", "eval", "--help").stdout.startswith("Usage: ")
    assert run_in_process_of_bot("", "--version").stdout.startswith("bot, version ")


def test_events_on_stdout_are_lines_of_json_only(onnx_file: Path, people: Path, tmp_path: Path) -> None:
    arguments = commands(onnx_file, people, tmp_path)["demo"]
    before = f"{NOISE}\nfrom bot_deploy.demos.recorder import Recorder\nopen_recorder = Recorder.__enter__\n"
    before += "Recorder.__enter__ = lambda self: (self.write_event({'name': 'a\\u202e'}), open_recorder(self))[1]"
    done = run_in_process_of_bot(before, "demo", *arguments, "--events", "-", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == '{"name": "a\\u202e"}\n'
