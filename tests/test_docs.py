"""README.md and docs/ cannot rot: every command shown is one that `bot` has, and every Python example runs."""

from __future__ import annotations

import doctest
import io
import re
import shlex
import shutil
import tomllib
from functools import cache
from pathlib import Path

import click
import pytest

from bot_deploy.artifacts import FILE_MODULES
from bot_deploy.choices import BACKENDS, DEVICES
from bot_deploy.cli import COMMANDS, bot
from bot_deploy.model import BACKBONES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [  # not CHANGELOG.md, which may name what no longer exists
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
MAKE_TARGET = re.compile(r"^([a-z]+):", re.MULTILINE)

page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())


def shell_lines(text: str) -> list[str]:
    """The command lines in the plain fences of a page, without prompts and comments."""
    lines = []
    for language, block in FENCE.findall(text):
        if language in {"", "sh", "console"}:
            joined = block.replace("\\\n", " ")
            lines += [line.removeprefix("$ ").partition("  #")[0].strip() for line in joined.splitlines()]
    return lines


def bot_commands(text: str) -> list[list[str]]:
    """The arguments of each `bot ...` in the fences of a page, and of each `bot` under torchrun."""
    lines = [re.sub(r"^torchrun .*-m bot_deploy ", "bot ", line) for line in shell_lines(text)]
    return [shlex.split(line)[1:] for line in lines if line.startswith("bot ")]


def command_of(name: str) -> click.Command:
    """The command of `bot name`."""
    command = bot.get_command(click.Context(bot), name)
    assert command is not None, f"bot {name}: no such command; there are {', '.join(COMMANDS)}"
    return command


def parse(arguments: list[str]) -> None:
    """Fails when `bot` would refuse the command line `arguments`."""
    name, *rest = arguments
    try:
        command_of(name).make_context(name, rest)
    except click.UsageError as error:
        pytest.fail(f"bot {shlex.join(arguments)}: {error.format_message()}")


@cache
def options_of(name: str) -> frozenset[str]:
    """The options of `bot name`."""
    return frozenset(option for parameter in command_of(name).params for option in parameter.opts) | {"--help"}


@page
def test_every_command_line_is_accepted(path: Path) -> None:
    for arguments in bot_commands(path.read_text(encoding="utf-8")):
        parse(arguments)


@page
def test_every_command_and_option_in_the_prose_exists(path: Path) -> None:
    every_option = frozenset[str]().union(*map(options_of, COMMANDS), {"--version"})
    for span in INLINE.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        options = set(re.findall(r"--[a-z][a-z0-9-]*", span))
        if name := re.match(r"bot ([a-z]+)", span):
            assert options <= options_of(name[1]), f"{path.name}: {span}"
        elif path.parent.name == "docs" and span.startswith("--"):
            assert options <= every_option, f"{path.name}: {span}"


@page
def test_make_targets_scripts_and_linked_files_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    targets = MAKE_TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8"))
    for line in shell_lines(text) + INLINE.findall(FENCE.sub("", text)):
        if match := re.fullmatch(r"make ((?:[a-z]+ ?)+)", line):
            assert set(match[1].split()) <= set(targets), line
        if match := re.match(r"python (benchmarks/\w+\.py)", line):
            assert (ROOT / match[1]).is_file(), line
    for link in LINK.findall(FENCE.sub("", text)):
        if "://" not in link:
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_the_pages_show_commands() -> None:
    shown = {arguments[0] for path in PAGES for arguments in bot_commands(path.read_text(encoding="utf-8"))}
    assert shown == set(COMMANDS)  # and so the extraction above finds them


def test_architecture_shows_the_layers_that_are_checked() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        rules = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    layers = next(rule["layers"] for rule in rules if rule["type"] == "layers")
    blocks = [block for _, block in FENCE.findall((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))]
    shown = next(block for block in blocks if block.startswith(layers[0]))
    assert [re.split(r"\s{2,}", line)[0] for line in shown.splitlines()] == layers


def test_deploy_shows_every_device_with_its_files() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8").partition("## Choose a device")[2]
    rows = re.findall(r"^\| `([\w-]+)` \| ([.\w, ]+) \|", text, re.MULTILINE)
    files_of = {
        device: {suffix for suffix in BACKENDS if device in BACKENDS[suffix]} for device in DEVICES[1:]
    }  # without auto
    assert {device: set(files.split(", ")) for device, files in rows} == files_of
    assert set(FILE_MODULES) == set(BACKENDS)  # every file that can be read can be run


def test_train_names_every_backbone() -> None:
    (row,) = re.findall(r"^\| `arch` .*", (ROOT / "docs" / "train.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", row))
    ibn = {f"{name}_ibn_a" for name in named if name.startswith("resnet")}  # "with `_ibn_a` behind it"
    assert named | ibn >= set(BACKBONES)


def test_a_wrong_option_is_found() -> None:
    with pytest.raises(pytest.fail.Exception, match="No such option"):
        parse(["match", "a.jpg", "crops", "--tpo", "5"])


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in PAGES if "```pycon" in path.read_text(encoding="utf-8")])
def test_python_examples_print_what_they_show(
    path: Path, people: Path, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "people").symlink_to(people)
    shutil.copy(onnx_file, tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = path.read_text(encoding="utf-8")
    # One program for each page; the lines keep their numbers, so that a failure names them.
    inside = False
    lines = []
    for line in text.splitlines():
        inside = line == "```pycon" or (inside and line != "```")
        lines.append(line if inside and line != "```pycon" else "")
    examples = doctest.DocTestParser().get_doctest("\n".join(lines), {}, path.name, str(path), 0)
    assert examples.examples
    report = io.StringIO()
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples, out=report.write)
    assert result.failed == 0, report.getvalue()
