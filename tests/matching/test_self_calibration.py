"""Thresholds from tracks, without labels, against plain loops."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from helpers.fake_camera import CONTRACT, DETECTOR, write_colour_model
from helpers.footage_index import CROPS, TILL, TOGETHER, write_footage_index
from helpers.videos import walk, write_lossless

from bot_deploy.artifacts import read_contract
from bot_deploy.commands.calibrate import calibrate as command
from bot_deploy.errors import InputError
from bot_deploy.footage import Footage
from bot_deploy.gallery import open_index
from bot_deploy.matching import self_calibration
from bot_deploy.matching import tracks as tracks_module
from bot_deploy.matching.pairs import BINS
from bot_deploy.matching.self_calibration import bootstrap_threshold, calibrate_by_tracks
from bot_deploy.matching.tracks import Track, pair_across_cameras, read_tracks, score_tracks
from bot_deploy.matching.verdict import make_verdict
from bot_deploy.video import detectors

BIN = 2 / BINS


def draw_people(people: int, dim: int = 3, seed: int = 0, noise: float = 0.2) -> npt.NDArray[np.float32]:
    """Vectors [P, CROPS, D] of unit length; those of one person are alike."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(people, 1, dim)) + noise * rng.normal(size=(people, CROPS, dim))
    return (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).astype(np.float32)


def draw_tracks(people: int, seed: int = 0) -> list[Track]:
    """Tracks of all lengths, in two views."""
    rng = np.random.default_rng(seed)
    tracks = []
    for number, vectors in enumerate(draw_people(people, 8, seed)):
        start, length = float(rng.uniform(0, 2 * people)), float(rng.uniform(0, 12))
        times = np.sort(rng.uniform(start, start + length, CROPS))
        corner = rng.uniform(0, 200, (CROPS, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(20, 200, (CROPS, 2))], axis=1)
        tracks.append(Track(number % 2, f"view {number % 2}", start, start + length, vectors, times, boxes))
    return tracks


def covers(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> bool:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return width > 0 and height > 0 and width * height > 0.5 * smaller


def test_pairs_are_those_of_a_loop() -> None:
    tracks = draw_tracks(80)
    impostors, genuine, left_out, members = [], [], 0, set()
    for one, track in enumerate(tracks):
        for other in range(one):
            second = tracks[other]
            together = min(track.end, second.end) - max(track.start, second.start)
            if track.view != second.view or together <= 0.5:
                continue
            if any(
                abs(track.times[a] - second.times[b]) <= 0.2 and covers(track.boxes[a], second.boxes[b])
                for a in range(CROPS)
                for b in range(CROPS)
            ):
                left_out += 1
                continue
            members |= {one, other}
            impostors += [float(a @ b) for a in track.vectors for b in second.vectors]
        genuine += [
            float(track.vectors[a] @ track.vectors[b])
            for a in range(CROPS)
            for b in range(a)
            if track.times[a] - track.times[b] >= 2
        ]
    scores = score_tracks(tracks)
    assert left_out > 3
    assert sorted(scores.impostors) == pytest.approx(sorted(impostors), abs=1e-6)
    assert sorted(scores.genuine) == pytest.approx(sorted(genuine), abs=1e-6)
    assert scores.tracks == len(members)
    for cosine, first, second in list(zip(scores.impostors, scores.first, scores.second, strict=True))[::50]:
        assert cosine in tracks[first].vectors @ tracks[second].vectors.T


def test_thresholds_are_quantiles_of_the_pairs() -> None:
    scores = score_tracks(draw_tracks(200))
    calibration = calibrate_by_tracks(scores, "x.gallery", {2, 1}, 0.02)
    assert (scores.impostors >= calibration.threshold).mean() <= 0.02
    assert (scores.impostors >= calibration.threshold - 2 * BIN).mean() > 0.02
    assert calibration.false_reject_rate == pytest.approx((scores.genuine < calibration.threshold).mean(), abs=1e-3)
    # Crops of one track say nothing about other cameras: strangers decide what is no match.
    assert np.quantile(scores.genuine, 0.05) > calibration.threshold
    assert calibration.reject_threshold == pytest.approx(np.median(scores.impostors), abs=2 * BIN)
    assert (calibration.is_labelled, calibration.cameras) == (False, (1, 2))
    assert (calibration.impostor_pairs, calibration.genuine_pairs) == (len(scores.impostors), len(scores.genuine))


def on_two_cameras(people: int, noise: float) -> list[Track]:
    """Everybody on both cameras, a little changed; on each of them all are in view together."""
    tracks = []
    for camera, seed in (("entrance", 1), ("till", 2)):
        changes = noise * np.random.default_rng(seed).normal(size=(people, CROPS, 16))
        for number, vectors in enumerate(draw_people(people, 16) + changes):
            unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
            boxes = np.tile([100.0 * number, 0, 100 * number + 50, 150], (CROPS, 1))
            tracks.append(Track(camera, camera, 0, 9, unit, np.arange(CROPS) * 3.0, boxes))
    return tracks


def test_pairs_across_cameras_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracks_module, "ROWS_AT_ONCE", 7)
    tracks = on_two_cameras(60, 0.3)
    alone = replace(tracks[0], camera="yard")  # one track on a camera has no second nearest
    pairs, possible = pair_across_cameras([*tracks, alone])
    means = [track.vectors.astype(np.float64).mean(0) for track in tracks]
    expected = []
    for one in range(60):
        for other in range(60, 120):
            there = sorted((1 - cosine(means[one], means[number]), number) for number in range(60, 120))
            back = sorted((1 - cosine(means[other], means[number]), number) for number in range(60))
            if (there[0][1], back[0][1]) == (other, one) and all(a[0][0] < 0.7 * a[1][0] for a in (there, back)):
                expected.append((one, other))
    assert pairs == expected
    assert possible == 60
    assert 10 < len(pairs) < 55
    assert sum(other == one + 60 for one, other in pairs) > 0.9 * len(pairs)
    scores = score_tracks([*tracks, alone])
    assert (scores.pairs_across, scores.share_across) == (len(pairs), len(pairs) / 60)
    assert sorted(scores.across) == pytest.approx(
        sorted(float(a @ b) for one, other in pairs for a in tracks[one].vectors for b in tracks[other].vectors),
        abs=1e-6,
    )


