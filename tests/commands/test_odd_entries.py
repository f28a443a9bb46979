"""Every command on folders with links, pipes, devices and huge files among the crops: each of them is named."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from helpers.special_files import NAMES, make_special_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from helpers.commands import Printed

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")

ODD = [f"c1_{name}.jpg" for name in NAMES]


def add_odd_entries(folder: Path) -> None:
    """Makes the entries ODD in `folder`, and a link to the folder in itself."""
    make_special_files(folder, "c1_")
    (folder / "to_itself").symlink_to(".")


# Commands that leave files out, and the number of good crops in their JSON documents.
LEAVE_OUT: dict[str, tuple[str, Callable[[dict], object]]] = {
    "match": (
        "match people/test/bob/c1_0.png people/test --model model.onnx --json",
        lambda document: document["gallery"]["images"],
    ),
    "match of a folder": (
        "match people/test people/test/bob/c1_0.png --model model.onnx --json",
        lambda document: len(document["queries"]),
    ),
    "match with an index": (
        "match people/test/bob/c1_0.png x.gallery --model model.onnx --json",
        lambda document: document["gallery"]["images"],
    ),
    "index": ("index people/test -o x.gallery --model model.onnx --json", lambda document: document["images"]),
    "embed": ("embed people/test -o x.npy --model model.onnx --json", lambda document: document["images"]),
    "doctor": ("doctor model.onnx --images people/test --json", lambda document: document["crops"]),
    "demo": (
        "demo --source people/test --gallery x.gallery --model model.onnx --headless --json",
        lambda document: document["frames"],
    ),
}


@pytest.mark.parametrize("name", LEAVE_OUT)
def test_odd_entries_are_left_out_and_named(
    name: str, tiny_people: Path, model: Path, bot: Callable[..., Printed]
) -> None:
    add_odd_entries(tiny_people / "test" / "ann")
    command, count_images = LEAVE_OUT[name]
    if name == "match with an index":
        bot(*LEAVE_OUT["index"][0].split())
    printed = bot(*command.split())
    assert printed.code == 0, printed.err
    assert "Traceback" not in printed.err
    document = json.loads(printed.out)
    assert count_images(document) == 36
    lines = [line for line in printed.err.splitlines() if "people/test/ann/c1_" in line]
    assert [next((entry for entry in ODD if entry in line), line) for line in lines if "->" not in line] == ODD
    broken = document.get("broken_files") or document.get("broken_queries") or document.get("gallery", {})
    if isinstance(broken, dict):
        broken = broken.get("broken_files", [])
    if name not in {"doctor", "demo"}:
        assert [os.path.basename(item["path"]) for item in broken] == ODD  # noqa: PTH119


# Commands whose figures would not be comparable without a crop.
STOP = {
    "eval": "eval model.onnx --data people --json",
    "calibrate": "calibrate model.onnx --data people --far 0.5 --json",
    "verify": "verify model.onnx model.onnx --data people --json",
    "export": "export model.pt --data people --out out --json",
}


@pytest.mark.parametrize("name", STOP)
def test_scores_need_every_crop_and_name_the_first_that_is_none(
    name: str, tiny_people: Path, model: Path, tiny_checkpoint: Path, tmp_path: Path, bot: Callable[..., Printed]
) -> None:
    if name == "export":
        shutil.copy(tiny_checkpoint, tmp_path / "model.pt")
    before = model.read_bytes()
    add_odd_entries(tiny_people / "test" / "ann")
    printed = bot(*STOP[name].split())
    assert printed.code == 2, printed.err
    assert printed.out == ""
    *_, last = printed.err.splitlines()
    assert last.startswith("bot: ")
    assert "people/test/ann/c1_" in last
    assert any(f"{entry}: cannot be read (" in last for entry in ODD)
    assert "Traceback" not in printed.err
    assert model.read_bytes() == before
    assert not list(tmp_path.glob("out/*")) + list(tmp_path.glob("out/.*"))
