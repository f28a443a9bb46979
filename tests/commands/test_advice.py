"""Every command when something else than a file is wrong: the message blames no file, and nothing good is lost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from helpers.command_lines import cases, command_line
from onnx import helper

from bot_deploy.artifacts.contract import METADATA_KEY
from bot_deploy.gallery import LocalIndex, database

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from helpers.commands import Printed

PLACES = {"QUERY": "people/test/ann/c1_0.png", "CROPS": "people/test", "DATA": "people", "OUT": "x"}
LEFT_OUT = (
    "adapt",
    "export",
    "bench",
    "doctor",
    "embed as a table",
)  # see the last test; and doctor opens a model to say what is wrong with it


def words(name: str, model: str = "model.onnx") -> list[str]:
    """The words of a command with JSON; `bot index` reads each file again."""
    line = command_line(name, MODEL=model, **PLACES)
    return [*line, *(["--verify"] if name == "index" else []), "--json"]


def of_result(name: str, printed: Printed) -> object:
    """What must be the same whenever a command with the same good files is run again."""
    document = json.loads(printed.out)
    for name_of_time in ("seconds", "fps", "stages", "new", "unchanged"):
        document.pop(name_of_time, None)
    return document


@pytest.mark.parametrize("name", cases(*LEFT_OUT))
def test_a_wrong_dim_in_one_contract_spoils_nothing_of_the_good_model(
    name: str, tiny_people: Path, model: Path, tmp_path: Path, bot: Callable[..., Printed]
) -> None:
    command = words(name)
    assert bot(*words("index")).code == 0
    before = of_result(name, bot(*command))
    wrong = onnx.load(str(model))
    (contract,) = [json.loads(entry.value) for entry in wrong.metadata_props if entry.key == METADATA_KEY]
    helper.set_model_props(wrong, {METADATA_KEY: json.dumps({**contract, "dim": 4})})
    onnx.save(wrong, str(tmp_path / "wrong.onnx"))
    printed = bot(*words(name, "wrong.onnx"))
    assert printed.code == 2
    assert printed.out == ""
    assert printed.err.splitlines()[-1].startswith("bot: wrong.onnx: ")
    assert "contract" in printed.err.splitlines()[-1]
    assert "delete" not in printed.err
    assert of_result(name, bot(*command)) == before


FAILURE = "CUDA failure 2: out of memory"


@pytest.mark.parametrize("name", cases(*LEFT_OUT))
def test_a_failure_of_the_device_blames_no_file(
    name: str,
    tiny_people: Path,
    model: Path,
    tmp_path: Path,
    bot: Callable[..., Printed],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = words(name)
    assert bot(*words("index")).code == 0
    with LocalIndex(tmp_path / "x.gallery") as gallery:
        items = sorted(gallery.items())
    (tiny_people / "test" / "ann" / "c1_9.png").write_bytes((tiny_people / "test" / "ann" / "c1_0.png").read_bytes())

    class Session:
        def __init__(self, session: object) -> None:
            self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs  # type: ignore[attr-defined]

        def run(self, *arguments: object) -> None:
            raise RuntimeError(f"{FAILURE}\nand a second line")

    from bot_deploy.backends import onnxruntime

    open_session = onnxruntime.open_session
    with monkeypatch.context() as patched:
        patched.setattr(onnxruntime, "open_session", lambda *arguments: Session(open_session(*arguments)))
        printed = bot(*command)
    assert printed.code == 1, printed.err
    assert printed.out == ""
    *_, last = printed.err.splitlines()
    assert last.startswith("bot: ")
    assert FAILURE in last  # the error's second line is on the same one
    for word in ("damaged", "export it again", "delete", "Traceback"):
        assert word not in printed.err
    with LocalIndex(tmp_path / "x.gallery") as gallery:
        assert sorted(gallery.items()) == items


def test_a_gallery_in_use_is_not_damaged(
    tiny_people: Path, model: Path, tmp_path: Path, bot: Callable[..., Printed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.1)
    assert bot(*words("index")).code == 0
    before = bot(*words("match with an index"))
    (tiny_people / "test" / "ann" / "c1_9.png").write_bytes((tiny_people / "test" / "ann" / "c1_0.png").read_bytes())
    with LocalIndex(tmp_path / "x.gallery") as gallery, gallery._writing():
        assert bot(*words("match with an index")) == before  # a reader waits for nobody
        printed = bot(*words("index"))
    assert (printed.code, printed.out) == (1, "")
    assert "another process has been writing to it" in printed.err.splitlines()[-1]
    assert "damaged" not in printed.err
    assert json.loads(bot(*words("index")).out)["images"] == 37


def spoil_weights(content: dict[str, Any]) -> None:
    """Makes one weight of a checkpoint no number."""
    content["state"]["neck.weight"][0] = float("nan")


def spoil_dim(content: dict[str, Any]) -> None:
    """Gives the contract of a checkpoint another length of embeddings than its weights have."""
    content["contract"] = json.dumps({**json.loads(content["contract"]), "dim": 256})


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [(spoil_weights, 1, "NaN or infinite numbers"), (spoil_dim, 2, "contract says dim 256, its network has ")],
)
def test_export_stops_before_it_writes(
    spoil: Callable[[dict[str, Any]], None],
    code: int,
    message: str,
    tiny_people: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    bot: Callable[..., Printed],
) -> None:
    import torch

    content = torch.load(tiny_checkpoint, weights_only=True)
    spoil(content)
    torch.save(content, tmp_path / "model.pt")
    printed = bot("export", "model.pt", "--data", tiny_people, "--out", "out", "--json")
    assert (printed.code, printed.out) == (code, ""), printed.err
    assert message in printed.err.splitlines()[-1]
    assert "Traceback" not in printed.err
    assert not list(tmp_path.glob("out/*"))
