"""The Dockerfiles, as far as one sees without Docker: instructions, what they install, and their checks."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from bot_deploy.cli import bot

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
# Those of the Dockerfile reference that these files may need.
INSTRUCTIONS = {"FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "HEALTHCHECK", "ENTRYPOINT", "CMD"}

each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def instructions(path: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with their arguments."""
    text = re.sub(r"^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def commands(path: Path) -> list[list[str]]:
    """The `bot` commands that the image runs: while it is built, as its default, and as the check of a container."""
    found = []
    for word, rest in instructions(path):
        if word == "RUN":
            found += [shlex.split(part)[1:] for part in rest.split("&&") if part.strip().startswith("bot ")]
        elif word == "CMD":
            found.append(json.loads(rest))
        elif word == "HEALTHCHECK":
            found.append(json.loads(rest[rest.index("CMD ") + 4 :])[1:])
    return found


@each
def test_instructions(path: Path) -> None:
    lines = instructions(path)
    assert {word for word, _ in lines} <= INSTRUCTIONS
    assert lines[0][0] == "FROM"
    assert ":" in lines[0][1]  # a version, not what happens to be the latest
    assert ("ENTRYPOINT", '["bot"]') in lines
    users = [rest for word, rest in lines if word == "USER"]
    assert int(users[-1]) > 0  # not root; a name would not tell that to Kubernetes


@each
def test_what_it_copies_is_here_and_is_all_that_an_installation_needs(path: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    copied = [rest.split()[:-1] for word, rest in instructions(path) if word == "COPY"]
    assert copied
    for sources in copied:
        assert all((ROOT / source).exists() for source in sources)
    # The sdist has every file that a wheel is built from.
    needed = ["pyproject.toml", "README.md", "LICENSE", "bot_deploy", "train", "export", "demos"]
    assert copied == [["."]]
    assert not {*needed} & {*ignored}
    assert all((ROOT / name).exists() for name in needed)


@each
def test_it_installs_extras_that_exist(path: Path) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    named = re.findall(r"EXTRAS=\"?([\w,-]+)", path.read_text(encoding="utf-8"))
    assert named
    assert {name for names in named for name in names.split(",")} <= set(extras)
    (default,) = (rest for word, rest in instructions(path) if word == "ARG")
    assert default == f"EXTRAS={path.name.partition('.')[0]}"


@each
def test_its_checks_are_commands_of_bot(path: Path) -> None:
    assert any(words[0] == "env" for words in commands(path))
    for name, *words in commands(path):
        command = bot.get_command(click.Context(bot), name)
        assert command is not None
        command.make_context(name, words)


def test_nothing_large_or_private_goes_into_an_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", "runs", "build"} <= set(ignored)
