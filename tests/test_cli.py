"""The `bot` command as a process: help, exit codes, and errors on one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner
from helpers.commands import Printed, run_bot, run_in_turn, run_python

from bot_deploy import cli, errors

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = ("numpy", "torch", "cv2", "PIL", "onnxruntime", "onnx", "matplotlib")

# `bot`, with a command `fail` that runs the line in its place.
FAILING = """
import os, signal, sys
import click
from bot_deploy import cli, errors

@click.command()
def fail():
    {line}

cli.COMMANDS["fail"] = ("nowhere:fail", "Fails.")
get_command = cli.LazyGroup.get_command
cli.LazyGroup.get_command = lambda group, context, name: fail if name == "fail" else get_command(group, context, name)
cli.main(["fail"])
"""


# ---- help ----


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_every_command_with_what_it_does(option: str) -> None:
    done = run_bot(option)
    assert done.returncode == 0
    assert done.stderr == ""
    words = " ".join(done.stdout.split())
    for name, (_, summary) in cli.COMMANDS.items():
        assert re.search(rf"^  {name}  ", done.stdout, re.MULTILINE), name
        assert f"{name} {summary}" in words


def test_without_arguments_help_is_shown() -> None:
    done = run_bot()
    assert done.returncode == 2
    assert "Commands:" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def helps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Printed]:
    """The help of `bot` and of each command, printed where nothing heavy can be imported."""
    folder = tmp_path_factory.mktemp("help")
    commands = [["--help"], *([name, "--help"] for name in cli.COMMANDS)]
    printed = run_in_turn([(folder, words) for words in commands], without=HEAVY)
    return dict(zip(map(" ".join, commands), printed, strict=True))


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_every_command(name: str, helps: dict[str, Printed]) -> None:
    done = helps[f"{name} --help"]
    assert done.code == 0, done.err
    assert done.err == ""
    assert re.match(rf"Usage: .*\b{name}\b", done.out)
    assert "--help" in done.out


def test_help_of_bot_imports_nothing_heavy(helps: dict[str, Printed]) -> None:
    assert (helps["--help"].code, helps["--help"].err) == (0, "")
    assert "Commands:" in helps["--help"].out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_commands_by_their_own_names(name: str) -> None:
    context = click.Context(cli.bot)
    assert name in cli.bot.list_commands(context)
    command = cli.bot.get_command(context, name)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.help


def test_every_option_is_explained_or_plain() -> None:
    context = click.Context(cli.bot)
    for name in cli.COMMANDS:
        command = cli.bot.get_command(context, name)
        assert command is not None
        result = CliRunner().invoke(command, ["--help"])
        assert result.exit_code == 0
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:  # an older name is hidden
                assert parameter.opts[0] in result.output


def test_help_is_quick() -> None:
    def seconds() -> float:
        times = os.times()  # of the processor: another program on the machine does not count
        return times.children_user + times.children_system

    took = []
    for _ in range(5):
        started = seconds()
        assert run_bot("--help").returncode == 0
        took.append(seconds() - started)
    assert min(took) < 0.3, took


def test_importing_the_package_imports_nothing_heavy() -> None:
    done = run_python("-c", f"import sys, bot_deploy; print(sorted(set({HEAVY!r}) & set(sys.modules)))")
    assert done.stdout.strip() == "[]"


def test_version() -> None:
    from importlib.metadata import version

    assert run_bot("--version").stdout.strip() == f"bot, version {version('bot-deploy')}"


# ---- exit codes ----


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["--frobnicate"], "No such option"),
        (["match"], "Missing argument"),
        (["match", "a.jpg", "b", "--top", "many"], "'many' is not a valid integer"),
        (["eval", "m.onnx", "--frobnicate"], "No such option"),
        (["synthetic", "out", "extra"], "unexpected extra argument"),
    ],
)
def test_wrong_usage(words: list[str], said: str) -> None:
    done = run_bot(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Usage:" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.BotError, 1),
        (errors.RunError, 1),
        (errors.InputError, 2),
        (errors.ImageError, 2),
        (errors.ParityError, 3),
    ],
)
def test_each_kind_of_error_is_one_line_and_its_exit_code(error: type[errors.BotError], code: int) -> None:
    done = run_python("-c", FAILING.format(line=f"raise errors.{error.__name__}('x.onnx: what is wrong; what to do')"))
    assert done.returncode == code
    assert done.stderr == "bot: x.onnx: what is wrong; what to do\n"
    assert done.stdout == ""


def test_a_mistake_of_ours_is_not_hidden() -> None:
    done = run_python("-c", FAILING.format(line="raise RuntimeError('a bug')"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "RuntimeError: a bug" in done.stderr


@pytest.mark.parametrize(
    "line", ["os.kill(os.getpid(), signal.SIGINT)", "raise KeyboardInterrupt", "raise click.Abort"]
)
def test_ctrl_c(line: str) -> None:
    done = run_python("-c", FAILING.format(line=line))
    assert done.returncode == 130
    assert done.stderr.strip() == "bot: interrupted"


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("torch.nn", "bot: torch is not installed; pip install 'bot-deploy[train]'\n"),
        ("onnx", "bot: onnx is not installed; pip install 'bot-deploy[export]'\n"),
    ],
)
def test_a_missing_extra_is_named(module: str, said: str) -> None:
    done = run_python("-c", FAILING.format(line=f"raise ModuleNotFoundError('none', name={module!r})"))
    assert (done.returncode, done.stderr) == (1, said)


def test_any_other_missing_module_is_a_bug() -> None:
    done = run_python("-c", FAILING.format(line="import nowhere_to_be_found"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("line", ["pass", "click.echo('done')"])
def test_success_exits_with_0(line: str) -> None:
    done = run_python("-c", FAILING.format(line=line))
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.skipif(os.name != "posix", reason="a closed pipe is an ordinary error on Windows")
def test_a_closed_pipe_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    line = "[click.echo('x' * 1000) for _ in range(1000)]"
    with os.fdopen(write, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-c", FAILING.format(line=line)],
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


# ---- real commands on what is not there ----


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["match", "q.jpg", ".", "--model", "box/m.onnx"], "bot: box/m.onnx: no such model file; `bot export`"),
        (["match", "q.jpg", ".", "--json", "--model", "m.pt"], "bot: m.pt: no such model file"),
        (["match", "q.jpg", "."], "bot: q.jpg: no such image"),
        (["match", "q.jpg", "gallery"], "bot: gallery: no such folder"),
        (["eval", "box/m.onnx", "--json"], "bot: box/m.onnx: no such model file"),
        (["export", "--json"], "bot: no model.pt under runs/; `bot train` makes a run"),
        (["export", "box/model.pt", "--data", "d"], "bot: "),
    ],
)
def test_missing_files(tmp_path: Path, words: list[str], said: str) -> None:
    done = run_bot(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stderr.startswith("bot: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "data"), [("m.onnx", b"no model"), ("m.onnx", b""), ("m.bin", b"?")])
def test_files_that_are_no_model_are_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    done = run_bot("eval", name, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"bot: {name}: ")
    assert done.stderr.count("\n") == 1
