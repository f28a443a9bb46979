"""Every command on model files and galleries that are damaged: one line that names the file, which stays as it is."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import onnx
import pytest
from helpers.command_lines import cases, command_line
from onnx import helper

from bot_deploy.artifacts.contract import METADATA_KEY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from helpers.commands import Printed

PLACES = {"QUERY": "people/test/ann/c1_0.png", "CROPS": "people/test", "DATA": "people", "OUT": "x"}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    path.write_bytes(b"this is no model\n" * 50)


def set_contract(path: Path, **changes: object) -> None:
    """Changes fields of the contract of an .onnx file, or of a checkpoint."""
    if path.suffix == ".pt":
        import torch

        content = torch.load(path, weights_only=True)
        content["contract"] = json.dumps({**json.loads(content["contract"]), **changes})
        torch.save(content, path)
        return
    model = onnx.load(str(path))
    (contract,) = [json.loads(entry.value) for entry in model.metadata_props if entry.key == METADATA_KEY]
    helper.set_model_props(model, {METADATA_KEY: json.dumps({**contract, **changes})})
    onnx.save(model, str(path))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty": empty,
    "text": overwrite,
    "half": cut,
    "width of text": lambda path: set_contract(path, width="8"),
    "huge height": lambda path: set_contract(path, height=10**400),
    "nested calibration": lambda path: set_contract(path, calibration={"curve": [[[]]]}),
    "no size": lambda path: set_contract(path, height=None),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", cases("match with an index", "match of a folder", "embed as a table", "bench"))
def test_a_damaged_model_is_one_line(
    name: str,
    damage: str,
    tiny_people: Path,
    model: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    bot: Callable[..., Printed],
) -> None:
    if name == "export":
        model = shutil.copy(tiny_checkpoint, tmp_path / "model.pt")
    DAMAGES[damage](model)
    before = model.read_bytes()
    printed = bot(*command_line(name, MODEL=model.name, CHECKPOINT=model.name, **PLACES), "--json")
    assert printed.code == 2, printed.err
    assert printed.out == ""
    assert "Traceback" not in printed.err
    *_, last = printed.err.splitlines()
    assert last.startswith(f"bot: {model.name}: ")
    assert "delete" not in printed.err
    assert model.read_bytes() == before
    assert not [
        path.name for path in tmp_path.iterdir() if path.name not in {model.name, "model.onnx", "people", "cache"}
    ]


# ---- galleries ----


def stored(gallery: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in gallery.iterdir()}


@pytest.mark.parametrize("damage", [empty, overwrite, cut])
@pytest.mark.parametrize("part", ["sqlite", "vectors"])
@pytest.mark.parametrize("name", ["match with an index", "index", "demo"])
def test_a_damaged_gallery_is_one_line_and_stays(
    name: str,
    part: str,
    damage: Callable[[Path], None],
    tiny_people: Path,
    model: Path,
    tmp_path: Path,
    bot: Callable[..., Printed],
) -> None:
    assert bot(*command_line("index", MODEL=model.name, **PLACES)).code == 0
    gallery = tmp_path / "x.gallery"
    (file,) = [path for path in gallery.iterdir() if part in path.name]
    damage(file)
    before = stored(gallery)
    printed = bot(*command_line(name, MODEL=model.name, **PLACES), "--json")
    assert printed.code == 2
    assert printed.out == ""
    *_, last = printed.err.splitlines()
    assert last.startswith("bot: x.gallery")
    assert "Traceback" not in printed.err
    assert "delete" not in printed.err
    assert stored(gallery) == before
