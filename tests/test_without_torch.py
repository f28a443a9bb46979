"""The deployed side: `bot match` and `bot eval` as processes, without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.commands import run_python

WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "onnx", "onnxscript", "matplotlib"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Refuse())
from bot_deploy.cli import main
main()
"""


def bot(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run_python("-c", WITHOUT_TORCH, *arguments, cwd=cwd)


@pytest.fixture
def gallery(people: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(people / "bounding_box_test", tmp_path / "gallery"))


def test_match_needs_no_torch(onnx_file: Path, people: Path, gallery: Path) -> None:
    query = sorted((people / "query").iterdir())[0]
    shutil.copy(query, gallery / "itself.jpg")
    done = bot("match", query, gallery, "--model", onnx_file, "--json", "--top", "3")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["query"] == str(query)
    assert [match["rank"] for match in document["matches"]] == [1, 2, 3]
    assert document["matches"][0]["path"] == str(gallery / "itself.jpg")
    assert document["matches"][0]["score"] == pytest.approx(1, abs=1e-5)
    scores = [match["score"] for match in document["matches"]]
    assert scores == sorted(scores, reverse=True)
    assert "uncalibrated" in document["verdict"]


def test_no_kind_of_output_needs_torch(onnx_file: Path, people: Path, gallery: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / f"ranks.{kind}" for kind in ("csv", "html", "png")]
    options = [word for pair in zip(("--csv", "--html", "--montage"), outputs, strict=True) for word in pair]
    done = bot("match", people / "query", gallery, "--model", onnx_file, "--rerank", "--top", "3", *options)
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_size for path in outputs)


def test_broken_files_change_nothing_but_are_named_and_counted(onnx_file: Path, people: Path, gallery: Path) -> None:
    query = sorted((people / "query").iterdir())[0]
    before = json.loads(bot("match", query, gallery, "--model", onnx_file, "--json").stdout)
    whole = sorted(gallery.iterdir())[0].read_bytes()
    broken = {
        "0000_empty.jpg": b"",
        "0001_text.jpg": b"this is no image",
        "aaa_cut.jpg": whole[: len(whole) // 2],
        "sub/cut_header.jpg": whole[:20],
        "zzz.png": b"\x89PNG\r\n\x1a\n" + b"\0" * 40,
        "zzz.bmp": b"BM" + b"\xff" * 60,
        "zzz.webp": b"RIFF\x10\0\0\0WEBPVP8 " + b"\0" * 8,
        "ünïcode.jpeg": whole[:-30],
        "noise.jpg": bytes(range(256)) * 4,
        "flipped.jpg": whole[:2] + whole[2:200][::-1] + whole[200:],
    }
    for name, data in broken.items():
        (gallery / name).parent.mkdir(exist_ok=True)
        (gallery / name).write_bytes(data)
    done = bot("match", query, gallery, "--model", onnx_file, "--json")
    assert done.returncode == 0, done.stderr
    after = json.loads(done.stdout)
    assert after["matches"] == before["matches"]
    assert after["gallery"]["images"] == before["gallery"]["images"]
    assert after["gallery"]["broken"] == len(broken)
    for name in broken:
        assert name in done.stderr
        assert any(file["path"].endswith(name) for file in after["gallery"]["broken_files"])
    assert "Traceback" not in done.stderr


def test_the_newest_export_is_used_and_named(onnx_file: Path, people: Path, gallery: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("old", "new")):
        folder = tmp_path / "work" / "runs" / name
        folder.mkdir(parents=True)
        shutil.copy(onnx_file, folder / "model.onnx")
        os.utime(folder / "model.onnx", (1_000_000 + number, 1_000_000 + number))
    query = sorted((people / "query").iterdir())[0]
    done = bot("match", query, gallery, cwd=tmp_path / "work")
    assert done.returncode == 0, done.stderr
    assert str(Path("runs/new/model.onnx")) in done.stderr
    assert done.stdout.splitlines()[0].split() == ["rank", "score", "path"]


def test_without_an_export_the_model_in_the_box_is_used(people: Path, gallery: Path, tmp_path: Path) -> None:
    done = bot("match", sorted((people / "query").iterdir())[0], gallery, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "model box on " in done.stderr
    assert done.stdout.splitlines()[0].split() == ["rank", "score", "path"]


def test_eval_needs_no_torch(onnx_file: Path, people: Path) -> None:
    done = bot("eval", onnx_file, "--data", people, "--json")
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert set(scores) == {"rank1", "rank5", "rank10", "mAP", "mINP", "queries", "gallery", "seconds"}
    assert scores["queries"] == len(list((people / "query").iterdir()))
    assert 0 < scores["mAP"] <= scores["rank10"] <= 100


def test_train_without_torch_says_what_to_install(people: Path, tmp_path: Path) -> None:
    done = bot("train", "--data", people, "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "bot-deploy[train]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="truncated"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"not a model", id="text"),
        pytest.param(lambda data: data.replace(b"bot_deploy.contract", b"somebody.elsewhere!"), id="no-contract"),
        pytest.param(lambda data: data.replace(b'"format": 1', b'"format": 9'), id="newer-format"),
    ],
)
def test_damaged_model_is_one_line(onnx_file: Path, people: Path, tmp_path: Path, spoil: object) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(spoil(onnx_file.read_bytes()))  # type: ignore[operator]
    done = bot("eval", model, "--data", people)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("bot: ")
    assert str(model) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_unknown_and_missing_devices(onnx_file: Path, people: Path) -> None:
    wrong = bot("eval", onnx_file, "--data", people, "--device", "tpu")
    assert wrong.returncode == 2
    assert "'tpu' is not one of" in wrong.stderr
    absent = bot("eval", onnx_file, "--data", people, "--device", "cuda")
    if absent.returncode:  # no GPU here
        assert absent.returncode == 1
        assert "cuda" in absent.stderr.lower()
        assert "export it again" not in absent.stderr


@pytest.mark.parametrize(("old", "new"), [(b'"RGB"', b'"BGR"'), (b'"bilinear-antialias"', b'"nearest-neighbour!"')])
def test_a_contract_this_runtime_cannot_fulfil_is_refused(
    onnx_file: Path, people: Path, tmp_path: Path, old: bytes, new: bytes
) -> None:
    assert old in onnx_file.read_bytes()
    model = tmp_path / "model.onnx"
    model.write_bytes(onnx_file.read_bytes().replace(old, new))
    done = bot("eval", model, "--data", people)
    assert done.returncode == 2
    assert "which this bot_deploy does not support" in done.stderr


def test_an_empty_argument_is_not_this_folder(onnx_file: Path, people: Path) -> None:
    done = bot("match", min((people / "query").iterdir()), "", "--model", onnx_file)
    assert done.returncode == 2
    assert "is a shell variable not set?" in done.stderr


def test_an_output_without_a_known_suffix_is_refused_before_the_gallery_is_embedded(
    onnx_file: Path, people: Path
) -> None:
    query = min((people / "query").iterdir())
    done = bot("match", query, people / "bounding_box_test", "--model", onnx_file, "--montage", "ranks")
    assert done.returncode == 2
    assert "a figure ends in" in done.stderr
    assert done.stdout == ""
