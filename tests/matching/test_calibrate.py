"""From pairs to thresholds, from thresholds to an answer."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from bot_deploy import open_embedder
from bot_deploy.artifacts import engine_file
from bot_deploy.artifacts.contract import METADATA_KEY, Calibration, Contract, from_json
from bot_deploy.commands import calibrate as command
from bot_deploy.errors import InputError, RunError
from bot_deploy.matching import calibrate
from bot_deploy.matching.verdict import decide, false_accept_rate, gallery_false_accept_rate

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.embedder import Vectors
    from bot_deploy.errors import BotError

CONTRACT = Contract(arch="a", height=8, width=4, dim=3, fingerprint="0" * 16)
CALIBRATION = Calibration(
    data="d", genuine=100, impostor=1000, target=0.01, threshold=0.6, reject_threshold=0.3, false_reject_rate=0.2,
    curve=((0.0, 0.5), (0.5, 0.05), (0.6, 0.01), (0.8, 0.0001)),
)  # fmt: skip


def crowd(people: int, cameras: int, each: int, noise: float, seed: int = 0) -> tuple[Vectors, list[int], list[int]]:
    """Unit vectors around a direction for each person."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(people, 32))
    ids = np.repeat(np.arange(1, people + 1), cameras * each)
    cams = np.tile(np.repeat(np.arange(cameras), each), people)
    vectors = centres[ids - 1] + noise * rng.normal(size=(len(ids), 32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), ids.tolist(), cams.tolist()


# ---- pairs ----


def test_pairs_against_a_naive_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "BLOCK", 7)
    vectors, ids, cams = crowd(6, 3, 2, 0.5)
    ids[:3], ids[9:12] = [-1, -1, -1], [0, 0, 0]  # junk and distractors
    genuine, impostor = np.zeros(calibrate.BINS, int), np.zeros(calibrate.BINS, int)
    for i in range(len(ids)):
        for j in range(i + 1, len(ids)):
            if -1 in {ids[i], ids[j]}:
                continue
            bin_ = int((float(vectors[i].astype(np.float64) @ vectors[j]) + 1) / 2 * calibrate.BINS)
            if ids[i] != ids[j]:
                impostor[bin_] += 1
            elif ids[i] != 0 and cams[i] != cams[j]:
                genuine[bin_] += 1
    pairs = calibrate.count_pairs(vectors, ids, cams)
    assert pairs.genuine.sum() == genuine.sum()
    assert pairs.impostor.sum() == impostor.sum()
    assert calibrate.how_many(ids, cams) == (genuine.sum(), impostor.sum())
    # A cosine on the edge of a bin may fall to either side.
    assert np.abs(np.cumsum(pairs.genuine) - np.cumsum(genuine)).max() <= 1
    assert np.abs(np.cumsum(pairs.impostor) - np.cumsum(impostor)).max() <= 1


