"""Messages of errors: one line of a length that can be read, whatever value of a file is in them."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import pytest

from bot_deploy.artifacts.contract import SUPPORTED, Contract, from_json
from bot_deploy.errors import InputError
from bot_deploy.train.recipe import CHOICES, load_recipe

if TYPE_CHECKING:
    from pathlib import Path

LONG = "y" * 100_000


def test_the_middle_of_a_long_line_is_left_out_and_its_end_is_kept() -> None:
    short = InputError("a message", details=["a detail"])
    assert (str(short), short.lines) == ("a message\na detail", ("a message", "a detail"))
    error = InputError(f"x is {LONG}; give a shorter one", details=[LONG])
    assert str(error).startswith("x is yyy")
    assert error.lines[0].endswith("yyy; give a shorter one")
    assert [len(line) for line in error.lines] == [3505, 3505]


@pytest.mark.parametrize("name", [name for name, values in SUPPORTED.items() if isinstance(values[0], str)])
def test_a_long_value_in_a_contract(name: str) -> None:
    fields = dataclasses.asdict(Contract(arch="a", height=8, width=4, dim=3, fingerprint="0"))
    with pytest.raises(InputError, match=f"m: made for {name} 'yyy") as caught:
        from_json(json.dumps({**fields, name: LONG}), "m")
    assert len(str(caught.value)) < 4000


@pytest.mark.parametrize("text", [*(f'{key} = "{LONG}"' for key in CHOICES), f"{LONG} = 1"])
def test_a_long_value_in_a_recipe(text: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    assert len(str(caught.value)) < 4000
    assert "\n" not in str(caught.value)
