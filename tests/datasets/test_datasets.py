"""Names on disk or in a zip to identities, cameras and the three splits."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers.commands import run_bot

from bot_deploy import images
from bot_deploy.datasets import LAYOUTS_HELP, Crop, Dataset, open_dataset
from bot_deploy.errors import InputError

MARKET = [
    "bounding_box_train/0002_c1s1_000451_03.jpg",
    "bounding_box_train/0002_c3s1_000451_03.JPG",
    "bounding_box_train/0007_c6s4_000001_01.png",
    "bounding_box_train/-1_c1s1_000401_03.jpg",  # junk and distractors teach nothing
    "bounding_box_train/0000_c1s1_000401_03.jpg",
    "query/0001_c1s1_001051_00.jpg",
    "query/0003_c12s1_001051_00.jpg",
    "bounding_box_test/0001_c1s1_000301_00.jpg",
    "bounding_box_test/0003_c2s1_000301_00.jpg",
    "bounding_box_test/0000_c4s1_000301_00.jpg",  # a distractor stays
    "bounding_box_test/-1_c1s1_000301_00.jpg",  # junk goes
    "bounding_box_test/readme.txt",
    "bounding_box_test/Thumbs.db",
    "gt_bbox/0001_c5s1_000301_00.jpg",  # of the original archive, not part of the protocol
    "gt_query/0001_c1s1_001051_00_good.mat",
]
SPLITS = {
    "train": [(2, 1, MARKET[0]), (2, 3, MARKET[1]), (7, 6, MARKET[2])],
    "query": [(1, 1, MARKET[5]), (3, 12, MARKET[6])],
    "gallery": [(0, 4, MARKET[9]), (1, 1, MARKET[7]), (3, 2, MARKET[8])],
}


def write(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def pack(archive: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(archive, "w") as out:
        for name in names:
            out.writestr(name, name.encode())
    return archive


def splits(dataset: Dataset) -> dict[str, list[tuple[int, int, str]]]:
    """Identity, camera and what the file holds, which in these sets is its own name."""
    return {
        split: [(crop.identity, crop.camera, crop.path.read_bytes().decode()) for crop in getattr(dataset, split)]
        for split in ("train", "query", "gallery")
    }


def test_market_folder(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path, MARKET))
    assert splits(dataset) == SPLITS
    assert dataset.name == str(tmp_path)
    assert splits(open_dataset(str(tmp_path))) == SPLITS


def test_market_zip(tmp_path: Path) -> None:
    assert splits(open_dataset(pack(tmp_path / "market.zip", MARKET))) == SPLITS


def test_market_below_a_top_folder(tmp_path: Path) -> None:
    nested = [f"Market-1501-v15.09.15/{name}" for name in MARKET]
    junk = ["__MACOSX/Market-1501-v15.09.15/bounding_box_train/._0002_c1s1_000451_03.jpg"]
    for root in (write(tmp_path / "a", nested), pack(tmp_path / "a.zip", nested + junk)):
        found = splits(open_dataset(root))
        assert {p: [(i, c, name.partition("/")[2]) for i, c, name in crops] for p, crops in found.items()} == SPLITS


def test_zip_order_and_folder_entries_do_not_matter(tmp_path: Path) -> None:
    assert splits(open_dataset(pack(tmp_path / "m.zip", ["query/", "odd.jpg/", *reversed(MARKET)]))) == SPLITS


def test_market_train_only(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path, MARKET[:3]))
    assert splits(dataset) == {**SPLITS, "query": [], "gallery": []}
    dataset.require_splits("train")
    for needed in (("query",), ("train", "gallery")):
        with pytest.raises(InputError, match=rf"no {needed[-1]} crops found; expected one of(.|\n)*bounding_box_test"):
            dataset.require_splits(*needed)


# The names sort as: anna 1, bert 2, carl 3, dora 4, emil 5, frida 6. Every fifth is held out.
PEOPLE = [
    "anna/c1_001.jpg",
    "anna/cam2-7.jpg",
    "bert/arc5.jpg",  # the c5 in it is no camera
    "bert/street.jpg",
    "bert/x_c13.png",
    "carl/a.jpg",
    "dora/a.jpg",
    "emil/1_c1.jpg",
    "emil/2_c1.jpg",
    "emil/3_c2.jpg",
    "emil/4.jpg",
    "emil/5.jpg",
    "frida/a.jpg",
]


def names_of(crops: tuple[Crop, ...]) -> list[str]:
    return [crop.path.read_bytes().decode() for crop in crops]


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_a_folder_for_each_identity(tmp_path: Path, packed: bool) -> None:
    names = [*PEOPLE, "emil/notes.txt"]
    dataset = open_dataset(pack(tmp_path / "people.zip", names) if packed else write(tmp_path / "people", names))
    assert names_of(dataset.train) == [name for name in PEOPLE if not name.startswith("emil")]
    assert [crop.identity for crop in dataset.train] == [1, 1, 2, 2, 2, 3, 4, 6]
    # Of each held-out person, the first picture of a camera asks and the others answer.
    assert names_of(dataset.query) == ["emil/1_c1.jpg", "emil/3_c2.jpg", "emil/4.jpg"]
    assert names_of(dataset.gallery) == ["emil/2_c1.jpg", "emil/5.jpg"]
    assert {crop.identity for crop in dataset.query + dataset.gallery} == {5}


def test_cameras_are_read_from_names_and_unknown_ones_are_all_different(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path, PEOPLE))
    camera = {
        name: crop.camera for crop in dataset.train + dataset.query + dataset.gallery for name in [crop.path.name]
    }
    known = {"c1_001.jpg": 1, "cam2-7.jpg": 2, "x_c13.png": 13, "1_c1.jpg": 1, "2_c1.jpg": 1, "3_c2.jpg": 2}
    assert {name: camera[name] for name in known} == known
    unknown = [crop.camera for crop in dataset.train + dataset.query + dataset.gallery if crop.camera not in (1, 2, 13)]
    assert len(unknown) == len(set(unknown)) == 7
    assert min(unknown) > 1000


SPLIT = [
    "gallery/anna/c2_1.jpg",
    "gallery/zoe/c2_1.jpg",
    "query/anna/c1_1.jpg",
    "train/bert/c1_1.jpg",
    "train/carl/c1_1.jpg",
]


@pytest.mark.parametrize("top", ["", "my set/"], ids=["plain", "below a top folder"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_identity_folders_within_the_parts(tmp_path: Path, packed: bool, top: str) -> None:
    names = [top + name for name in SPLIT]
    dataset = open_dataset(pack(tmp_path / "people.zip", names) if packed else write(tmp_path / "people", names))
    assert splits(dataset) == {
        "gallery": [(1, 2, names[0]), (4, 2, names[1])],
        "query": [(1, 1, names[2])],  # the same person has the same number in every split
        "train": [(2, 1, names[3]), (3, 1, names[4])],
    }


def test_hidden_files_are_nobody(tmp_path: Path) -> None:
    hidden = ["__MACOSX/anna/._c1_001.jpg", ".cache/a/c1_1.jpg"]
    for root in (pack(tmp_path / "p.zip", PEOPLE + hidden), write(tmp_path / "p", PEOPLE + hidden)):
        dataset = open_dataset(root)
        assert names_of(dataset.train) == [name for name in PEOPLE if not name.startswith("emil")]
        assert max(crop.identity for crop in dataset.train) == 6


@pytest.mark.parametrize("names", [[], ["a.jpg", "b.jpg"], ["readme.txt", "sub/readme.txt"]])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_no_known_layout(tmp_path: Path, names: list[str], packed: bool) -> None:
    root = tmp_path / ("x.zip" if packed else "x")
    if packed:
        pack(root, names)
    else:
        root.mkdir()
        write(root, names)
    with pytest.raises(InputError) as caught:
        open_dataset(root)
    message = str(caught.value)
    assert message.startswith(f"{root}: {sum(name.endswith('.jpg') for name in names)} images, but no known layout")
    assert "bounding_box_train/0002_c1s1_000451_03.jpg" in message
    assert "alice/c1_001.jpg" in message
    reasons = {line.split(": ")[0].strip(): line.split(": ")[1] for line in message.splitlines()[1:6]}
    assert reasons == {
        "a table": "not a .csv file",
        "Market-1501": "no images in bounding_box_train/ or bounding_box_test/",
        "MSMT17": "no list_train.txt and no list_query.txt",
        "VIPeR": "no images in cam_a/ or none in cam_b/",
        "a folder for each identity": "no images in folders",
    }


@pytest.mark.parametrize("content", [b"", b"no archive at all", None], ids=["empty", "text", "cut"])
def test_not_a_zip(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "data.zip"
    file.write_bytes(pack(tmp_path / "whole.zip", MARKET).read_bytes()[:-60] if content is None else content)
    with pytest.raises(InputError, match=r"data\.zip: neither a folder nor a readable \.zip; expected one of"):
        open_dataset(file)


def test_a_path_with_the_separator_of_merged_sets_is_one_source(tmp_path: Path) -> None:
    both = [str(write(tmp_path / name, MARKET)) for name in ("a + b", "c")]
    dataset = open_dataset(*both)
    assert dataset.sources == tuple(both)
    assert open_dataset(*dataset.sources) == dataset


@pytest.mark.parametrize("module", ["bot_deploy.datasets", "bot_deploy.commands.match", "bot_deploy.gallery"])
def test_only_synthetic_data_loads_the_generator(tmp_path: Path, module: str) -> None:
    write(tmp_path, MARKET)
    code = f"""
