"""The Dockerfiles and the Compose file, as far as one sees without Docker: what they install and run, their checks."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from bot_deploy.backends import triton
from bot_deploy.cli import bot
from bot_deploy.export.program_files import TRITON_NAME
from bot_deploy.gallery import milvus

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
def test_who_runs_it_can_write_into_its_folder(path: Path) -> None:
    """A named volume at this folder gets the owner that the folder has in the image."""
    lines = instructions(path)
    (folder,) = (rest for word, rest in lines[-4:] if word == "WORKDIR")
    assert any(word == "RUN" and rest.endswith(f"install --directory --owner=bot {folder}") for word, rest in lines)


@each
def test_what_it_copies_is_here_and_is_all_that_an_installation_needs(path: Path) -> None:
    copied = [rest.split()[:-1] for word, rest in instructions(path) if word == "COPY"]
    assert copied
    for sources in copied:
        assert all((ROOT / source).exists() for source in sources)
    # The sdist has every file that a wheel is built from.
    needed = ["pyproject.toml", "README.md", "LICENSE", "bot_deploy", "train", "export", "demos"]
    assert copied == [["."]]
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


def test_nothing_else_goes_into_an_image() -> None:
    """A layer keeps what was copied, even if a later one removes it: galleries and keys must not get there."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    first, *others = [line for line in lines if not line.startswith("#")]
    assert first == "*"
    assert {line for line in others if line.startswith("!")} == {
        f"!{name}" for name in ("pyproject.toml", "README.md", "LICENSE", "bot_deploy", "train", "export", "demos")
    }
    assert not (ROOT / "bot_deploy" / "people.gallery").exists()


# ---- Compose ----


def compose() -> Any:
    return yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))


def test_the_service_of_compose_is_a_command_that_asks_the_other_two(monkeypatch: pytest.MonkeyPatch) -> None:
    services = compose()["services"]
    name, *words = services["serve"]["command"]
    assert name == "serve"
    (variable,) = services["serve"]["environment"]
    monkeypatch.setenv(variable, "a key")
    command = bot.get_command(click.Context(bot), name)
    assert command is not None
    given = command.make_context(name, words).params
    assert (given["api_key"], given["host"]) == ("a key", "0.0.0.0")
    assert services["serve"]["ports"] == [f"127.0.0.1:{given['port']}:{given['port']}"]

    _, _, host, port, model = triton.ADDRESS.fullmatch(given["model"]).groups()  # type: ignore[union-attr]
    assert (int(port), model) == (triton.HTTP_PORT, TRITON_NAME)
    assert services[host]["command"][0] == "tritonserver"
    assert not [word for word in services[host]["command"] if "port" in word]  # its own choice is 8000
    _, _, place, _ = milvus.ADDRESS.fullmatch(given["gallery"]).groups()  # type: ignore[union-attr]
    host, _, port = place.partition(":")
    assert (services[host]["command"], port) == (["milvus", "run", "standalone"], "19530")
    assert set(services["serve"]["depends_on"]) == set(services) - {"serve"}


def test_what_compose_builds_mounts_and_downloads() -> None:
    document = compose()
    services = document["services"]
    build = services["serve"]["build"]
    context = ROOT / "docker" / build["context"]
    dockerfile = context / build["dockerfile"]
    with (context / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert {"serve", "scale"} <= set(build["args"]["EXTRAS"].split(",")) <= set(extras)
    assert dockerfile.resolve() in FILES
    assert [rest for word, rest in instructions(dockerfile) if word == "WORKDIR"][-1] == "/data"
    named = [volume.split(":") for one in services.values() for volume in one["volumes"] if isinstance(volume, str)]
    assert dict(named) == {"people": "/data", "milvus": "/var/lib/milvus"}
    assert {name for name, _ in named} == set(document["volumes"])
    (models,) = services["triton"]["volumes"]
    assert f"--model-repository={models['target']}" in services["triton"]["command"]
    assert models["source"] == "${TRITON_MODELS:-../runs/box/triton}"  # where `bot export box --for triton` writes
    (config,) = services["milvus"]["configs"]
    assert config["target"] == services["milvus"]["environment"]["ETCD_CONFIG_PATH"]
    assert "listen-client-urls" in yaml.safe_load(document["configs"][config["source"]]["content"])
    for image in (one["image"] for one in services.values() if "image" in one):
        assert re.search(r":v?\d", image)  # a version, not what happens to be the latest
