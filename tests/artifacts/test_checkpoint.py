"""Checkpoints: what comes back, what is refused, and that a file is whole or not there."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bot_deploy import open_embedder
from bot_deploy.artifacts import checkpoint
from bot_deploy.artifacts.checkpoint import Checkpoint, contract_of
from bot_deploy.errors import InputError, RunError
from bot_deploy.files import write_atomically
from bot_deploy.model import InferenceGraph, ReID


@pytest.fixture(scope="module")
def saved() -> Checkpoint:
    """A network with a running mean of its own, in the memory format of training."""
    torch.manual_seed(1)
    model = ReID("mobilenet_v2", 4)
    with torch.no_grad():
        model.neck.running_mean.uniform_(-1, 1)  # type: ignore[operator]
    model.to(memory_format=torch.channels_last)
    return Checkpoint(contract_of(model, 64, 32), model.state_dict(), 4, 1, "bnneck", ("somewhere",))


def raw(saved: Checkpoint, **changes: Any) -> dict[str, Any]:
    """The dictionary as `save` writes it."""
    return {**vars(saved), "contract": saved.contract.to_json(), "kind": checkpoint.KIND, **changes}


def test_round_trip(saved: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(saved, tmp_path / "model.pt")
    loaded = checkpoint.load(tmp_path / "model.pt")
    for field in dataclasses.fields(Checkpoint):
        if field.name != "state":
            assert getattr(loaded, field.name) == getattr(saved, field.name)
    assert list(loaded.state) == list(saved.state)
    for key, value in saved.state.items():
        assert torch.equal(loaded.state[key], value)
        assert loaded.state[key].dtype == value.dtype
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_the_built_network_gives_the_same_embeddings(saved: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(saved, tmp_path / "model.pt")
    loaded = checkpoint.load(str(tmp_path / "model.pt"))
    model = loaded.build()
    assert contract_of(model, 64, 32) == saved.contract
    images = torch.randint(0, 256, (2, 64, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        ours, theirs = (
            InferenceGraph(source.build(), saved.contract).eval()(images).numpy() for source in (loaded, saved)
        )
    np.testing.assert_array_equal(ours, theirs)
    opened = open_embedder(tmp_path / "model.pt", device="cpu")
    assert opened.contract == saved.contract
    np.testing.assert_allclose(opened.embed(list(images.numpy())), theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("last_stride", "neck", "feature"), [(2, "none", "ft"), (1, "bnneck", "ft"), (2, "bnneck", "fi")]
)
def test_the_options_of_the_network_are_stored(last_stride: int, neck: str, feature: str, tmp_path: Path) -> None:
    model = ReID("mobilenet_v2", 3, last_stride=last_stride, neck=neck, feature=feature)
    contract = contract_of(model, 64, 32)
    checkpoint.save(Checkpoint(contract, model.state_dict(), 3, last_stride, neck, ("x",)), tmp_path / "m.pt")
    built = checkpoint.load(tmp_path / "m.pt").build().eval()
    assert built.feature == feature
    assert (built.classifier.bias is None) == (neck == "bnneck")
    images = torch.randn(1, 3, 64, 32)
    assert built.backbone(images).shape[2:] == ((4, 2) if last_stride == 1 else (2, 1))
    assert torch.equal(built(images), model.eval()(images))


class Touch:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("where", ["state", "data", "contract"])
def test_code_in_a_checkpoint_is_refused_and_not_run(where: str, saved: Checkpoint, tmp_path: Path) -> None:
    torch.save(raw(saved, **{where: Touch(tmp_path / "ran")}), tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"model\.pt: .*it is refused"):
        checkpoint.load(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(pickle.dumps({"kind": Touch(tmp_path / "ran")}, protocol=2))
    with pytest.raises(InputError, match=r"model\.pt"):
        checkpoint.load(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="could run code"):
        checkpoint.load(tmp_path / "model.pt")


def test_weights_of_others_are_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth: not a bot_deploy checkpoint; `bot train` writes model\.pt"):
        checkpoint.load(tmp_path / "w.pth")


def test_a_missing_field_names_another_version(saved: Checkpoint, tmp_path: Path) -> None:
    fields = raw(saved)
    del fields["neck"]
    torch.save(fields, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"missing: neck.*written by another version"):
        checkpoint.load(tmp_path / "model.pt")


def test_an_unknown_field_names_another_version(saved: Checkpoint, tmp_path: Path) -> None:
    torch.save(raw(saved, colour="blue"), tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"unknown: colour.*written by another version"):
        checkpoint.load(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("contract", "words"), [("{", "not readable"), ('{"format": 99}', "format 99"), ('{"format": 1}', "damaged")]
)
def test_a_damaged_contract(contract: str, words: str, saved: Checkpoint, tmp_path: Path) -> None:
    torch.save(raw(saved, contract=contract), tmp_path / "model.pt")
    with pytest.raises(InputError, match=words):
        checkpoint.load(tmp_path / "model.pt")


def test_the_contract_is_readable_json(saved: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(saved, tmp_path / "model.pt")
    fields = json.loads(torch.load(tmp_path / "model.pt", weights_only=True)["contract"])
    assert (fields["arch"], fields["height"], fields["width"], fields["dim"]) == ("mobilenet_v2", 64, 32, 1280)


@pytest.mark.parametrize("keep", [0, 1, 1000, -1])
def test_a_truncated_checkpoint(keep: int, saved: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(saved, tmp_path / "model.pt")
    data = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(data[:keep])
    with pytest.raises(InputError, match=r"model\.pt"):
        checkpoint.load(tmp_path / "model.pt")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.pt: no such file"):
        checkpoint.load(tmp_path / "absent.pt")


class StopWritingError(Exception):
    pass


@pytest.mark.parametrize("raised", [StopWritingError("no"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("existed", [True, False])
def test_a_writer_that_raises_midway_leaves_everything_as_it_was(
    raised: BaseException, existed: bool, tmp_path: Path
) -> None:
    path = tmp_path / "file.bin"
    if existed:
        path.write_bytes(b"old")

    def write(temporary: Path) -> None:
        assert temporary.parent == tmp_path  # the same disk, so that the last step is a rename
        temporary.write_bytes(b"half of the n")
        raise raised

    with pytest.raises(type(raised)):
        write_atomically(path, write)
    assert [file.name for file in tmp_path.iterdir()] == (["file.bin"] if existed else [])
    assert not existed or path.read_bytes() == b"old"


def test_a_full_disk_is_a_failed_run_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"file\.bin: cannot be written \(No space left on device\)"):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file.bin"]


def test_while_writing_the_old_file_stands(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    seen = []

    def write(temporary: Path) -> None:
        temporary.write_bytes(b"new")
        seen.append(path.read_bytes())

    write_atomically(path, write)
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("obstacle", ["no folder", "a folder in the way", "a file for a folder"])
def test_what_cannot_be_written_is_a_failed_run(obstacle: str, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "file.bin"
    if obstacle == "a folder in the way":
        path.mkdir(parents=True)
    elif obstacle == "a file for a folder":
        path.parent.write_bytes(b"")
    with pytest.raises(RunError, match=r"file\.bin: cannot be written"):
        write_atomically(path, lambda temporary: temporary.write_bytes(b"new"))


def test_the_training_data_of_older_files_are_one_string(saved: Checkpoint, tmp_path: Path) -> None:
    torch.save(raw(saved, data="one + two"), tmp_path / "m.pt")
    assert checkpoint.load(tmp_path / "m.pt").data == ("one", "two")
