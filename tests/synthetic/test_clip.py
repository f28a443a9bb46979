"""The synthetic clip: reproducible frames, correct ground truth, and the files of a clip."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from bot_deploy import cli, synthetic
from bot_deploy.synthetic import clip as clip_module
from bot_deploy.synthetic import dataset_plan
from bot_deploy.synthetic.cameras import CAMERAS
from bot_deploy.synthetic.clip import Clip, gallery_crops, light_at, plan_clip
from bot_deploy.synthetic.trajectories import (
    Trajectory,
    plan_groups,
    plan_trajectories,
    select_people,
    walking_distances,
)

if TYPE_CHECKING:
    from pathlib import Path

    from bot_deploy.synthetic.cameras import Camera

SMALL = {"people": 4, "seconds": 1, "fps": 10, "height": 180}
OPTIONS = [argument for name, value in SMALL.items() for argument in (f"--{name}", str(value))]


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def straight_trajectory(camera: Camera, identity: int, *points: tuple[float, float]) -> Trajectory:
    """A person who walks from point to point (metres to the right of `camera`, metres away) at one metre per second."""
    person = dict(select_people(0, 8))[identity]
    distances = np.concatenate(((0,), np.cumsum(np.hypot(*np.diff(points, axis=0).T))))
    even_distances = np.arange(0, distances[-1], 0.1)
    path = np.stack([np.interp(even_distances, distances, column) for column in np.array(points).T], axis=1)
    return Trajectory(identity, person, camera, 0.0, 1.0, path)


def clip_of(*trajectories: Trajectory, height: int = 540) -> Clip:
    return Clip(0, (trajectories[0].camera,), trajectories, 200, 10, height)


def test_frames_are_the_same_in_any_order() -> None:
    first, again, other = (plan_clip(seed, people=6, height=180) for seed in (3, 3, 4))
    requests = [(camera, number) for camera in (1, 2) for number in (10, 90)]
    frames = {request: first.render_frame(*request) for request in requests}
    for request in reversed(requests):
        frame = again.render_frame(*request)
        assert frame.picture.dtype == np.uint8
        assert frame.picture.shape == (180, 320, 3)
        assert np.array_equal(frame.picture, frames[request].picture)
        assert frame.people == frames[request].people
        assert not np.array_equal(frame.picture, other.render_frame(*request).picture)


def test_boxes_enclose_the_drawn_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_module, "draw_shadow", lambda *_: None)
    near, far = walking_distances(CAMERAS[1])
    trajectory = straight_trajectory(CAMERAS[1], 128, (-5, far), (0, 0.5 * (near + far)), (1.5, near), (5, near))
    alone = clip_of(trajectory)
    empty = replace(alone, trajectories=())
    checked = 0
    for number in range(0, 100, 9):
        frame = alone.render_frame(1, number)
        changed = np.abs(frame.picture.astype(int) - empty.render_frame(1, number).picture).max(axis=2) > 30
        if not frame.people:
            assert changed.sum() < 20
            continue
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        (person,) = frame.people
        box = person.left, person.top, person.right, person.bottom
        drawn = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        assert np.abs(np.subtract(box, drawn)).max() <= 3, (number, box, drawn)
        is_cut = person.left == 0 or person.right == alone.width
        assert person.visible == 1 or is_cut
        checked += 1
    assert checked > 5


def test_a_nearer_person_stands_lower_and_is_taller() -> None:
    for camera in CAMERAS[:2]:
        near, far = walking_distances(camera)
        coming = clip_of(straight_trajectory(camera, 125, (0.3, far), (0.3, near - 0.2)))
        people = [coming.render_frame(1, number).people[0] for number in range(0, int(10 * (far - near)), 8)]
        assert len(people) >= 3
        for before, after in pairwise(people):
            assert after.bottom > before.bottom
            assert after.bottom - after.top > before.bottom - before.top
        # The height is proportional to the distance below the horizon, except for the phase of the gait.
        heights = [person.bottom - person.top for person in (people[0], people[-1])]
        below = [person.bottom - 0.75 * camera.horizon_row for person in (people[0], people[-1])]
        assert heights[1] / heights[0] == pytest.approx(below[1] / below[0], rel=0.12)


def test_a_nearer_person_occludes_a_farther_person() -> None:
    camera = CAMERAS[1]
    behind = straight_trajectory(camera, 121, (-0.5, 5.6), (3, 5.6))
    in_front = straight_trajectory(camera, 128, (-0.45, 5.0), (3, 5.0))
    both = clip_of(in_front, behind).render_frame(1, 5)
    alone = clip_of(in_front).render_frame(1, 5)
    assert [person.identity for person in both.people] == [121, 128], "from far to near"
    assert both.people[1].visible == 1
    assert both.people[1] == alone.people[0]
    assert 0 < both.people[0].visible < 0.7
    farther = clip_of(behind).render_frame(1, 5).people[0]
    assert replace(both.people[0], visible=1.0) == farther, "the box covers the whole person"
    person = alone.people[0]
    middle = (
        slice(person.top + 60, person.top + 90),
        slice((person.left + person.right) // 2 - 5, (person.left + person.right) // 2),
    )
    assert np.array_equal(both.picture[middle], alone.picture[middle])


def test_people_return_to_the_same_camera_and_go_to_another() -> None:
    trajectories = plan_trajectories(0, 8, 2, 20)
    same_camera, other_camera = 0, 0
    for identity in {trajectory.identity for trajectory in trajectories}:
        own = [trajectory for trajectory in trajectories if trajectory.identity == identity]
        assert len(own) >= 2
        for before, after in pairwise(own):
            assert before.end < after.start
            same_camera += before.camera is after.camera
            other_camera += before.camera is not after.camera
    assert same_camera
    assert other_camera


@pytest.mark.parametrize("groups", [0.0, 1.0])
def test_trajectories_begin_and_end_outside_the_picture(groups: float) -> None:
    whole = plan_clip(people=3, cameras=6, height=180, groups=groups)
    for trajectory in whole.trajectories:
        alone = clip_of(replace(trajectory, start=0.0), height=180)
        last = int((trajectory.end - trajectory.start) * alone.fps)
        assert not alone.render_frame(1, 0).people
        assert not alone.render_frame(1, last).people
        assert alone.render_frame(1, last // 2).people


def test_people_of_a_group_walk_side_by_side_all_the_time() -> None:
    assert [list(group) for group in plan_groups(8, 0.8)] == [[0, 1], [2, 3, 4], [5], [6], [7]]
    trajectories = plan_trajectories(0, 5, 2, 30, groups=1.0)
    selected = [identity for identity, _ in select_people(0, 5)]
    visits = {identity: [one for one in trajectories if one.identity == identity] for identity in selected}
    for leader, *others in (selected[:2], selected[2:]):
        for place, other in enumerate(others, 1):
            for first, second in zip(visits[leader], visits[other], strict=True):
                assert second.camera is first.camera
                assert second.path[:, 1].mean() > first.path[:, 1].mean(), "on the side away from the camera"
                for time in np.arange(first.start + 0.5, first.end, 0.5):
                    ours, theirs = first.placement_at(time), second.placement_at(time)
                    assert ours is not None
                    assert theirs is not None
                    apart = np.hypot(ours.right - theirs.right, ours.away - theirs.away)
                    # 0.55 m to the side for each place, and a step or two behind
                    assert 0.5 * place < apart < 1.0 * place
    assert trajectories != plan_trajectories(0, 5, 2, 30)


def test_people_return_in_another_light() -> None:
    steady, changing = (
        plan_clip(people=1, seconds=40, fps=1, height=180, changing_light=light) for light in (False, True)
    )
    empty = [replace(clip, trajectories=()) for clip in (steady, changing)]
    red_green_blue = np.array(
        [[clip.render_frame(1, number).picture.mean(axis=(0, 1)) for number in range(40)] for clip in empty]
    )
    assert np.ptp(red_green_blue[0], axis=0).max() < 1, "only noise"
    assert red_green_blue[1].sum(axis=1).max() > 1.5 * red_green_blue[1].sum(axis=1).min()
    warmth = red_green_blue[1, :, 0] / red_green_blue[1, :, 2]
    assert warmth.max() > 1.15 * warmth.min()
    # By hand: the first camera is 0.7 stops brighter when 0.37 + t / 37 is a quarter more than a whole number.
    assert light_at(1, (1.25 - 0.37) * 37)[1] == pytest.approx(2**0.7)
    assert changing.render_frame(1, 20).people == steady.render_frame(1, 20).people


def test_a_short_clip_contains_all_people() -> None:
    for people in (1, 2, 12):
        short = plan_clip(people=people, seconds=1, fps=5, height=180)
        assert len(short.people) == people
        assert short.frames == 5


def test_people_are_test_identities_of_the_data_set() -> None:
    queries = {
        crop.person_number: crop.person
        for crop in dataset_plan.plan_dataset(120, 60, 2, 5)
        if crop.folder == dataset_plan.QUERY
    }
    people = plan_clip(5, people=10).people
    assert all(queries[identity] == person for identity, person in people.items())
    assert len({person.palette for person in people.values()}) == 10, (
        "different colours, as long as there are unused ones"
    )


def test_cameras_give_the_same_scene_different_colours() -> None:
    grey = np.full((90, 160, 3), 0.5, dtype=np.float32)
    means = [
        clip_module._camera_response(camera, 90).apply(grey, np.random.default_rng(0)).reshape(-1, 3).mean(axis=0)
        for camera in CAMERAS
    ]
    for number, mean in enumerate(means):
        assert all(np.abs(mean - other).max() > 4 for other in means[:number])


def test_gallery_crops_are_large_and_upright() -> None:
    whole = plan_clip(people=1)
    crops = gallery_crops(whole, next(iter(whole.people)))
    assert len(crops) == 3
    for crop in crops:
        assert crop.shape[0] > 200
        assert 1.5 < crop.shape[0] / crop.shape[1] < 4


def test_a_missing_frame_is_an_index_error() -> None:
    whole = plan_clip(people=1, seconds=1, height=180)
    for camera, number in ((0, 0), (3, 0), (1, -1), (1, 25)):
        with pytest.raises(IndexError):
            whole.render_frame(camera, number)


def test_the_command_writes_videos_truth_and_gallery(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "clip"
    with pytest.raises(SystemExit) as done:
        cli.main(["synthetic", str(out), "--clip", "--cameras", "3", *OPTIONS])
    assert done.value.code == 0
    assert capsys.readouterr() == ("", f"wrote {out}\n")
    same = plan_clip(cameras=3, **SMALL)  # type: ignore[arg-type]
    with (out / "truth.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for camera in (1, 2, 3):
        video = cv2.VideoCapture(str(out / f"cam{camera}.mp4"))
        assert video.get(cv2.CAP_PROP_FPS) == 10
        for number in range(10):
            read, picture = video.read()
            assert read
            frame = same.render_frame(camera, number)
            assert picture.shape == (180, 320, 3)
            assert np.abs(picture[:, :, ::-1].astype(int) - frame.picture).mean() < 10
            truth = [row for row in rows if (row["camera"], row["frame"]) == (str(camera), str(number))]
            assert [
                (int(row["identity"]), *(int(row[edge]) for edge in ("left", "top", "right", "bottom")))
                for row in truth
            ] == [(person.identity, person.left, person.top, person.right, person.bottom) for person in frame.people]
            assert all(float(row["time"]) == number / 10 for row in truth)
            assert all(0 <= float(row["visible"]) <= 1 for row in truth)
        assert not video.read()[0]
        video.release()
    assert sorted(path.name for path in out.iterdir()) == ["cam1.mp4", "cam2.mp4", "cam3.mp4", "gallery", "truth.csv"]
    crops = [path.relative_to(out / "gallery").as_posix() for path in sorted(out.glob("gallery/*/*"))]
    assert crops == [
        f"{identity:04d}/{identity:04d}_cam1_{number}.png" for identity in same.people for number in (1, 2, 3)
    ]
    assert cv2.imread(str(out / "gallery" / crops[0])) is not None


def test_the_same_arguments_write_the_same_bytes_and_report_progress(tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    for name in ("a", "b"):
        synthetic.generate_clip(tmp_path / name, progress=lambda *report: reports.append(report), **SMALL)  # type: ignore[arg-type]
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert reports == 2 * [(done, 20) for done in range(1, 21)]


def test_an_interrupted_clip_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthetic.generate_clip(tmp_path / "clip", progress=stop, **SMALL)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clip", "--people", "0"], "people is 0; choose 1 to 60 (--people)"),
        (["--clip", "--cameras", "7"], "cameras is 7; choose 1 to 6 (--cameras)"),
        (["--clip", "--seconds", "nan"], "seconds is nan; choose 0.1 to 3600 (--seconds)"),
        (["--clip", "--fps", "0"], "fps is 0; choose 1 to 60 (--fps)"),
        (["--clip", "--height", "541"], "height is 541; choose an even number, as video files need (--height)"),
        (["--clip", "--height", "20"], "height is 20; choose 180 to 1080 (--height)"),
        (["--clip", "--groups", "1.5"], "groups is 1.5; choose 0 to 1 (--groups)"),
        (["--changing-light"], "--changing-light needs --clip"),
        (["--clip", "--seed", "-1"], "seed is -1; choose 0 or more (--seed)"),
        (["--clip", "--test-identities", "3"], "--test-identities has no effect with --clip"),
        (["--cameras", "2"], "--cameras needs --clip"),
    ],
)
def test_a_number_outside_its_limits_is_an_error_on_one_line(
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
