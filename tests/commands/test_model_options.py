"""The model of every command: as an argument or as --model, and never fetched with --offline."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bot_deploy import cli
from bot_deploy.errors import InputError

# command -> its module, and the other words that it needs
WITH_MODEL = {
    "eval": ("evaluate", []),
    "bench": ("bench", []),
    "calibrate": ("calibrate", ["--data", "{crops}"]),
    "adapt": ("adapt", ["--images", "{crops}"]),
    "doctor": ("doctor", ["--images", "{crops}"]),
}
NAMES_A_NETWORK = {"model", "named_model", "models", "reference", "teacher", "weights", "detector"}


@pytest.mark.parametrize("command", WITH_MODEL)
def test_a_model_is_an_argument_or_an_option(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    module, rest = WITH_MODEL[command]
    (tmp_path / "alice").mkdir()
    for number in (1, 2):
        (tmp_path / "alice" / f"c{number}_1.jpg").touch()
    chosen = []

    def choose(model: Path | None) -> Path:
        chosen.append((str(model), os.environ.get("BOT_OFFLINE")))
        raise InputError("chosen")

    monkeypatch.delenv("BOT_OFFLINE", raising=False)
    monkeypatch.setattr(import_module(f"bot_deploy.commands.{module}"), "choose_model", choose)

    def run(*words: str) -> click.testing.Result:
        options = [word.format(crops=tmp_path) for word in rest]
        return CliRunner().invoke(cli.bot, [command, *words, *options])

    for words in (["x.onnx"], ["--model", "x.onnx"], ["--model", "x.onnx", "--offline"]):
        assert isinstance(run(*words).exception, InputError)
    assert chosen == [("x.onnx", None), ("x.onnx", None), ("x.onnx", "1")]
    both = run("x.onnx", "--model", "y.onnx")
    assert (both.exit_code, len(chosen)) == (2, 3)
    assert "give the model as MODEL or as --model, not both" in both.output
    neither = run()
    if command in {"bench", "calibrate"}:
        assert neither.exit_code == 2
        assert "Missing argument 'MODEL'; --model gives it too." in neither.output
    else:
        assert chosen[3:] == [("None", None)]


def test_several_models_as_options(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[Path] = []
    monkeypatch.setattr("bot_deploy.commands.bench.choose_model", lambda model: chosen.append(model) or model)
    result = CliRunner().invoke(cli.bot, ["bench", "--model", "x.onnx", "--model", "y.onnx", "--device", "cpu"])
    assert result.exit_code == 1  # as there are no such files
    assert chosen == [Path("x.onnx"), Path("y.onnx")]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_that_takes_a_network_by_name_takes_offline(name: str) -> None:
    command = cli.bot.get_command(click.Context(cli.bot), name)
    assert command is not None
    names = {parameter.name for parameter in command.params}
    takes_offline = any("--offline" in parameter.opts for parameter in command.params)
    assert takes_offline == (bool(names & NAMES_A_NETWORK) or name == "models")
