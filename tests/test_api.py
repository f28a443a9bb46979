"""The names that `bot_deploy` offers."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from helpers.commands import run_python

import bot_deploy


def test_dir_shows_the_api_and_every_name_loads() -> None:
    assert dir(bot_deploy) == sorted([*bot_deploy.__all__, "export", "train", "__version__"])
    for name in bot_deploy.__all__:
        value = getattr(bot_deploy, name)
        assert callable(value)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = bot_deploy.nonsense


@pytest.mark.parametrize("name", ["train", "export"])
def test_the_packages_are_reachable_without_an_import(name: str) -> None:
    assert isinstance(getattr(bot_deploy, name), ModuleType)
    assert name in dir(bot_deploy)
    program = f"import bot_deploy; print(bot_deploy.{name}.__name__)"
    assert run_python("-c", program).stdout == f"bot_deploy.{name}\n"


def test_importing_loads_nothing_heavy() -> None:
    heavy = "('torch', 'numpy', 'PIL', 'click', 'onnxruntime')"
    program = f"import sys, bot_deploy; print([name for name in {heavy} if name in sys.modules])"
    assert run_python("-c", program).stdout == "[]\n"


@pytest.mark.parametrize("name", ["train", "export", "demos"])
def test_a_top_level_folder_is_no_package_of_its_own(name: str) -> None:
    done = run_python("-c", f"import {name}")
    assert done.returncode == 1
    assert f"import bot_deploy.{name}, not {name}" in done.stderr
    assert name not in sys.modules