def test_equal_vectors_count_at_one() -> None:
    pairs = calibrate.count_pairs(np.eye(3, dtype=np.float32)[[0, 0, 1]], [1, 1, 2], [0, 1, 0])
    assert pairs.genuine[-1] == 1
    assert pairs.impostor[calibrate.BINS // 2] == 2


def test_rates_by_hand() -> None:
    genuine, impostor = np.zeros(calibrate.BINS, np.int64), np.zeros(calibrate.BINS, np.int64)
    impostor[[10, 20, 30, 40]] = [5, 3, 1, 1]
    genuine[[30, 40]] = [1, 3]
    accepted, missed = calibrate.Pairs(genuine, impostor).rates()
    np.testing.assert_allclose(accepted[[0, 10, 11, 20, 21, 30, 31, 40, 41]], [1, 1, 0.5, 0.5, 0.2, 0.2, 0.1, 0.1, 0])
    np.testing.assert_allclose(missed[[0, 30, 31, 40, 41]], [0, 0, 0.25, 0.25, 1])


# ---- thresholds ----


@pytest.mark.parametrize("target", [0.1, 0.01, 0.002])
def test_threshold_is_the_least_that_keeps_the_target(target: float) -> None:
    vectors, ids, cams = crowd(40, 2, 6, 1.0)
    found = calibrate.calibrate(calibrate.count_pairs(vectors, ids, cams), "crowd", target)
    cosines = vectors.astype(np.float64) @ vectors.T
    above = np.triu(np.ones_like(cosines, bool), 1)
    same = np.equal.outer(ids, ids)
    strangers = cosines[above & ~same]
    assert (strangers >= found.threshold).mean() <= target
    assert (strangers >= found.threshold - 2 / calibrate.BINS).mean() > target
    own = cosines[above & same & ~np.equal.outer(cams, cams)]
    assert found.false_reject_rate == pytest.approx((own < found.threshold).mean(), abs=1e-3)
    assert found.reject_threshold <= found.threshold
    assert (own < found.reject_threshold).mean() <= calibrate.MISSED
    assert (found.genuine, found.impostor) == (len(own), len(strangers))
    for cosine, rate in found.curve:
        assert rate == pytest.approx((strangers >= cosine).mean(), rel=1e-3)
    assert [rate for _, rate in found.curve] == sorted((rate for _, rate in found.curve), reverse=True)
    assert found.curve[-1][1] * len(strangers) >= 9


def test_too_few_pairs_are_refused_with_the_remedy() -> None:
    vectors, ids, cams = crowd(10, 2, 3, 0.5)
    pairs = calibrate.count_pairs(vectors, ids, cams)
    with pytest.raises(InputError, match=r"90 pairs of one person before two cameras, but a threshold takes 100"):
        calibrate.calibrate(pairs, "few", 0.1)
    more = calibrate.count_pairs(*crowd(20, 2, 4, 0.5))
    with pytest.raises(InputError, match=r"cannot show a false-accept rate of 1e-05; ask for 0\.009 or more, or"):
        calibrate.calibrate(more, "few", 1e-5)
    for target in (0.0, 1.0, -1, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            calibrate.calibrate(more, "few", target)


def test_threshold_holds_on_other_people() -> None:
    found = calibrate.calibrate(calibrate.count_pairs(*crowd(150, 2, 4, 1.0, seed=1)), "some", 1e-2)
    vectors, ids, _ = crowd(150, 2, 4, 1.0, seed=2)
    cosines = vectors @ vectors.T
    rate = (cosines[~np.equal.outer(ids, ids)] >= found.threshold).mean()
    assert 0.005 <= rate <= 0.02


# ---- the answer ----


@pytest.mark.parametrize(
    ("score", "rate"),
    [(-0.5, 1.0), (0.0, 0.5), (0.25, (0.5 * 0.05) ** 0.5), (0.5, 0.05), (0.7, 0.001), (0.8, 0.0001), (0.99, 0.0001)],
)
def test_rate_between_points_is_geometric(score: float, rate: float) -> None:
    assert false_accept_rate(CALIBRATION, score) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("rate", "size", "chance"),
    [(0.5, 1, 0.5), (0.5, 2, 0.75), (0.01, 100, 1 - 0.99**100), (1.0, 3, 1.0), (1e-9, 1000, 1e-6), (0.3, 0, 0.0)],
)
def test_chance_in_a_gallery(rate: float, size: int, chance: float) -> None:
    assert gallery_false_accept_rate(rate, size) == pytest.approx(chance, rel=1e-3)


@pytest.mark.parametrize(
    ("score", "size", "decision"),
    [
        (0.75, 10, "match"),
        (0.6, 10, "match"),
        (0.59, 10, "uncertain"),
        (0.3, 10, "uncertain"),
        (0.29, 10, "no match"),
        (0.6, 1000, "uncertain"),  # ten strangers in a thousand score as high
        (0.8, 1000, "match"),
        (None, 0, "no match"),
    ],
)
def test_answer(score: float | None, size: int, decision: str) -> None:
    answer = decide(CALIBRATION, score, size)
    assert answer.decision == decision
    assert answer.explanation.startswith(f"{decision}: ")
    if score is not None:
        assert answer.false_accept_rate == pytest.approx(false_accept_rate(CALIBRATION, score))


def test_without_calibration_it_says_so() -> None:
    answer = decide(None, 0.99, 10)
    assert answer.decision == "uncalibrated"
    assert "bot calibrate" in answer.explanation
    assert answer.false_accept_rate is None


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
        calibrate.store(path, replace(CALIBRATION, target=target))
        assert open_embedder(path).contract.calibration == replace(CALIBRATION, target=target)
    before, after = onnx.load(str(onnx_file)), onnx.load(str(path))
    assert [entry.key for entry in after.metadata_props].count(METADATA_KEY) == 1
    del before.metadata_props[:], after.metadata_props[:]
    assert before == after
    crops = np.random.default_rng(0).integers(0, 256, (2, 128, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(open_embedder(path).run(crops), open_embedder(onnx_file).run(crops))


def test_checkpoints_are_not_calibrated(checkpoint_file: Path) -> None:
    with pytest.raises(InputError, match="calibrate what will run"):
        calibrate.store(checkpoint_file, CALIBRATION)


def test_of_an_engine_only_what_is_beside_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    sidecar = engine_file.Sidecar(
        contract=CONTRACT, sha256=hashlib.sha256(b"an engine").hexdigest(), onnx_sha256="1" * 64, package="tensorrt",
        version="10.13.2", archs=("sm89",), profile=(1, 2, 4), precision="fp16",
    )  # fmt: skip
    engine_file.write(path, b"an engine", sidecar)
    path.chmod(0o400)
    before = path.stat()
    calibrate.store(path, CALIBRATION)
    assert engine_file.read(path) == (
        b"an engine",
        replace(sidecar, contract=replace(CONTRACT, calibration=CALIBRATION)),
    )
    assert path.stat() == before


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["{dir}/model.pt"], InputError, "model.pt: calibrate what will run; `bot export` first"),
        (["{model}", "--plot", "{dir}/x.svg"], InputError, "x.svg: a picture ends in .png"),
        (["{model}", "--plot", "{model}/x.png"], RunError, "x.png: cannot be written (File exists)"),
        (["{model}", "--plot", "{dir}/folder.png"], RunError, "folder.png: cannot be written (it is a folder)"),
        (
            ["{model}", "--far", "1e-9"],
            InputError,
            "pairs of different people cannot show a false-accept rate of 1e-09",
        ),
    ],
)
def test_refused_before_anything_is_embedded(
    words: list[str],
    error: type[BotError],
    message: str,
    onnx_file: Path,
    people: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(*arguments: object) -> None:
        raise AssertionError("embedded")

    monkeypatch.setattr("bot_deploy.evaluation.protocol.embed_crops", forbidden)
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_file.read_bytes())
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "model.pt").touch()
    words = [word.format(dir=tmp_path, model=path) for word in words]
    done = CliRunner().invoke(command.calibrate, [*words, "--data", str(people)])
    assert type(done.exception) is error
    assert message in str(done.exception)
    assert path.read_bytes() == onnx_file.read_bytes()
    assert sorted(found.name for found in tmp_path.iterdir()) == ["folder.png", "model.onnx", "model.pt"]


