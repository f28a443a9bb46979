"""Fixtures for tests that run every command: `bot` in this process, a tiny model, and a few people of 16x8 pixels."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from helpers.commands import Printed
from helpers.fake_camera import write_colour_model
from helpers.random_gallery import draw_people

from bot_deploy import cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def bot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Printed]:
    """Runs `bot` in `tmp_path`, in this process; `demo` leaves handlers of signals, which are put back."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Printed:
        capfd.readouterr()
        handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        for number, handler in handlers.items():
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)
        printed = capfd.readouterr()
        return Printed(int(str(ended.value.code or 0)), printed.out, printed.err)

    return run


@pytest.fixture
def tiny_people(tmp_path: Path) -> Path:
    """A data set of four people, all for evaluation."""
    return draw_people(tmp_path / "people", ["ann", "bob", "cid", "dee"])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model that gives the mean colour of a crop."""
    return write_colour_model(tmp_path / "model.onnx")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint for crops of 32x16 pixels."""
    import torch

    from bot_deploy.artifacts import checkpoint
    from bot_deploy.artifacts.checkpoint import contract_of
    from bot_deploy.model import ReID

    torch.manual_seed(0)
    network = ReID("resnet18", 4)
    path = tmp_path_factory.mktemp("tiny") / "model.pt"
    saved = checkpoint.Checkpoint(contract_of(network, 32, 16), network.state_dict(), 4, 1, "bnneck", ("people",))
    checkpoint.save(saved, path)
    return path