import sys, {module}
from bot_deploy.datasets import open_dataset
open_dataset({str(tmp_path)!r}).require_splits("train")
sys.exit("bot_deploy.synthetic" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder or file; expected one of"):
        open_dataset(tmp_path / "nowhere")


def test_need_passes_where_there_is_something(tmp_path: Path) -> None:
    open_dataset(write(tmp_path, MARKET)).require_splits("train", "query", "gallery")


def test_market_1501(shared: Path) -> None:
    archive = shared / "data" / "Market-1501-v15.09.15.zip"
    if not archive.is_file():
        pytest.skip("needs the real Market-1501 in ../shared/data, which is not part of the repository")
    dataset = open_dataset(archive)
    dataset.require_splits("train", "query", "gallery")
    assert len(dataset.train) == 12_936
    assert len({crop.identity for crop in dataset.train}) == 751
    assert len(dataset.query) == 3_368
    assert len({crop.identity for crop in dataset.query}) == 750
    assert len(dataset.gallery) == 15_913
    assert sum(crop.identity == 0 for crop in dataset.gallery) == 2_798
    assert min(crop.identity for crop in dataset.gallery) == 0
    for split in (dataset.train, dataset.query, dataset.gallery):
        assert {crop.camera for crop in split} == set(range(1, 7))
        assert images.read_image(split[0].path).shape == images.read_image(split[-1].path).shape == (128, 64, 3)
    assert not {crop.identity for crop in dataset.train} & {crop.identity for crop in dataset.query + dataset.gallery}


def test_the_layouts_are_printed_on_lines_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "unknown" / "a").mkdir(parents=True)
    Path(tmp_path / "unknown" / "1.jpg").touch()
    (tmp_path / "broken.zip").touch()
    for name in ("gone", "broken.zip", "unknown", "empty"):
        done = run_bot("train", "--data", name, cwd=tmp_path)
        assert done.returncode == 2
        lines = done.stderr.splitlines()
        assert lines[0].startswith(f"bot: {name}")
        assert lines[-len(LAYOUTS_HELP.splitlines()) + 1 :] == LAYOUTS_HELP.splitlines()[1:]
        assert "\\n" not in done.stderr
