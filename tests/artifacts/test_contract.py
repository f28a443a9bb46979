"""The description that travels with the weights."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from typing import Any

import pytest

from bot_deploy.artifacts.contract import CONTRACT_FORMAT, Calibration, Contract, from_json, weights_fingerprint
from bot_deploy.errors import InputError

CONTRACT = Contract(
    arch="resnet50",
    height=256,
    width=128,
    dim=2048,
    fingerprint="0123456789abcdef",
    color="RGB",
    mean=(0.5, 0.25, 0.125),
    std=(0.1, 0.2, 0.3),
    feature="ft",
)


def fields(**changes: Any) -> dict[str, Any]:
    return {**json.loads(CONTRACT.to_json()), **changes}


def test_round_trip() -> None:
    again = from_json(CONTRACT.to_json(), "m.onnx")
    assert again == CONTRACT
    assert hash(again) == hash(CONTRACT)  # its lists are tuples again
    assert again.size == (256, 128)


def test_defaults_are_imagenet_rgb_after_the_neck() -> None:
    contract = Contract(arch="resnet50", height=256, width=128, dim=2048, fingerprint="")
    assert (contract.color, contract.feature, contract.format) == ("RGB", "after", 1)
    assert contract.mean == (0.485, 0.456, 0.406)
    assert contract.std == (0.229, 0.224, 0.225)


def test_json_holds_every_field_and_repeats() -> None:
    document = json.loads(CONTRACT.to_json())
    as_lists = {"mean": [0.5, 0.25, 0.125], "std": [0.1, 0.2, 0.3], "unlabelled": [], "camera_means": []}
    as_lists["compatible_with"] = []
    assert document == {**dataclasses.asdict(CONTRACT), **as_lists, "feature": "ft"}  # the paper's name, as ever
    assert (CONTRACT.feature, CONTRACT.embedding_space) == ("before", "0123456789abcdef-ft")
    assert CONTRACT.to_json() == dataclasses.replace(CONTRACT).to_json()


def test_an_error_shows_the_beginning_of_a_long_value() -> None:
    with pytest.raises(InputError, match=r"made for precision 'y{39}, which") as caught:
        from_json(json.dumps(fields(precision="y" * 10_000)), "m.onnx")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("version", [CONTRACT_FORMAT + 1, 0, None, "1", [1]])
def test_another_format(version: object) -> None:
    with pytest.raises(InputError, match=r"^box/m\.onnx: contract format .*reads format 1") as caught:
        from_json(json.dumps(fields(format=version)), "box/m.onnx")
    assert str(version) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "nonsense", CONTRACT.to_json()[:-5], "[1, 2]", '"text"', "3", "null"])
def test_text_that_is_no_contract(text: str) -> None:
    with pytest.raises(InputError, match=r"^box/m\.onnx: its contract is not readable; export"):
        from_json(text, "box/m.onnx")


def test_no_format_at_all() -> None:
    with pytest.raises(InputError, match=r"^m\.onnx: contract format None"):
        from_json("{}", "m.onnx")


@pytest.mark.parametrize("missing", ["arch", "height", "width", "dim", "fingerprint", "mean", "std"])
def test_missing_field(missing: str) -> None:
    damaged = fields()
    del damaged[missing]
    with pytest.raises(InputError, match=rf"^m\.onnx: its contract is damaged \(.*{missing}.*export"):
        from_json(json.dumps(damaged), "m.onnx")


@pytest.mark.parametrize("changes", [{"extra": 1}, {"mean": None}, {"mean": 3}, {"std": ["a", "b", "c"]}])
def test_unknown_or_unusable_field(changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"^m\.onnx: its contract is damaged"):
        from_json(json.dumps(fields(**changes)), "m.onnx")


def test_calibration_under_the_names_of_older_artifacts() -> None:
    older = {
        "data": "m.zip", "genuine": 100, "impostor": 2000, "target": 0.01, "threshold": 0.6, "reject": 0.3,
        "missed": 0.2, "curve": [[0.5, 0.1], [0.6, 0.01]],
    }  # fmt: skip
    expected = Calibration(
        data="m.zip", genuine_pairs=100, impostor_pairs=2000, target_false_accept_rate=0.01,
        threshold=0.6, reject_threshold=0.3,
        false_reject_rate=0.2, curve=((0.5, 0.1), (0.6, 0.01)),
    )  # fmt: skip
    contract = from_json(json.dumps(fields(calibration=older)), "m.onnx")
    assert contract.calibration == expected
    written = json.loads(contract.to_json())["calibration"]
    assert (written["reject_threshold"], written["false_reject_rate"]) == (0.3, 0.2)
    assert not {"reject", "missed"} & set(written)


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONTRACT.dim = 3  # type: ignore[misc]


WEIGHTS = [("conv.weight", b"\1\2\3"), ("bn.bias", b""), ("bn.weight", b"\4\5")]


def test_fingerprint_by_hand() -> None:
    digest = hashlib.sha256()
    for name, data in sorted(WEIGHTS):
        digest.update(name.encode() + hashlib.sha256(data).digest())
    assert weights_fingerprint(WEIGHTS) == digest.hexdigest()[:16]


def test_fingerprint_does_not_depend_on_order() -> None:
    assert len({weights_fingerprint(order) for order in itertools.permutations(WEIGHTS)}) == 1
    assert weights_fingerprint(iter(WEIGHTS)) == weights_fingerprint(WEIGHTS)


def test_fingerprint_tells_every_change() -> None:
    others = [
        WEIGHTS[:2],
        [*WEIGHTS, ("more", b"")],
        [("conv.weighs", b"\1\2\3"), *WEIGHTS[1:]],
        [("conv.weight", b"\1\2\2"), *WEIGHTS[1:]],
        [("conv.weight", b"\1\2\3\0"), *WEIGHTS[1:]],
        [("conv.weight", b"\4\5"), ("bn.bias", b""), ("bn.weight", b"\1\2\3")],
        [("conv.weight", b""), ("bn.bias", b"\1\2\3"), ("bn.weight", b"\4\5")],
        [],
    ]
    prints = [weights_fingerprint(weights) for weights in [WEIGHTS, *others]]
    assert len(set(prints)) == len(prints)
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in prints)