def test_a_model_that_cannot_be_written_is_refused_early(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: path != onnx_file)  # root may write to any
    done = CliRunner().invoke(command.calibrate, [str(onnx_file), "--data", "none"])
    assert str(done.exception) == f"{onnx_file}: cannot be written (it is write-protected)"


def test_without_matplotlib_it_calibrates_all_the_same(
    onnx_file: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_file.read_bytes())
    words = [str(path), "--data", str(people), "--far", "0.05", "--json"]
    done = CliRunner().invoke(command.calibrate, [*words, "--plot", str(tmp_path / "x.png")])
    assert isinstance(done.exception, ModuleNotFoundError)
    done = CliRunner().invoke(command.calibrate, words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["plot"] is None
    assert "nothing will be drawn" in done.stderr
    assert open_embedder(path).contract.calibration is not None
    assert [found.name for found in tmp_path.iterdir()] == ["model.onnx"]


def test_command(onnx_file: Path, people: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_file.read_bytes())
    words = [str(path), "--data", str(people), "--far", "0.05", "--json"]
    done = CliRunner().invoke(command.calibrate, words)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    stored = open_embedder(path).contract.calibration
    assert stored is not None
    assert document["threshold"] == stored.threshold
    assert document["target"] == 0.05
    assert (tmp_path / "model.onnx.calibration.png").read_bytes().startswith(b"\x89PNG")
