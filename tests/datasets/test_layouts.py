"""Layouts other than Market-1501's own, and sets merged into one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot_deploy.datasets import LAYOUTS_HELP, Crop, Dataset, merge, open_dataset
from bot_deploy.errors import InputError


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def names_and_labels(crops: tuple[Crop, ...]) -> list[tuple[str, int, int]]:
    return [(Path(str(crop.path)).name, crop.identity, crop.camera) for crop in crops]


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("mask_train_v2", "mask_test_v2")], ids=["v1", "v2"])
def test_msmt17(tmp_path: Path, train: str, test: str) -> None:
    files = {
        "MSMT17/list_train.txt": "0000/0000_000_01_0303morning_0015_0.jpg 0\n0001/0001_003_14_0303noon_0015_1.jpg 1\n",
        "MSMT17/list_val.txt": "0001/0001_009_02_0303noon_0015_1.jpg 1\n",
        "MSMT17/list_query.txt": "0000/0000_000_05_0302noon_0015_0.jpg 0\n",
        "MSMT17/list_gallery.txt": "0000/0000_001_07_0302noon_0015_0.jpg 0\n0003/0003_001_08_0302noon_0015_0.jpg 3\n\n",
    }
    for list_name, folder in (("train", train), ("val", train), ("query", test), ("gallery", test)):
        for line in files[f"MSMT17/list_{list_name}.txt"].split("\n"):
            if line:
                files[f"MSMT17/{folder}/{line.split()[0]}"] = "picture"
    files[f"MSMT17/{train}/0009/0009_000_01_x_0_0.jpg"] = "in no list"
    dataset = open_dataset(write(tmp_path, files))
    assert [(identity, camera) for _, identity, camera in names_and_labels(dataset.train)] == [(1, 1), (2, 14), (2, 2)]
    (query,) = dataset.query
    match, other = dataset.gallery
    assert (query.camera, match.camera, other.camera) == (5, 7, 8)
    assert query.identity == match.identity != other.identity
    # Numbered from 0 in both halves, but no person is in both.
    assert not {crop.identity for crop in dataset.train} & {query.identity, other.identity}
    assert all(crop.path.read_text() == "picture" for crop in (*dataset.train, query, match, other))


def test_msmt17_with_a_picture_missing(tmp_path: Path) -> None:
    root = write(tmp_path, {"list_train.txt": "0000/0000_000_01_0303morning_0015_0.jpg 0\n"})
    with pytest.raises(InputError, match=r"names '0000/0000_000_01_0303morning_0015_0\.jpg 0'"):
        open_dataset(root)


def test_dukemtmc_and_cuhk03_np_share_market_folders(tmp_path: Path) -> None:
    duke = write(
        tmp_path / "duke",
        {
            "bounding_box_train/0001_c2_f0046182.jpg": "",
            "query/0005_c2_f0046985.jpg": "",
            "bounding_box_test/0005_c7_f0046985.jpg": "",
        },
    )
    dataset = open_dataset(duke)
    assert names_and_labels(dataset.train) == [("0001_c2_f0046182.jpg", 1, 2)]
    assert names_and_labels(dataset.gallery) == [("0005_c7_f0046985.jpg", 5, 7)]
    names = ["bounding_box_train/0003_c1_21.png", "query/0006_c1_5.png", "bounding_box_test/0006_c2_9.png"]
    both = write(tmp_path / "cuhk", {f"{kind}/{name}": "" for kind in ("detected", "labeled") for name in names})
    with pytest.raises(InputError, match=r"2 data sets \(detected, labeled\); name one"):
        open_dataset(both)
    assert names_and_labels(open_dataset(both / "labeled").query) == [("0006_c1_5.png", 6, 1)]


def test_viper_halves(shared: Path) -> None:
    dataset = open_dataset(shared / "data" / "VIPeR.v1.0.zip")
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (632, 316, 316)
    train_ids = {crop.identity for crop in dataset.train}
    query_ids, gallery_ids = ({crop.identity for crop in part} for part in (dataset.query, dataset.gallery))
    assert len(train_ids) == len(query_ids) == 316
    assert query_ids == gallery_ids
    assert not train_ids & query_ids
    assert {crop.camera for crop in dataset.query} == {1}
    assert {crop.camera for crop in dataset.gallery} == {2}
    again = open_dataset(shared / "data" / "VIPeR.v1.0.zip")
    assert names_and_labels(dataset.query) == names_and_labels(again.query)


TABLE = """path,identity,camera,split
shop/a.jpg,alice,1,train
shop/b.jpg,bob,,train
shop/c.jpg,carol,2,query
shop/d.jpg,carol,3,gallery
"""


def test_table(tmp_path: Path) -> None:
    write(tmp_path, {"crops.csv": TABLE, **{f"shop/{letter}.jpg": "" for letter in "abcd"}})
    dataset = open_dataset(tmp_path / "crops.csv")
    assert names_and_labels(dataset.train)[0] == ("a.jpg", 1, 1)
    assert [crop.has_known_camera for crop in dataset.train] == [True, False]
    assert dataset.train[1].camera > 1000  # unknown: a camera of its own
    assert dataset.train[0].path == tmp_path / "shop" / "a.jpg"
    assert names_and_labels(dataset.query) == [("c.jpg", 3, 2)]
    assert names_and_labels(dataset.gallery) == [("d.jpg", 3, 3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs the columns"),
        ("file,who\na.jpg,1\n", "needs the columns"),
        ("path,identity,split\na.jpg,alice,testing\n", "line 2"),
        ("path,identity,camera\na.jpg,alice,1\nb.jpg,bob,front door\n", "line 3"),
        ("path,identity\n,alice\n", "line 2"),
        ('path,identity\n"a.jpg,alice\nb.jpg,bob\n', "line 3: a value with a line break; close its double quotes"),
    ],
)
def test_tables_without_the_needed_values(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, {"crops.csv": text, "a.jpg": ""})
    with pytest.raises(InputError, match=message):
        open_dataset(tmp_path / "crops.csv")


def test_merged_sets_keep_identities_and_cameras_apart() -> None:
    first = Dataset(("one",), (Crop(Path("a"), 5, 1), Crop(Path("b"), 7, 6)), (Crop(Path("q"), 9, 1),), ())
    second = Dataset(("two",), (Crop(Path("c"), 5, 1),), (), (Crop(Path("d"), 0, 2), Crop(Path("e"), 5, 2)))
    both = merge([first, second])
    assert both.name == "one + two"
    assert names_and_labels(both.train) == [("a", 5, 1), ("b", 7, 6), ("c", 14, 8)]
    assert names_and_labels(both.query) == [("q", 9, 1)]
    assert names_and_labels(both.gallery) == [("d", 0, 9), ("e", 14, 9)]  # a distractor stays one
    assert both.sources == ("one", "two")
    assert merge([first]) is first


def test_merged_sets_still_show_which_cameras_are_unknown() -> None:
    unknown = Dataset(("a",), (Crop(Path("a"), 1, 1_000_003, has_known_camera=False),), (), ())
    known = Dataset(("b",), (Crop(Path("b"), 1, 4),), (), ())
    assert [crop.has_known_camera for crop in merge([unknown, known]).train] == [False, True]


def test_every_layout_is_in_the_message() -> None:
    for name in ("Market-1501", "DukeMTMC", "CUHK03-NP", "MSMT17", "VIPeR", ".csv", "synthetic"):
        assert name in LAYOUTS_HELP


@pytest.mark.parametrize("names", [["0001_C1.jpg"], ["0002_c1s1_1_1.jpg", "holiday.jpg"]])
def test_market_images_without_identity_and_camera_in_their_names(tmp_path: Path, names: list[str]) -> None:
    root = write(tmp_path, {f"bounding_box_train/{name}": "" for name in names})
    with pytest.raises(InputError, match=rf"1 images such as bounding_box_train/{names[-1]} have no identity"):
        open_dataset(root)


def test_folders_beside_the_splits_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path, {"train/alice/c1_1.jpg": "", "query/bob/c1_1.jpg": "", "val/carol/c1_1.jpg": ""})
    with pytest.raises(InputError, match=r"val/carol/c1_1\.jpg is not below train/, query/, gallery/"):
        open_dataset(root)


def test_a_folder_for_each_camera_below_the_identity(tmp_path: Path) -> None:
    files = {f"train/{who}/{camera}/1.jpg": "" for who in ("alice", "bob") for camera in ("cam1", "cam2")}
    dataset = open_dataset(write(tmp_path, files))
    assert [(crop.identity, crop.camera) for crop in dataset.train] == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_numbers_in_a_table_are_market_numbers(tmp_path: Path) -> None:
    rows = "path,identity,camera,split\na.jpg,7,1,query\nb.jpg,7,2,gallery\nc.jpg,0,2,gallery\nd.jpg,-1,2,gallery\n"
    write(tmp_path, {"crops.csv": rows, **{f"{letter}.jpg": "" for letter in "abcd"}})
    dataset = open_dataset(tmp_path / "crops.csv")
    assert names_and_labels(dataset.query) == [("a.jpg", 7, 1)]
    assert names_and_labels(dataset.gallery) == [("b.jpg", 7, 2), ("c.jpg", 0, 2)]  # junk is dropped


def test_distractors_are_not_numbered_like_people(tmp_path: Path) -> None:
    folders = ["0000", "0001", "0002", "0003", "0004", "0005"]
    root = write(
        tmp_path, {f"{folder}/{folder}_c{camera}s1_000001_01.jpg": "" for folder in folders for camera in (1, 2)}
    )
    dataset = open_dataset(root)
    tested = {crop.path.parent.name for crop in (*dataset.query, *dataset.gallery)}
    # The fifth person is the test set; a distractor is never trained on, and it takes no number.
    assert tested == {"0000", "0005"}
    assert {crop.identity: crop.path.parent.name for crop in dataset.train} == {
        1: "0001",
        2: "0002",
        3: "0003",
        4: "0004",
    }
