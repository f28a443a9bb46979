"""Models whose embeddings are no results: every command and the Python API stop, and `bot doctor` names the defect."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import numpy as np
import onnx
import pytest
from helpers.command_lines import cases, command_line
from helpers.commands import run_bot
from helpers.fake_camera import CONTRACT, write_colour_model
from helpers.random_gallery import contract, draw
from onnx import helper, numpy_helper

from bot_deploy import cli, open_embedder
from bot_deploy.artifacts import read_contract, write_contract
from bot_deploy.artifacts.contract import Calibration
from bot_deploy.commands.options import NumberRange
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError, RunError
from bot_deploy.evaluation.protocol import EUCLIDEAN, evaluate_dataset

if TYPE_CHECKING:
    from pathlib import Path

FACTORS = {"nan": np.nan, "inf": np.inf, "zero": 0.0, "twice-as-long": 2.0, "two-percent-short": 0.98}


def spoilt_model(path: Path, factor: float, **changes: object) -> Path:
    """A model of mean colours whose unit vectors are multiplied by `factor`, with these changes to its contract."""
    model = onnx.load(str(write_colour_model(path)))
    model.graph.node[-1].output[0] = "unit"
    model.graph.node.append(helper.make_node("Mul", ["unit", "factor"], ["embeddings"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "factor"))
    fields = {**json.loads(CONTRACT.to_json()), **changes}
    helper.set_model_props(model, {"bot_deploy.contract": json.dumps(fields)})
    onnx.save(model, str(path))
    return path


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    for number in range(12):
        draw(tmp_path / "crops" / f"person {number // 2}" / f"c{number % 2}_{number}.png", number)
    return tmp_path / "crops"


# ---- at opening ----


@pytest.mark.parametrize("factor", FACTORS.values(), ids=list(FACTORS))
def test_a_model_without_unit_vectors_is_refused_when_it_is_opened(factor: float, tmp_path: Path) -> None:
    path = spoilt_model(tmp_path / "model.onnx", factor)
    with pytest.raises(RunError, match=r"model\.onnx: .*1 of 1 embeddings that are not usable") as refused:
        open_embedder(path, "cpu")
    assert refused.value.exit_code == 1
    assert "export it again" not in str(refused.value)
    assert open_embedder(path, "cpu", check=False).contract == CONTRACT


@pytest.mark.parametrize("factor", [1.0, 0.995])  # bfloat16 rounds a length by up to 0.4 %
def test_a_model_of_unit_vectors_opens(factor: float, tmp_path: Path) -> None:
    assert open_embedder(spoilt_model(tmp_path / "model.onnx", factor), "cpu").contract == CONTRACT


@pytest.mark.parametrize("changes", [{"dim": 4}, {"height": 17}, {"width": 9}])
@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_a_contract_that_does_not_fit_its_network(changes: dict[str, int], device: str, tmp_path: Path) -> None:
    if device == "openvino":
        pytest.importorskip("openvino", reason="needs OpenVINO, of the extra `openvino`")
    path = spoilt_model(tmp_path / "model.onnx", 1, **changes)
    with pytest.raises((InputError, RunError), match=r"contract|OpenVINO failed on 1 images") as refused:
        open_embedder(path, device)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name", cases("match with an index", "match of a folder", "embed as a table", "export", "doctor")
)
def test_every_command_stops_with_one_line(name: str, crops: Path, tmp_path: Path) -> None:
    model = spoilt_model(tmp_path / "model.onnx", np.nan)
    places = {"CROPS": crops, "DATA": crops, "QUERY": crops / "person 0" / "c0_0.png", "OUT": tmp_path / "out"}
    done = run_bot(*command_line(name, MODEL=model, **places), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(f"bot: {model}: ONNX Runtime")
    assert "NaN or infinite numbers" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.npy").exists()
    assert not (tmp_path / "out.gallery").exists()


def test_doctor_names_the_defect(crops: Path, tmp_path: Path) -> None:
    done = run_bot("doctor", spoilt_model(tmp_path / "model.onnx", np.nan), "--images", crops, "--json")
    assert done.returncode == 0, done.stderr
    assert [warning["kind"] for warning in json.loads(done.stdout)["warnings"]] == ["nan"]


# ---- in a batch ----


def embedder(change: object, *, unit_length: bool = True) -> Embedder:
    def compute(batch: np.ndarray) -> np.ndarray:
        vectors = np.full((len(batch), 12), 12**-0.5, np.float32)
        return change(vectors)  # type: ignore[operator, no-any-return]

    return Embedder(contract(), "a spoilt model", compute, unit_length=unit_length)


def _set(row: int, column: int, value: float) -> object:
    def change(vectors: np.ndarray) -> np.ndarray:
        vectors[row, column] = value
        return vectors

    return change


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, 0.9])
def test_one_bad_number_among_many_is_noticed(value: float) -> None:
    images = np.zeros((20, 16, 8, 3), np.uint8)
    with pytest.raises(RunError, match="a spoilt model gave 1 of 20 embeddings that are not usable"):
        embedder(_set(17, 5, value)).embed(images)


@pytest.mark.parametrize("change", [lambda v: v[:-1], lambda v: v[:, :-1], lambda v: v[0], lambda v: v[None]])
def test_embeddings_of_another_shape_are_an_error(change: object) -> None:
    with pytest.raises(RunError, match=r"shape .* instead of \[20, 12\]"):
        embedder(change).run(np.zeros((20, 16, 8, 3), np.uint8))


def test_embeddings_that_keep_their_length_need_only_be_finite(people: Path) -> None:
    images = np.zeros((3, 16, 8, 3), np.uint8)
    assert embedder(lambda v: 7 * v, unit_length=False).run(images).max() == np.float32(7) * np.float32(12**-0.5)
    with pytest.raises(RunError, match="NaN or infinite"):
        embedder(_set(1, 1, np.nan), unit_length=False).run(images)
    from bot_deploy.datasets import open_dataset

    scores = evaluate_dataset(embedder(lambda v: 7 * v, unit_length=False), open_dataset(people), EUCLIDEAN)
    assert 0 < scores.mAP <= 100


def test_a_failure_of_pytorch_is_one_line_and_no_advice_to_export(
    checkpoint_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bot_deploy.model import InferenceGraph

    def fail(self: object, images: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nCUDA kernel errors might be reported later")

    monkeypatch.setattr(InferenceGraph, "forward", fail)
    with pytest.raises(RunError, match=r"PyTorch failed on 1 images on cpu \(CUDA error: no kernel") as failed:
        open_embedder(checkpoint_file, "cpu")
    assert "\n" not in str(failed.value)
    assert "export" not in str(failed.value)


# ---- numbers that the user gives ----


def commands() -> list[click.Command]:
    group = cli.LazyGroup()
    context = click.Context(group)
    return [command for name in cli.COMMANDS if (command := group.get_command(context, name))]


def test_every_option_for_a_number_has_a_range() -> None:
    numbers = 0
    for command in commands():
        if command.name == "synthetic":  # the library names its limits: tests/synthetic/test_clip.py
            continue
        for option in command.params:
            assert not isinstance(option.type, click.types.FloatParamType) or isinstance(option.type, NumberRange)
            if isinstance(option.type, click.types.IntRange):
                assert option.type.max is not None, f"{command.name} {option.name}"
            numbers += isinstance(option.type, NumberRange | click.types.IntRange)
    assert numbers > 20


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400", "-5", "1" + "0" * 400])
def test_no_option_takes_what_is_no_number(command: click.Command, value: str) -> None:
    for option in command.params:
        if isinstance(option.type, NumberRange | click.types.IntRange):
            with pytest.raises(click.BadParameter):
                option.type.convert(value, option, None)


@pytest.mark.parametrize("threads", [-1, 513, 2000])
def test_more_threads_than_help_are_refused(threads: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose up to 512"):
        open_embedder(write_colour_model(tmp_path / "model.onnx"), threads=threads)


# ---- numbers from artifacts ----

CALIBRATION = {
    "data": "people", "genuine_pairs": 200, "impostor_pairs": 4000, "target_false_accept_rate": 0.01,
    "threshold": 0.6, "reject_threshold": 0.3,
    "false_reject_rate": 0.2, "curve": [[0.5, 0.1], [0.6, 0.01]],
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": -5},
        {"threshold": float("nan")},
        {"threshold": float("-inf")},
        {"reject_threshold": float("nan")},
        {"reject_threshold": 0.7},
        {"false_reject_rate": 2},
        {"target_false_accept_rate": 0},
        {"genuine_pairs": -1},
        {"curve": []},
        {"curve": [[0.6, 0.01], [0.5, 0.1]]},
        {"curve": [[0.5, 0.01], [0.6, 0.1]]},
        {"curve": [[0.5, 0.1], [0.5, 0.01]]},
        {"curve": [[0.5, float("nan")]]},
        {"curve": [[0.5, 0]]},
    ],
    ids=str,
)
def test_a_calibration_out_of_range_is_no_calibration(changes: dict[str, object], tmp_path: Path) -> None:
    path = spoilt_model(tmp_path / "model.onnx", 1, calibration={**CALIBRATION, **changes})
    with pytest.raises(InputError, match=r"model\.onnx: its contract is (not readable|damaged)"):
        open_embedder(path)


def test_a_calibration_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    path = write_colour_model(tmp_path / "model.onnx")
    before = path.read_bytes()
    fields = {**CALIBRATION, "curve": ((0.5, 0.1), (0.6, 0.01)), "threshold": float("nan")}
    with pytest.raises(InputError, match=r"not readable|damaged"):
        write_contract(path, CONTRACT.__class__(**{**vars(CONTRACT), "calibration": Calibration(**fields)}))  # type: ignore[arg-type]
    assert path.read_bytes() == before
    good = Calibration(**{**fields, "threshold": 0.6})  # type: ignore[arg-type]
    write_contract(path, CONTRACT.__class__(**{**vars(CONTRACT), "calibration": good}))  # type: ignore[arg-type]
    assert read_contract(path).calibration == good