def cosine(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def test_pairs_across_cameras_are_the_genuine_ones_where_there_are_enough() -> None:
    scores = score_tracks(on_two_cameras(60, 0.3))
    calibration = calibrate_by_tracks(scores, "x", (), 0.02)
    assert calibration.genuine_pairs == len(scores.across)
    assert calibration.false_reject_rate == pytest.approx((scores.across < calibration.threshold).mean(), abs=1e-3)
    few = replace(scores, pairs_across=19)
    rare = replace(scores, share_across=0.09)
    for other in (few, rare, replace(scores, across=scores.across[:99])):
        calibration = calibrate_by_tracks(other, "x", (), 0.02)
        assert calibration.genuine_pairs == len(scores.genuine)
        assert calibration.false_reject_rate == pytest.approx((scores.genuine < calibration.threshold).mean(), abs=1e-3)
    # Two cameras that show other people give few pairs.
    assert score_tracks(on_two_cameras(60, 0.3)[:30] + on_two_cameras(60, 0.3)[90:]).share_across < 0.1


def test_the_interval_is_that_of_drawn_tracks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against copies of the tracks: a pair of two tracks that are drawn twice and three times counts six times."""
    scores = score_tracks(draw_tracks(60, seed=3))
    monkeypatch.setattr(self_calibration, "BOOTSTRAPS", 20)
    members = np.unique([scores.first, scores.second])
    rng = np.random.default_rng(0)
    expected = []
    for _ in range(20):
        copies = np.bincount(rng.integers(len(members), size=len(members)), minlength=len(members))
        weight = dict(zip(members.tolist(), copies.tolist(), strict=True))
        drawn = [
            cosine
            for cosine, first, second in zip(scores.impostors, scores.first, scores.second, strict=True)
            for _ in range(weight[int(first)] * weight[int(second)])
        ]
        expected.append(sorted(drawn, reverse=True)[int(0.05 * len(drawn))])
    assert bootstrap_threshold(scores, 0.05) == pytest.approx(np.percentile(expected, (2.5, 97.5)), abs=1e-5)


def test_more_people_make_the_interval_narrower() -> None:
    widths = []
    for people in (80, 800):
        calibration = calibrate_by_tracks(score_tracks(draw_tracks(people)), "x", (), 0.05)
        assert calibration.threshold_interval
        low, high = calibration.threshold_interval
        assert low <= calibration.threshold <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_too_few_pairs_are_refused_with_the_remedy() -> None:
    scores = score_tracks(draw_tracks(200))
    few = score_tracks(draw_tracks(12))
    with pytest.raises(InputError, match=r"people are in view of one camera together .* at least 20 .*index more"):
        calibrate_by_tracks(few, "x", (), 0.1)
    with pytest.raises(InputError, match=r"choose 0\.0[0-9]+ or more, or index more footage") as refused:
        calibrate_by_tracks(scores, "x", (), 1e-4)
    assert refused.value.parameter == "far"
    with pytest.raises(InputError, match="only 50 pairs of crops of one person"):
        calibrate_by_tracks(replace(scores, genuine=scores.genuine[:50]), "x", (), 0.1)
    with pytest.raises(InputError, match="between 0 and 1"):
        calibrate_by_tracks(scores, "x", (), 0.0)
    empty = np.zeros(0, np.int64)
    with pytest.raises(InputError, match="only 0 people"):
        calibrate_by_tracks(
            replace(scores, impostors=scores.impostors[:0], first=empty, second=empty, tracks=0), "x", (), 0.1
        )


def test_tracks_are_those_of_the_index(tmp_path: Path) -> None:
    people = draw_people(30)
    write_footage_index(tmp_path / "x.gallery", CONTRACT, people)
    with open_index(tmp_path / "x.gallery", CONTRACT) as index:
        index.remove([item.path for item in index.items() if "/0002/" in item.path])
        footage = Footage(index)
        tracks = read_tracks(index, footage)
    assert len(tracks) == 2 * 29
    assert tracks[1].vectors == pytest.approx(people[2], abs=1e-3)
    assert tracks[1].times.tolist() == [0, 3, 6, 9]
    assert tracks[1].boxes[0].tolist() == [200, 0, 250, 150]
    # Three in view at one time are three pairs; where one was forgotten, there is one. Two cameras.
    assert len(score_tracks(tracks).impostors) == 2 * (9 * 3 + 1) * CROPS**2
    assert TOGETHER == 3


def test_command_without_labels(tmp_path: Path) -> None:
    model = write_colour_model(tmp_path / "model.onnx")
    write_footage_index(tmp_path / "x.gallery", CONTRACT, draw_people(60))
    arguments = [str(model), "--gallery", str(tmp_path / "x.gallery"), "--far", "0.05", "--json"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    stored = read_contract(model).calibration
    assert stored
    assert stored.threshold_interval
    assert document["threshold"] == stored.threshold
    assert document["is_labelled"] is False
    assert stored.cameras == (1, TILL)
    assert "120 appearances, cameras: 2; no labels are used" in result.stderr
    assert f"(95 % interval {stored.threshold_interval[0]:.4f} to" in result.stderr
    assert make_verdict(stored, 1.0, 1).decision == "match"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one of labelled crops"),
        (["--gallery", "x.gallery", "--footage", "yard"], "give one of labelled crops"),
        (["--gallery", "x.gallery", "--detector", "hog"], "only videos are searched for people"),
        (["--gallery", "none.gallery"], "none.gallery: no such"),
        (["--footage", "none.mp4"], "none.mp4: no such"),
        (["--gallery", "x.gallery"], "only 6 people are in view of one camera together"),
        (["--footage", "yard"], "only 2 people are in view of one camera together"),
    ],
)
def test_what_cannot_be_calibrated(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(detectors, "open_detector", lambda *_, **__: DETECTOR)
    monkeypatch.chdir(tmp_path)
    model = write_colour_model(tmp_path / "model.onnx")
    write_footage_index(tmp_path / "x.gallery", CONTRACT, draw_people(3))
    write_lossless(tmp_path / "yard" / "x.mkv", walk(10))
    before = model.read_bytes()
    result = CliRunner().invoke(command, [str(model), *words])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert model.read_bytes() == before
