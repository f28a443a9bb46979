"""From pairs to thresholds, and from thresholds into the artifact."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers.random_embeddings import random_embeddings
from helpers.random_gallery import CountingModel, contract, draw

from bot_deploy import open_embedder
from bot_deploy.artifacts import engine_file, read_contract, write_contract
from bot_deploy.artifacts.contract import METADATA_KEY, Calibration, Contract, from_json
from bot_deploy.commands.calibrate import calibrate as command
from bot_deploy.datasets import open_dataset
from bot_deploy.datasets.dataset import build_crop
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError, RunError
from bot_deploy.matching.calibrate import (
    MAX_REJECTED_GENUINE,
    calibrate,
    calibration_from_scores,
    score_crop_pairs,
    store_calibration,
)
from bot_deploy.matching.pairs import BINS, count_pairs, score_pairs

if TYPE_CHECKING:
    from bot_deploy.errors import BotError

CONTRACT = Contract(arch="a", height=8, width=4, dim=3, fingerprint="0" * 16)
CALIBRATION = Calibration(
    data="d", genuine_pairs=100, impostor_pairs=1000, target_false_accept_rate=0.01,
    threshold=0.6, reject_threshold=0.3, false_reject_rate=0.2,
    curve=((0.0, 0.5), (0.5, 0.05), (0.6, 0.01), (0.8, 0.0001)),
)  # fmt: skip


# ---- thresholds ----


@pytest.mark.parametrize("target", [0.1, 0.01, 0.002])
def test_threshold_is_the_lowest_that_keeps_the_target(target: float) -> None:
    vectors, ids, cams = random_embeddings(40, 2, 6, 1.0)
    calibration = calibration_from_scores(score_pairs(vectors, ids, cams), "crowd", target)
    cosines = vectors.astype(np.float64) @ vectors.T
    above = np.triu(np.ones_like(cosines, bool), 1)
    same_id = np.equal.outer(ids, ids)
    impostor = cosines[above & ~same_id]
    assert (impostor >= calibration.threshold).mean() <= target
    assert (impostor >= calibration.threshold - 2 / BINS).mean() > target
    genuine = cosines[above & same_id & ~np.equal.outer(cams, cams)]
    assert calibration.false_reject_rate == pytest.approx((genuine < calibration.threshold).mean(), abs=1e-3)
    assert calibration.reject_threshold <= calibration.threshold
    assert (genuine < calibration.reject_threshold).mean() <= MAX_REJECTED_GENUINE
    assert (calibration.genuine_pairs, calibration.impostor_pairs) == (len(genuine), len(impostor))
    for cosine, rate in calibration.curve:
        assert rate == pytest.approx((impostor >= cosine).mean(), rel=1e-3)
    assert [rate for _, rate in calibration.curve] == sorted((rate for _, rate in calibration.curve), reverse=True)
    assert calibration.curve[-1][1] * len(impostor) >= 9


def test_too_few_pairs_are_refused_with_the_remedy() -> None:
    few = score_pairs(*random_embeddings(10, 2, 3, 0.5))
    with pytest.raises(InputError, match=r"only 90 genuine pairs \(one person, two cameras\); at least 100 are needed"):
        calibration_from_scores(few, "few", 0.1)
    more = score_pairs(*random_embeddings(20, 2, 4, 0.5))
    with pytest.raises(InputError, match=r"too few for a false-accept rate of 1e-05; choose 0\.009 or more, or give"):
        calibration_from_scores(more, "few", 1e-5)
    for target in (0.0, 1.0, -1, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            calibration_from_scores(more, "few", target)


def test_threshold_holds_on_other_people() -> None:
    calibration = calibration_from_scores(score_pairs(*random_embeddings(150, 2, 4, 1.0, seed=1)), "some", 1e-2)
    vectors, ids, _ = random_embeddings(150, 2, 4, 1.0, seed=2)
    cosines = vectors @ vectors.T
    rate = (cosines[~np.equal.outer(ids, ids)] >= calibration.threshold).mean()
    assert 0.005 <= rate <= 0.02


# ---- the whole calibration ----


@pytest.mark.parametrize("opened", [True, False], ids=["opened", "paths"])
def test_calibrate_a_model_on_a_data_set(opened: bool, onnx_file: Path, people: Path) -> None:
    """Query and gallery of the data set are compared; its training crops are not."""
    embedder, dataset = open_embedder(onnx_file), open_dataset(people)
    calibration = calibrate(embedder, dataset, 0.05) if opened else calibrate(str(onnx_file), str(people), 0.05)
    crops = [*dataset.query, *dataset.gallery]
    ids, cams = [crop.identity for crop in crops], [crop.camera for crop in crops]
    vectors, _ = embedder.embed_files([crop.path for crop in crops])
    assert calibration == calibration_from_scores(score_pairs(vectors, ids, cams), str(people), 0.05, set(cams))
    assert (calibration.genuine_pairs, calibration.impostor_pairs) == count_pairs(ids, cams)
    assert calibration.target_false_accept_rate == 0.05
    assert open_embedder(onnx_file).contract.calibration is None  # nothing is stored


@pytest.mark.parametrize(
    ("cameras", "genuine", "said"),
    [
        # Four crops of a person are six pairs.
        ((1, 1, 1, 1), 6, "p: all crops are from camera 1; where they are neighbouring frames, do not trust"),
        ((None, None, None, None), 6, "p: 80 of 80 crops have no camera ID; where they are neighbouring frames"),
        ((1, 1, None, 2), 5, "p: 20 of 80 crops have no camera ID"),
        ((1, 1, 2, 3), 5, ""),
    ],
)
def test_data_of_one_camera_are_enough_but_their_rate_is_not_to_be_trusted(
    cameras: tuple[int | None, ...], genuine: int, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crops = []
    for identity in range(1, 21):
        for shot, camera in enumerate(cameras):
            path = draw(tmp_path / f"{identity}_{shot}.png", 4 * identity + shot)
            crops.append(build_crop(path, identity, camera, len(crops), str(identity)))
    scores = score_crop_pairs(Embedder(contract(), "a projection", CountingModel()), crops, "p", 0.5)
    assert (scores.genuine_counts.sum(), scores.impostor_counts.sum()) == (20 * genuine, 4 * 4 * 20 * 19 // 2)
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)


# ---- in the artifact ----


def test_contract_carries_it() -> None:
    calibrated = replace(CONTRACT, calibration=CALIBRATION)
    assert from_json(calibrated.to_json(), "m") == calibrated
    assert from_json(CONTRACT.to_json(), "m").calibration is None


@pytest.mark.parametrize(
    "change", [{"curve": []}, {"curve": [[0.1, 0.0]]}, {"curve": "x"}, {"more": 1}, {"data": None}]
)
def test_damaged_calibration_is_one_line(change: dict[str, object]) -> None:
    fields = json.loads(replace(CONTRACT, calibration=CALIBRATION).to_json())
    fields["calibration"] |= change
    if change == {"data": None}:
        del fields["calibration"]["data"]
    with pytest.raises(InputError, match="its contract is damaged"):
        from_json(json.dumps(fields), "m")


def test_stored_in_onnx_and_nothing_else_changes(onnx_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_file.read_bytes())
    for target in (0.01, 0.02):  # the second replaces the first
        store_calibration(path, replace(CALIBRATION, target_false_accept_rate=target))
        assert open_embedder(path).contract.calibration == replace(CALIBRATION, target_false_accept_rate=target)
    before, after = onnx.load(str(onnx_file)), onnx.load(str(path))
    assert [entry.key for entry in after.metadata_props].count(METADATA_KEY) == 1
    del before.metadata_props[:], after.metadata_props[:]
    assert before == after
    crops = np.random.default_rng(0).integers(0, 256, (2, 64, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(open_embedder(path).run(crops), open_embedder(onnx_file).run(crops))


def test_a_model_that_was_replaced_meanwhile_is_not_calibrated(onnx_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_file.read_bytes())
    measured = open_embedder(path).contract
    write_contract(path, replace(measured, fingerprint="1" * 16))  # as another export would
    replaced = path.read_bytes()
    with pytest.raises(RunError, match="replaced by another model"):
        store_calibration(path, CALIBRATION, measured)
    assert path.read_bytes() == replaced
    write_contract(path, replace(measured, calibration=replace(CALIBRATION, threshold=0.7)))
    store_calibration(path, CALIBRATION, measured)  # only an older calibration
    assert read_contract(path).calibration == CALIBRATION


def test_checkpoints_are_not_calibrated(checkpoint_file: Path) -> None:
    with pytest.raises(InputError, match="calibrate the exported model"):
        store_calibration(checkpoint_file, CALIBRATION)


def test_an_engine_is_calibrated_in_its_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    sidecar = engine_file.Sidecar(
        contract=CONTRACT, sha256=hashlib.sha256(b"an engine").hexdigest(), onnx_sha256="1" * 64, package="tensorrt",
        version="10.13.2", gpu_archs=("sm89",), profile=(1, 2, 4), precision="fp16",
    )  # fmt: skip
    engine_file.write(path, b"an engine", sidecar)
    path.chmod(0o400)
    before = path.stat()  # without the time of the last reading
    store_calibration(path, CALIBRATION)
    assert engine_file.read(path) == (
        b"an engine",
        replace(sidecar, contract=replace(CONTRACT, calibration=CALIBRATION)),
    )
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ["{dir}/model.pt"],
            InputError,
            "model.pt: a checkpoint; calibrate the exported model",
        ),
        (["{model}", "--plot", "{dir}/x.svg"], InputError, "x.svg: a plot ends in .png"),
        (["{model}", "--plot", "{model}/x.png"], RunError, "x.png: cannot be written (File exists)"),
        (["{model}", "--plot", "{dir}/folder.png"], RunError, "folder.png: cannot be written (it is a folder)"),
        (
            ["{model}", "--far", "1e-9"],
            InputError,
            "pairs of different people are too few for a false-accept rate of 1e-09",
        ),
    ],
)
def test_refused_before_anything_is_embedded(
    arguments: list[str],
    error: type[BotError],
    message: str,
    onnx_file: Path,
    people: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(*arguments: object) -> None:
        raise AssertionError("embedded")

    monkeypatch.setattr("bot_deploy.matching.calibrate.embed_crops", forbidden)
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_file.read_bytes())
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "model.pt").touch()
    arguments = [argument.format(dir=tmp_path, model=path) for argument in arguments]
    result = CliRunner().invoke(command, [*arguments, "--data", str(people)])
    assert type(result.exception) is error
    assert message in str(result.exception)
    assert path.read_bytes() == onnx_file.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "model.onnx", "model.pt"]


def test_a_model_that_cannot_be_written_is_refused_early(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: path != onnx_file)  # root may write to any
    result = CliRunner().invoke(command, [str(onnx_file), "--data", str(onnx_file.parent)])
    assert str(result.exception) == f"{onnx_file}: cannot be written (it is write-protected)"


def test_without_matplotlib_there_is_no_plot(
    onnx_file: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_file.read_bytes())
    arguments = [str(path), "--data", str(people), "--far", "0.05", "--json"]
    result = CliRunner().invoke(command, [*arguments, "--plot", str(tmp_path / "x.png")])
    assert isinstance(result.exception, ModuleNotFoundError)
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["plot"] is None
    assert "no plot, as matplotlib is not installed" in result.stderr
    assert open_embedder(path).contract.calibration is not None
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_command(onnx_file: Path, people: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_file.read_bytes())
    arguments = [str(path), "--data", str(people), "--far", "0.05", "--json"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    stored = open_embedder(path).contract.calibration
    assert stored is not None
    assert document["threshold"] == stored.threshold
    assert document["target_false_accept_rate"] == 0.05
    assert (tmp_path / "model.onnx.calibration.png").read_bytes().startswith(b"\x89PNG")
