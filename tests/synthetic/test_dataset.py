"""The synthetic data set: its layout, the same bytes for a seed, and that colours alone do not identify people."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from bot_deploy import synthetic
from bot_deploy.errors import InputError
from bot_deploy.synthetic import dataset_plan
from bot_deploy.synthetic.appearance import sample_group
from bot_deploy.synthetic.body import Viewpoint, draw_person
from bot_deploy.synthetic.cameras import CAMERAS
from bot_deploy.synthetic.pose import walking_pose

if TYPE_CHECKING:
    from pathlib import Path

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def identity_and_camera(path: Path) -> tuple[int, int]:
    """Identity and camera in the file name."""
    identity, camera = path.name.split("_")[:2]
    return int(identity), int(camera[1])


def crops(root: Path, folder: str) -> list[Path]:
    return sorted((root / folder).iterdir())


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    image = cv2.imread(str(path))
    assert image is not None
    return np.asarray(image, dtype=np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "set"
    synthetic.generate_dataset(out, train_identities=6, test_identities=24, images_per_camera=3, workers=1)
    return out


def test_the_number_of_workers_changes_no_bytes(tmp_path: Path) -> None:
    for workers in (1, 2):
        synthetic.generate_dataset(
            tmp_path / str(workers), train_identities=1, test_identities=2, images_per_camera=2, seed=3, workers=workers
        )
    assert files(tmp_path / "1") == files(tmp_path / "2")


def test_another_seed_gives_other_pictures() -> None:
    first, again, other = (dataset_plan.plan_dataset(1, 1, 2, seed)[0] for seed in (0, 0, 1))
    assert first.render() == again.render()
    assert first.render() != other.render()


def test_names_and_sizes_are_as_in_market(root: Path) -> None:
    assert sorted(path.name for path in root.iterdir()) == sorted(FOLDERS)
    names = [path.name for folder in FOLDERS for path in crops(root, folder)]
    assert len(names) == len(set(names))
    for name in names:
        assert re.fullmatch(r"(\d{4}|-1)_c[1-6]s1_\d{6}_\d{2}\.jpg", name), name
    for folder in FOLDERS:
        assert pixels(crops(root, folder)[0]).shape == (128, 64, 3)
    assert crops(root, "query")[0].read_bytes()[:3] == b"\xff\xd8\xff"


def test_identities_of_train_and_test_are_disjoint(root: Path) -> None:
    train, query, gallery = ({identity_and_camera(path)[0] for path in crops(root, folder)} for folder in FOLDERS)
    assert len(train) == 6
    assert len(query) == 24
    assert not train & (query | gallery)
    assert gallery - query == {0, -1}


def test_each_query_has_a_match_from_another_camera(root: Path) -> None:
    queries = [identity_and_camera(path) for path in crops(root, "query")]
    gallery = {identity_and_camera(path) for path in crops(root, "bounding_box_test")}
    assert len(queries) == len(set(queries)), "one query for each identity and camera"
    assert set(queries) == {pair for pair in gallery if pair[0] > 0}
    cameras = defaultdict(set)
    for identity, camera in queries:
        cameras[identity].add(camera)
    assert all(3 <= len(seen) <= 6 for seen in cameras.values())


def test_the_gallery_holds_distractors_and_junk(root: Path) -> None:
    identities = [identity_and_camera(path)[0] for path in crops(root, "bounding_box_test")]
    assert identities.count(0) >= 20
    assert identities.count(-1) >= 20


@pytest.mark.parametrize("content", ["keep.txt", "query/0001_c1s1_000001_01.jpg"])
def test_a_folder_with_files_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    kept = tmp_path / content
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        synthetic.generate_dataset(tmp_path, train_identities=1, test_identities=1, images_per_camera=2, workers=1)
    assert list(files(tmp_path)) == [content]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    synthetic.generate_dataset(
        tmp_path / "set", train_identities=1, test_identities=1, images_per_camera=2, workers=1,
        progress=lambda done, total: reports.append((done, total)),
    )  # fmt: skip
    empty = tmp_path / "empty"
    empty.mkdir()
    synthetic.generate_dataset(empty, train_identities=1, test_identities=1, images_per_camera=2, workers=1)
    assert files(empty) == files(tmp_path / "set")
    assert reports[-1] == (len(files(empty)), len(files(empty)))


@pytest.mark.parametrize(
    "counts",
    [{"train_identities": 0}, {"test_identities": 0}, {"images_per_camera": 1}, {"seed": -1}, {"workers": 0}],
)
def test_numbers_outside_their_limits_are_refused(tmp_path: Path, counts: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        synthetic.generate_dataset(tmp_path / "set", **counts)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, workers: int) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthetic.generate_dataset(
            tmp_path / "set", train_identities=2, test_identities=2, images_per_camera=2, workers=workers, progress=stop
        )
    assert not any(tmp_path.iterdir())


def test_people_of_a_group_share_colours_and_differ_in_clothes() -> None:
    people = [crop.person for crop in dataset_plan.plan_dataset(12, 4, 2, 0)]
    groups = defaultdict(set)
    for person in people:
        groups[person.palette].add(person)
    shared = [group for group in groups.values() if len(group) >= 3]
    assert len(shared) >= 3
    for group in shared:
        looks = {(person.cut, person.pattern, person.lower_garment, person.hair, person.bag) for person in group}
        assert len(looks) == len(group)


def test_cameras_give_the_same_person_different_colours(root: Path) -> None:
    means = defaultdict(list)
    for folder in ("query", "bounding_box_test"):
        for path in crops(root, folder):
            if identity_and_camera(path)[0] > 0:
                # The middle of the crop shows the person, not the background.
                means[identity_and_camera(path)].append(pixels(path)[24:100, 22:42].reshape(-1, 3).mean(axis=0))
    within = np.mean([np.std(values, axis=0).mean() for values in means.values()])
    people = defaultdict(list)
    for (identity, _), values in means.items():
        people[identity].append(np.mean(values, axis=0))
    across = np.mean([np.std(values, axis=0).mean() for values in people.values()])
    assert across > 1.5 * within


def histogram(path: Path) -> npt.NDArray[np.float64]:
    """Histogram of hue and saturation in six horizontal bands: a classic descriptor without training."""
    hsv = cv2.cvtColor(pixels(path)[10:118, 18:46], cv2.COLOR_BGR2HSV)
    bands = [cv2.calcHist([band], [0, 1], None, [12, 6], [0, 180, 0, 256]) for band in np.split(hsv, 6)]
    return np.asarray(np.sqrt(np.concatenate([band.ravel() / band.sum() for band in bands])), dtype=np.float64)


def test_colours_alone_do_not_find_a_person_in_another_camera(root: Path) -> None:
    queries, gallery = (
        crops(root, "query"),
        [path for path in crops(root, "bounding_box_test") if identity_and_camera(path)[0] >= 0],
    )
    similarity = np.stack([histogram(path) for path in queries]) @ np.stack([histogram(path) for path in gallery]).T
    cameras = np.array([identity_and_camera(path)[1] for path in gallery])
    identities = np.array([identity_and_camera(path)[0] for path in gallery])
    hits = 0
    for query, row in zip(queries, similarity, strict=True):
        identity, camera = identity_and_camera(query)
        hits += identities[np.argmax(np.where(cameras == camera, -1, row))] == identity
    # Better than chance (1 in 25), because clothes carry information, and far from solved.
    assert 0.08 < hits / len(queries) < 0.5


def test_the_drawing_depends_on_the_viewpoint() -> None:
    person = sample_group(np.random.default_rng(5), 1)[0]
    pose = walking_pose(person, 0.0)
    front, side = (draw_person(person, pose, Viewpoint(yaw), 200)[0] for yaw in (0.0, np.pi / 2))
    assert front.dtype == np.float32
    assert front.min() >= 0
    assert front.max() <= 1 + 1e-5
    stride, stance = (np.ptp(np.flatnonzero(image[120:, :, 3].max(axis=0) > 0.5)) for image in (side, front))
    assert stride > 1.3 * stance, "a stride is longer from the side"
    rows = np.flatnonzero(front[..., 3].max(axis=1) > 0.5)
    assert 180 < np.ptp(rows) < 230, "about 200 pixels tall, as requested"


def test_the_feet_stay_on_the_ground() -> None:
    person = sample_group(np.random.default_rng(7), 1)[0]
    for phase in np.linspace(0, 2 * np.pi, 9):
        pose = walking_pose(person, float(phase))
        lowest = min(min(leg.end[1], leg.tip[1]) for leg in pose.legs)
        assert 0 < lowest < 0.06 * person.height
        assert pose.head[1] > pose.neck[1] > pose.pelvis[1]


def test_the_cached_set_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def write(out: Path, *, workers: int, progress: object) -> None:
        del workers, progress
        out.mkdir(parents=True)
        written.append(out)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(synthetic, "generate_dataset", write)
    assert synthetic.cached_dataset() == synthetic.cached_dataset() == written[0]
    assert len(written) == 1
    assert written[0].is_relative_to(tmp_path)


def test_a_folder_that_cannot_be_created_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be created"):
        synthetic.generate_dataset(tmp_path / "file" / "set", workers=1)


def test_importing_the_package_loads_no_image_library() -> None:
    code = "import sys, bot_deploy.synthetic; sys.exit('cv2' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_there_are_six_cameras() -> None:
    assert [camera.number for camera in CAMERAS] == [1, 2, 3, 4, 5, 6]
    assert len({camera.scene for camera in CAMERAS}) == 6
