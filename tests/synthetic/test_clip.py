"""The synthetic clip: that it repeats, that its truth is true, and the files it is written to."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from bot_deploy import cli, synthetic
from bot_deploy.synthetic import clip as clips
from bot_deploy.synthetic import dataset
from bot_deploy.synthetic.cameras import CAMERAS
from bot_deploy.synthetic.clip import Clip, clip, portraits
from bot_deploy.synthetic.walks import Walk, choose, near_and_far, plan

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.synthetic.cameras import Camera

SMALL = {"people": 4, "seconds": 1, "fps": 10, "height": 180}
OPTIONS = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def straight(camera: Camera, identity: int, *points: tuple[float, float]) -> Walk:
    """Somebody who walks from point to point, metres to the right of `camera` and away, at a metre a second."""
    person = dict(choose(0, 8))[identity]
    gone = np.concatenate(((0,), np.cumsum(np.hypot(*np.diff(points, axis=0).T))))
    even = np.arange(0, gone[-1], 0.1)
    path = np.stack([np.interp(even, gone, column) for column in np.array(points).T], axis=1)
    return Walk(identity, person, camera, 0.0, 1.0, path)


def filmed(*walks: Walk, height: int = 540) -> Clip:
    return Clip(0, (walks[0].camera,), walks, 100, 10, height)


def test_the_same_frames_in_any_order() -> None:
    first, again, other = (clip(seed, people=6, height=180) for seed in (3, 3, 4))
    shots = [(camera, number) for camera in (1, 2) for number in (10, 90)]
    frames = {shot: first.frame(*shot) for shot in shots}
    for shot in reversed(shots):
        frame = again.frame(*shot)
        assert frame.picture.dtype == np.uint8
        assert frame.picture.shape == (180, 320, 3)
        assert np.array_equal(frame.picture, frames[shot].picture)
        assert frame.people == frames[shot].people
        assert not np.array_equal(frame.picture, other.frame(*shot).picture)


def test_boxes_enclose_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "shadow", lambda *_: None)
    near, far = near_and_far(CAMERAS[1])
    walk = straight(CAMERAS[1], 128, (-5, far), (0, 0.5 * (near + far)), (1.5, near), (5, near))
    alone = filmed(walk)
    empty = replace(alone, walks=())
    checked = 0
    for number in range(0, 100, 9):
        frame = alone.frame(1, number)
        changed = np.abs(frame.picture.astype(int) - empty.frame(1, number).picture).max(axis=2) > 30
        if not frame.people:
            assert changed.sum() < 20
            continue
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        (seen,) = frame.people
        box = seen.left, seen.top, seen.right, seen.bottom
        drawn = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        assert np.abs(np.subtract(box, drawn)).max() <= 3, (number, box, drawn)
        edges = seen.left == 0 or seen.right == alone.width
        assert seen.visible == 1 or edges
        checked += 1
    assert checked > 5


def test_who_comes_closer_stands_lower_and_is_taller() -> None:
    for camera in CAMERAS[:2]:
        near, far = near_and_far(camera)
        coming = filmed(straight(camera, 125, (0.3, far), (0.3, near - 0.2)))
        found = [coming.frame(1, number).people[0] for number in range(0, int(10 * (far - near)), 8)]
        assert len(found) >= 3
        for before, after in pairwise(found):
            assert after.bottom > before.bottom
            assert after.bottom - after.top > before.bottom - before.top
        # The height follows the distance from the horizon, give or take a step.
        heights = [seen.bottom - seen.top for seen in (found[0], found[-1])]
        below = [seen.bottom - 0.75 * camera.horizon for seen in (found[0], found[-1])]
        assert heights[1] / heights[0] == pytest.approx(below[1] / below[0], rel=0.12)


def test_the_nearer_one_hides_the_farther_one() -> None:
    camera = CAMERAS[1]
    behind, before = straight(camera, 121, (-0.5, 5.6), (3, 5.6)), straight(camera, 128, (-0.45, 5.0), (3, 5.0))
    both = filmed(before, behind).frame(1, 5)
    alone = filmed(before).frame(1, 5)
    assert [seen.identity for seen in both.people] == [121, 128], "from far to near"
    assert both.people[1].visible == 1
    assert both.people[1] == alone.people[0]
    assert 0 < both.people[0].visible < 0.7
    farther = filmed(behind).frame(1, 5).people[0]
    assert replace(both.people[0], visible=1.0) == farther, "the box is of the whole person"
    seen = alone.people[0]
    middle = (
        slice(seen.top + 60, seen.top + 90),
        slice((seen.left + seen.right) // 2 - 5, (seen.left + seen.right) // 2),
    )
    assert np.array_equal(both.picture[middle], alone.picture[middle])


def test_people_return_before_the_same_and_before_another_camera() -> None:
    walks = plan(0, 8, 2, 20)
    kept, changed = 0, 0
    for identity in {walk.identity for walk in walks}:
        own = [walk for walk in walks if walk.identity == identity]
        assert len(own) >= 2
        for before, after in pairwise(own):
            assert before.end < after.start
            kept += before.camera is after.camera
            changed += before.camera is not after.camera
    assert kept
    assert changed


def test_walks_begin_and_end_out_of_the_picture() -> None:
    whole = clip(people=3, cameras=6, height=180)
    for walk in whole.walks:
        alone = filmed(replace(walk, start=0.0), height=180)
        last = int((walk.end - walk.start) * alone.fps)
        assert not alone.frame(1, 0).people
        assert not alone.frame(1, last).people
        assert alone.frame(1, last // 2).people


def test_everybody_is_in_even_a_short_clip() -> None:
    for people in (1, 2, 12):
        short = clip(people=people, seconds=1, fps=5, height=180)
        assert len(short.people) == people
        assert short.frames == 5


def test_they_are_the_people_of_the_data_set() -> None:
    asked = {shot.identity: shot.person for shot in dataset.plan(120, 60, 2, 5) if shot.folder == dataset.QUERY}
    people = clip(5, people=10).people
    assert all(asked[identity] == person for identity, person in people.items())
    assert len({person.palette for person in people.values()}) == 10, "in different colours, while there are some"


def test_cameras_see_the_same_thing_in_another_light() -> None:
    grey = np.full((90, 160, 3), 0.5, dtype=np.float32)
    means = [
        clips._film(camera, 90).develop(grey, np.random.default_rng(0)).reshape(-1, 3).mean(axis=0)
        for camera in CAMERAS
    ]
    for number, mean in enumerate(means):
        assert all(np.abs(mean - other).max() > 4 for other in means[:number])


def test_portraits_are_clear_crops() -> None:
    whole = clip(people=1)
    crops = portraits(whole, next(iter(whole.people)))
    assert len(crops) == 3
    for crop in crops:
        assert crop.shape[0] > 200
        assert 1.5 < crop.shape[0] / crop.shape[1] < 4


def test_a_frame_that_is_not_there_is_refused() -> None:
    whole = clip(people=1, seconds=1, height=180)
    for camera, number in ((0, 0), (3, 0), (1, -1), (1, 25)):
        with pytest.raises(IndexError):
            whole.frame(camera, number)


def test_the_command_writes_videos_truth_and_gallery(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "clip"
    with pytest.raises(SystemExit) as done:
        cli.main(["synthetic", str(out), "--clip", "--cameras", "3", *OPTIONS])
    assert done.value.code == 0
    assert capsys.readouterr() == ("", f"wrote {out}\n")
    same = clip(cameras=3, **SMALL)  # type: ignore[arg-type]
    with (out / "truth.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for camera in (1, 2, 3):
        video = cv2.VideoCapture(str(out / f"cam{camera}.mp4"))
        assert video.get(cv2.CAP_PROP_FPS) == 10
        for number in range(10):
            read, picture = video.read()
            assert read
            frame = same.frame(camera, number)
            assert picture.shape == (180, 320, 3)
            assert np.abs(picture[:, :, ::-1].astype(int) - frame.picture).mean() < 10
            told = [row for row in rows if (row["camera"], row["frame"]) == (str(camera), str(number))]
            assert [
                (int(row["identity"]), *(int(row[edge]) for edge in ("left", "top", "right", "bottom"))) for row in told
            ] == [(seen.identity, seen.left, seen.top, seen.right, seen.bottom) for seen in frame.people]
            assert all(float(row["time"]) == number / 10 for row in told)
            assert all(0 <= float(row["visible"]) <= 1 for row in told)
        assert not video.read()[0]
        video.release()
    assert sorted(path.name for path in out.iterdir()) == ["cam1.mp4", "cam2.mp4", "cam3.mp4", "gallery", "truth.csv"]
    crops = [path.relative_to(out / "gallery").as_posix() for path in sorted(out.glob("gallery/*/*"))]
    assert crops == [f"{who:04d}/{who:04d}_cam1_{number}.png" for who in same.people for number in (1, 2, 3)]
    assert cv2.imread(str(out / "gallery" / crops[0])) is not None


def test_the_same_bytes_and_progress(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    for name in ("a", "b"):
        synthetic.generate_clip(tmp_path / name, progress=lambda *done: told.append(done), **SMALL)  # type: ignore[arg-type]
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert told == 2 * [(done, 20) for done in range(1, 21)]


def test_an_interrupted_clip_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthetic.generate_clip(tmp_path / "clip", progress=stop, **SMALL)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clip", "--people", "0"], "people is 0; choose 1 to 60"),
        (["--clip", "--cameras", "7"], "cameras is 7; choose 1 to 6"),
        (["--clip", "--seconds", "nan"], "seconds is nan; choose 0.1 to 3600"),
        (["--clip", "--fps", "0"], "fps is 0; choose 1 to 60"),
        (["--clip", "--height", "541"], "height is 541; a video needs an even one"),
        (["--clip", "--height", "20"], "height is 20; choose 180 to 1080"),
        (["--clip", "--seed", "-1"], "seed is -1; choose one from 0"),
        (["--clip", "--test-identities", "3"], "--test-identities is of crops, not of a clip"),
        (["--cameras", "2"], "--cameras needs --clip"),
    ],
)
def test_what_cannot_be_filmed_is_refused_on_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["synthetic", str(tmp_path / "clip"), *options])
    assert done.value.code == 2
    assert capsys.readouterr().err == f"bot: {message}\n"
    assert not any(tmp_path.iterdir())


def test_a_folder_with_files_is_refused_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(SystemExit) as done:
        cli.main(["synthetic", str(tmp_path), "--clip"])
    assert done.value.code == 2
    assert capsys.readouterr().err == f"bot: {tmp_path} is not an empty folder; choose another one or empty it\n"
    assert list(files(tmp_path)) == ["keep.txt"]
