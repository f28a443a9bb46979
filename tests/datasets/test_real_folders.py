"""Folders and tables as people have them: sessions, days, splits of other toolkits, spreadsheets' CSV."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_deploy.datasets import Crop, open_dataset
from bot_deploy.datasets.names import parse_name, parse_names
from bot_deploy.errors import InputError

PEOPLE = [f"person{number:02d}" for number in range(12)]


def touch(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def crops_of(root: Path) -> list[Crop]:
    dataset = open_dataset(root)
    return [*dataset.train, *dataset.query, *dataset.gallery]


SESSIONS = {
    "words": [f"session_{number}" for number in range(20)],
    "days": [f"2026-01-{number:02d}" for number in range(1, 21)],
    "any names": [f"lobby{chr(97 + number)}" for number in range(20)],
    "numbers": [f"{number:03d}" for number in range(20)],
}


@pytest.mark.parametrize("sessions", SESSIONS.values(), ids=SESSIONS)
def test_a_session_below_the_identity_is_no_identity(sessions: list[str], tmp_path: Path) -> None:
    names = [f"{who}/{session}/{shot}.jpg" for who in PEOPLE for session in sessions for shot in range(2)]
    crops = crops_of(touch(tmp_path, names))
    assert len(crops) == 480
    assert {crop.identity_name for crop in crops} == set(PEOPLE)
    assert len({crop.identity for crop in crops}) == 12
    assert all(crop.identity_name in crop.path.parts for crop in crops)


@given(
    people=st.lists(st.from_regex(r"[d-z]{3,8}", fullmatch=True), min_size=2, max_size=6, unique=True),
    sessions=st.lists(st.from_regex(r"[d-z]{1,8}\d?", fullmatch=True), min_size=1, max_size=5, unique=True),
    top=st.sampled_from(["", "data/", "a/b/"]),
)
def test_a_folder_that_recurs_below_several_parents_is_no_identity(
    people: list[str], sessions: list[str], top: str
) -> None:
    people = [f"p-{who}" for who in people]
    paths = [f"{top}{who}/{session}/1.jpg" for who in people for session in sessions]
    parsed = parse_names(paths)
    assert [info.identity for info in parsed.infos] == [path.split("/")[-3] for path in paths]
    assert not parsed.contradiction_reason
    assert parsed.session_note or {parse_name(path).identity for path in paths} <= set(people)


@pytest.mark.parametrize(
    ("path", "identity", "camera"),
    [
        ("alice/session1/7.jpg", "alice", None),
        ("alice/2026-01-31/7.jpg", "alice", None),
        ("alice/2026-01-31/cam2/7.jpg", "alice", 2),
        ("cam2/alice/7.jpg", "alice", 2),
        ("cam_b/person_0001/0001.png", "person_0001", 2),
        ("session1/7.jpg", None, None),
        ("Query/alice/7.jpg", "alice", None),
    ],
)
def test_one_path(path: str, identity: str | None, camera: int | None) -> None:
    assert parse_name(path)[:2] == (identity, camera)


def test_file_names_that_begin_with_their_folder_show_that_it_is_the_identity(tmp_path: Path) -> None:
    names = [f"{kind}/{who}/{who}_c{cam}.jpg" for kind in ("a", "b") for who in ("0001", "0002") for cam in (1, 2)]
    assert {crop.identity_name for crop in crops_of(touch(tmp_path, names))} == {"0001", "0002"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/tom/1.jpg", "b/tom/1.jpg", "a/x/1.jpg", "a/y/1.jpg"], "tom/ is below a/ and below b/, but most folders"),
        (["crops/alice/1.jpg", "crops/2.jpg"], r"crops/2\.jpg lies beside the folder of crops/alice/1\.jpg"),
        (["crops/a/b/1.jpg", "crops/2.jpg"], r"crops/2\.jpg lies beside the folder of crops/a/b/1\.jpg"),
        (["0007/0002_c1s1_000451_03.jpg", "0008/0008_c1s1_000451_03.jpg"], "in the folder of 0007, but its name"),
        (["alice/1.jpg", "cam1/2.jpg"], r"cam1/2\.jpg has no identity"),
        (["query/alice/1.jpg", "test/alice/2.jpg"], r"test/alice/2\.jpg is below test/, but query/"),
    ],
)
def test_names_that_contradict_each_other_are_refused(names: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        open_dataset(touch(tmp_path, names))


def test_a_folder_that_is_a_person_or_a_session_gives_no_identity() -> None:
    parsed = parse_names(["a/tom/1.jpg", "b/tom/1.jpg", "a/x/1.jpg", "a/y/1.jpg"])
    assert [info.identity for info in parsed.infos] == [None, None, "x", "y"]


def test_crops_beside_folders_of_crops_have_no_identity() -> None:
    parsed = parse_names(["alice/1.jpg", "alice/extra/2.jpg", "bob/3.jpg"])
    assert [info.identity for info in parsed.infos] == [None, None, "bob"]
    assert parsed.contradictory == [True, True, False]


def test_names_of_benchmarks_contradict_no_folder() -> None:
    parsed = parse_names(["lobby/0002_c1s1_000451_03.jpg", "lobby/door/0003_c2s1_000451_03.jpg"])
    assert [info.identity for info in parsed.infos] == ["0002", "0003"]
    assert not parsed.contradiction_reason


def labels(crops: tuple[Crop, ...]) -> list[tuple[str, str]]:
    return sorted((crop.identity_name, crop.path.name) for crop in crops)


@pytest.mark.parametrize("case", [str.lower, str.title])
def test_train_val_test(case: type[str], tmp_path: Path) -> None:
    names = ["train/a/c1_1.jpg", "val/a/c1_2.jpg", "test/b/c1_1.jpg", "test/b/c1_2.jpg", "test/b/c2_1.jpg"]
    dataset = open_dataset(
        touch(tmp_path, [case(name.partition("/")[0]) + "/" + name.partition("/")[2] for name in names])
    )
    assert labels(dataset.train) == [("a", "c1_1.jpg")]
    assert labels(dataset.query) == [("b", "c1_1.jpg"), ("b", "c2_1.jpg")]  # the first of each camera
    assert labels(dataset.gallery) == [("b", "c1_2.jpg")]


def test_train_and_val_alone(tmp_path: Path) -> None:
    dataset = open_dataset(touch(tmp_path, ["train/a/c1_1.jpg", "val/b/c1_1.jpg", "val/b/c1_2.jpg"]))
    assert (labels(dataset.query), labels(dataset.gallery)) == ([("b", "c1_1.jpg")], [("b", "c1_2.jpg")])


def test_layumis_tree(tmp_path: Path) -> None:
    train = [f"0002/0002_c{camera}s1_000451_03.jpg" for camera in (1, 2)]
    names = [
        *(f"pytorch/train_all/{name}" for name in train),
        f"pytorch/train/{train[0]}",
        f"pytorch/val/{train[1]}",
        "pytorch/query/0001/0001_c1s1_001051_00.jpg",
        "pytorch/multi-query/0001/0001_c1s1_001052_00.jpg",
        "pytorch/gallery/0001/0001_c2s1_001051_00.jpg",
        "pytorch/gallery/0000/0000_c3s1_001051_00.jpg",
        "pytorch/gallery/-1/-1_c3s1_001051_00.jpg",
    ]
    dataset = open_dataset(touch(tmp_path, names))
    assert labels(dataset.train) == [("0002", name.partition("/")[2]) for name in train]
    assert [crop.camera for crop in dataset.train] == [1, 2]
    (query,) = dataset.query
    distractor, match = dataset.gallery
    assert (query.identity_name, query.camera) == ("0001", 1)
    assert (match.identity, match.camera) == (query.identity, 2)
    assert distractor.identity == 0


def test_train_alone_with_market_names(tmp_path: Path) -> None:
    dataset = open_dataset(touch(tmp_path, ["train/0002_c1s1_000451_03.jpg", "train/0007_c2s1_000451_03.jpg"]))
    assert [(crop.identity_name, crop.camera) for crop in dataset.train] == [("0002", 1), ("0007", 2)]
    assert not dataset.query


TABLES = {
    "semicolons": "path;identity;camera;split\nshop/a b.jpg;alice;1;train\nshop/c.jpg;bob;2;query\n",
    "tabs": "path\tidentity\tcamera\tsplit\nshop/a b.jpg\talice\t1\ttrain\nshop/c.jpg\tbob\t2\tquery\n",
    "capitals": "Path,IDENTITY,Camera,Split\nshop/a b.jpg,alice,1,Train\nshop/c.jpg,bob,2,QUERY\n",
    "spaces": "path , identity, camera ,split\n shop/a b.jpg , alice, 1 ,train\nshop/c.jpg ,bob , 2, query \n\n",
    "BOM": "\ufeffpath,identity,camera,split\nshop/a b.jpg,alice,1,train\nshop/c.jpg,bob,2,query\n",
    "Windows": "path,identity,camera,split\r\nshop\\a b.jpg,alice,1,train\r\n.\\shop\\c.jpg,bob,2,query\r\n",
    "quotes": '"path","identity",camera,split\n"shop/a b.jpg","alice","1","train"\n"shop/c.jpg","bob","2","query"\n',
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
def test_tables_of_spreadsheets(text: str, encoding: str, tmp_path: Path) -> None:
    touch(tmp_path, ["shop/a b.jpg", "shop/c.jpg"])
    (tmp_path / "crops.csv").write_bytes((text.lstrip("\ufeff") if encoding == "utf-16" else text).encode(encoding))
    dataset = open_dataset(tmp_path / "crops.csv")
    assert [(crop.identity_name, crop.camera) for crop in dataset.train] == [("alice", 1)]
    assert [(crop.identity_name, crop.camera) for crop in dataset.query] == [("bob", 2)]
    assert dataset.train[0].path == tmp_path / "shop" / "a b.jpg"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,identity\na.jpg,x\nC:\\crops\\b.jpg,y\n", r"line 3: no file C:/crops/b\.jpg below"),
        ("path,identity\na.jpg,x\nb.jpg,y\na.jpg,y\n", r"line 4: a\.jpg is y here and x in line 2"),
        ("path,identity\na.jpg,x,1\n", "line 2: 3 values in 2 columns"),
        ("path,identity,split\na.jpg,x,dev\n", "line 2: split 'dev'; give one of train, query, gallery, test"),
        ("path,identity,camera\na.jpg,x,door\n", "line 2: camera 'door'; give a number of up to five digits"),
        ("path,identity\na.jpg,\n", "line 2: no identity"),
        ("file,person\na.jpg,x\n", "line 1: has the columns file, person; it needs the columns path and identity"),
        ("path,identity\n", "only a first line with the columns path, identity, and no rows"),
    ],
)
def test_a_table_is_refused_by_its_first_wrong_line(text: str, message: str, tmp_path: Path) -> None:
    touch(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / "crops.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        open_dataset(tmp_path / "crops.csv")


def test_a_list_of_msmt17_with_windows_paths_and_a_wrong_line(tmp_path: Path) -> None:
    touch(tmp_path, ["train/0000/0000_000_01_0303morning_0015_0.jpg"])
    line = "0000\\0000_000_01_0303morning_0015_0.jpg 0\r\n"
    (tmp_path / "list_train.txt").write_bytes(("\ufeff" + line).encode())
    assert [(crop.identity_name, crop.camera) for crop in open_dataset(tmp_path).train] == [("0", 1)]
    (tmp_path / "list_train.txt").write_bytes((line + line.replace("_01_", "_02_")).encode())
    with pytest.raises(InputError, match=r"list_train\.txt, line 2: the list names"):
        open_dataset(tmp_path)
