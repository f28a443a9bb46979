"""The match of a file's tensors with a network: what is filled in, and what is refused."""

from __future__ import annotations

import pytest
import torch

from bot_deploy.artifacts.state_dict import match_state_dict
from bot_deploy.errors import InputError

EXPECTED = {
    "conv.weight": torch.zeros(2, 3),
    "norm.weight": torch.zeros(2),
    "norm.num_batches_tracked": torch.tensor(7),
    "classifier.weight": torch.full((5, 2), 3.0),
}


def test_optional_keys_and_counters_are_filled_in() -> None:
    given = {"norm.weight": torch.ones(2), "conv.weight": torch.ones(2, 3)}
    matched = match_state_dict(given, EXPECTED, optional={"classifier.weight"})
    assert list(matched) == list(EXPECTED)
    assert matched["conv.weight"] is given["conv.weight"]
    assert matched["norm.weight"] is given["norm.weight"]
    assert int(matched["norm.num_batches_tracked"]) == 7
    assert matched["classifier.weight"] is EXPECTED["classifier.weight"]


def test_everything_that_does_not_fit_is_listed_by_its_key_in_the_file() -> None:
    given = {"conv.weight": torch.ones(2, 4), "extra": torch.ones(1), "norm.weight": torch.ones(2)}
    with pytest.raises(InputError) as caught:
        match_state_dict(given, EXPECTED, file_keys={"conv.weight": "base.conv", "extra": "base.extra"}, unknown=["t"])
    assert str(caught.value) == (
        "unknown keys: t, base.extra; missing keys: classifier.weight; "
        "keys of another shape: base.conv [2, 4] instead of [2, 3]"
    )


def test_a_long_list_is_shortened() -> None:
    given = {**EXPECTED, **{f"extra{number}": torch.ones(1) for number in range(12)}}
    with pytest.raises(InputError, match=r"^unknown keys: extra0, .*, extra7, \.\.\. \(12 in all\)$"):
        match_state_dict(given, EXPECTED)
