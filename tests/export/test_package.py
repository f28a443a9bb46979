"""The package bot_deploy.export: its names, loaded when they are used."""

from __future__ import annotations

import pytest
from helpers.commands import run_python

import bot_deploy.export


def test_importing_the_package_imports_no_torch() -> None:
    result = run_python("-c", "import sys; sys.modules.update(torch=None, onnx=None); import bot_deploy.export")
    assert result.returncode == 0, result.stderr


def test_every_public_name_is_shown_and_loads() -> None:
    assert dir(bot_deploy.export) == sorted(bot_deploy.export.__all__)
    for name in bot_deploy.export.__all__:
        assert getattr(bot_deploy.export, name).__class__.__name__ in {"function", "type", "dict"}
    assert {"export", "import_checkpoint", "compare_embeddings", "to_engine"} <= set(dir(bot_deploy.export))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'exports'"):
        _ = bot_deploy.export.exports
