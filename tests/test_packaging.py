"""What is shipped: a wheel built from the sdist, in a clean environment with the `cpu` extra only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: object, **options: object) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, env=environment, **options
    )  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT)  # the wheel is built from the sdist
    (found,) = out.glob("*.whl")
    return Path(found)


def test_wheel_holds_one_import_package_with_its_recipes(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"bot_deploy"}
    for folder in ("bot_deploy", "train", "export", "demos"):
        for source in (ROOT / folder).rglob("*"):
            if source.suffix in {".py", ".toml", ".onnx", ".json"} or source.name == "py.typed":
                inside = source.relative_to(ROOT) if folder == "bot_deploy" else "bot_deploy" / source.relative_to(ROOT)
                assert str(inside) in names


def test_clean_environment_matches_without_torch(wheel: Path, onnx_file: Path, people: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "clean")
    python = tmp_path / "clean" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[cpu]")
    missing = "import importlib.util as u, sys; sys.exit(any(u.find_spec(n) for n in ('torch', 'onnx', 'train')))"
    run(python, "-I", "-c", missing)
    query = sorted((people / "query").iterdir())[0]
    bot = tmp_path / "clean" / "bin" / "bot"
    out = run(bot, "match", query, people / "bounding_box_test", "--model", onnx_file, "--json", cwd=tmp_path)
    here = run(
        sys.executable, "-m", "bot_deploy", "match", query, people / "bounding_box_test", "--model", onnx_file, "--json"
    )
    assert json.loads(out)["matches"] == json.loads(here)["matches"]
    (tmp_path / "empty").mkdir()
    first = json.loads(run(bot, "match", query, people / "bounding_box_test", "--json", cwd=tmp_path / "empty"))
    assert Path(first["model"]).name == "box.onnx"
    assert first["matches"][0]["identity"] == query.name.split("_")[0]  # the first command of a new user
    assert "Commands" in run(bot, "--help")
