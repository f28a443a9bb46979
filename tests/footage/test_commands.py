"""`bot index` and `bot match` with videos, on the command line."""

from __future__ import annotations

import base64
import csv
import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_camera import CONTRACT, DETECTOR, embedder, frames_of, write_colour_model
from helpers.random_gallery import draw, needs_milvus
from helpers.videos import COLOURS, FPS, SECONDS, VISITS, place, walk, write_lossless
from PIL import Image

from bot_deploy import cli, open_embedder
from bot_deploy.artifacts import read_contract, write_contract
from bot_deploy.camera_means import CameraMeans, camera_means_of, stored_means
from bot_deploy.demos.enrolment import open_enrolment_gallery
from bot_deploy.demos.recognition import LiveRecognizer
from bot_deploy.footage import Footage
from bot_deploy.gallery import LocalIndex, open_or_create_index
from bot_deploy.matching import adapt
from bot_deploy.video import detectors

NAMES = ("entrance_2026-01-31_12-00-00.mkv", "till_2026-01-31_12-10-00.mkv")


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of two cameras; all people walk past both."""
    folder = tmp_path_factory.mktemp("videos") / "yard"
    for name in NAMES:
        write_lossless(folder / name, walk(SECONDS))
    return folder


@pytest.fixture
def bot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `bot` with the fake detector in an empty folder: exit code, stdout, stderr."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(detectors, "open_detector", lambda *_, **__: DETECTOR)
    model = write_colour_model(tmp_path / "model.onnx")

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as done:
            cli.main([*map(str, words), *([] if words[0] in {"forget", "adapt"} else ["--model", str(model)])])
        said = capsys.readouterr()
        return int(done.value.code or 0), said.out, said.err

    return run


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (20, 40), COLOURS["red"]).save(path)
    return path


def content(folder: Path) -> bytes:
    """All bytes of all files, and their names."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return b"".join(str(path).encode() + path.read_bytes() for path in files)


class Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_two_commands_find_a_person(bot: Any, yard: Path, red: Path, tmp_path: Path) -> None:
    code, out, err = bot("index", yard / NAMES[0], yard / NAMES[1], "-o", "shop.gallery")
    assert code == 0, err
    assert "camera entrance (from its name), begins 2026-01-31 12:00:00 UTC (from its name)" in err
    assert f"shop.gallery: {2 * len(VISITS)} appearances in 2 videos (2 read now)\n" == out
    code, out, err = bot("match", red, "shop.gallery", "--top", 4)
    assert code == 0, err
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["rank", "score", "camera", "from", "to", "picture"]
    assert sorted((row[2], row[3], row[4][:7]) for row in lines[1:5]) == [
        ("entrance", "2026-01-31", "12:00:0"),
        ("entrance", "2026-01-31", "12:00:1"),
        ("till", "2026-01-31", "12:10:0"),
        ("till", "2026-01-31", "12:10:1"),
    ]
    # The folder itself is a gallery too, with the same answer.
    document = json.loads(bot("match", red, yard, "--top", 4, "--json")[1])
    assert document["gallery"]["appearances"] == 2 * len(VISITS)
    assert [match["rank"] for match in document["matches"]] == [1, 2, 3, 4]
    scores = [match["score"] for match in document["matches"]]
    assert scores == sorted(scores, reverse=True)
    for match in document["matches"]:
        assert Path(match["path"]).is_file()
        assert match["camera_name"] in match["video"]
        assert match["from"] <= match["time"] <= match["to"]
        assert match["to"] - match["from"] == pytest.approx(2.5, abs=0.5)
    code, out, err = bot("match", red, "shop.gallery", "--camera", "till", "--until", "2026-01-31T12:10:05", "--json")
    found = json.loads(out)["matches"]
    assert [(match["camera_name"], round(match["video_from"])) for match in found] == [("till", 1)]


def test_videos_beside_crops_are_counted(bot: Any, yard: Path, tmp_path: Path) -> None:
    for number in range(2):
        draw(tmp_path / "mixed" / "door" / f"{number}.png", number)
    for name in NAMES:
        (tmp_path / "mixed" / name).symlink_to(yard / name)
    message = "2 videos in mixed are not read, because it also holds images; name them"
    for words in (["index", "mixed", "-o", "x.gallery"], ["match", "mixed/door/0.png", "mixed"]):
        code, _, err = bot(*words)
        assert code == 0, err
        assert err.splitlines().count(message) == 1
    assert "videos in" not in bot("match", "mixed/door/0.png", "mixed/door")[2]


def test_the_table_and_the_page(bot: Any, yard: Path, red: Path, tmp_path: Path) -> None:
    code, _, err = bot("match", red, yard, "--top", 4, "--csv", "x.csv", "--html", "x.html", "--clips", "clips")
    assert code == 0, err
    clips = sorted((tmp_path / "clips").glob("*.webm"))
    assert len(clips) == 4
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["camera_name"] for row in rows} == {"entrance", "till"}
    assert all(float(row["from"]) <= float(row["time"]) <= float(row["to"]) for row in rows)
    page = Page(tmp_path / "x.html")
    bars = [one for one in page.all("a") if str(one["href"]).startswith("#m1-")]
    assert len(bars) == 4
    assert {one["href"] for one in bars} == {f"#{figure['id']}" for figure in page.all("figure") if "id" in figure}
    places = [float(str(one["style"]).partition("left:")[2].partition("%")[0]) for one in bars]
    # Two visits at the beginning, of the entrance, and two at the end; from 12:00:00 to 12:10:14.
    assert places == pytest.approx([0, 100 * 11.5 / 614, 100 * 600 / 614, 100 * 611.5 / 614], abs=0.3)
    assert all(str(image["src"]).startswith("data:image/webp;base64,") for image in page.all("img"))
    assert "2026-01-31 12:00:12 to 12:00:14" in page.words
    inside = [base64.b64decode(str(one["src"]).partition("base64,")[2]) for one in page.all("video")]
    assert sorted(inside) == sorted(clip.read_bytes() for clip in clips)


def test_a_moment_of_a_video_is_a_query(bot: Any, yard: Path, tmp_path: Path) -> None:
    video = yard / NAMES[0]
    words = ("match", f"{video}@00:00:01.5", yard, "--top", 4, "--json", "--html", "moment.html")
    document = json.loads(bot(*words)[1])
    assert "missing" not in (tmp_path / "moment.html").read_text().partition("<main>")[2]  # the query is drawn
    assert document["query"] == f"{video}@00:00:01.5"
    assert {round(match["video_from"]) for match in document["matches"]} == {1, 12}
    # Two people at 8 s: a box is needed.
    code, _, err = bot("match", f"{video}@8", yard)
    boxes = [[round(side) for side in place(name, 8 - start)] for name, start in (("blue", 6), ("green", 7))]
    assert code == 2
    assert "2 people are found; choose a box" in err
    for left, top, right, bottom in boxes:
        assert f"{left},{top},{right - left},{bottom - top}" in err
    left, top, right, bottom = boxes[0]
    box = f"{left},{top},{right - left},{bottom - top}"
    document = json.loads(bot("match", f"{video}@8", yard, "--top", 2, "--json", "--box", box)[1])
    assert {round(match["video_from"]) for match in document["matches"]} == {6}
    assert document["matches"][0]["score"] == pytest.approx(1, abs=1e-3)


def test_one_of_several_people_at_a_moment_can_be_clicked(
    bot: Any, yard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = [[round(side) for side in place(name, 8 - start)] for name, start in (("blue", 6), ("green", 7))]
    asked: list[list[list[int]]] = []

    def click(_: Any, found: Any) -> int | None:
        asked.append(sorted([round(side) for side in box] for box in found))
        return answers.pop()

    monkeypatch.setattr("bot_deploy.demos.choosing.choose_person", click)
    words = ("match", f"{yard / NAMES[0]}@8", yard, "--top", 2, "--json")
    assert bot(*words)[0] == 2  # a script is never asked
    assert not asked
    for stream in ("stdin", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True)
    answers: list[int | None] = [None, 1, 0]
    seen = {round(json.loads(bot(*words)[1])["matches"][0]["video_from"]) for _ in range(2)}
    assert seen == {6, 7}
    code, _, err = bot(*words)
    assert code == 2
    assert "click one in the window; Escape lists their boxes" in err
    assert "2 people are found; choose a box" in err
    assert asked == [sorted(boxes)] * 3


def test_people_are_counted_named_and_forgotten(bot: Any, yard: Path, red: Path, tmp_path: Path) -> None:
    assert bot("index", yard, "-o", "shop.gallery")[0] == 0

    def people(*words: object) -> Any:
        code, out, err = bot("people", "shop.gallery", "--threshold", "0.9", "--json", *words)
        assert code == 0, err
        return json.loads(out)

    document = people()
    assert document["count"] == len(COLOURS)
    assert sorted(len(person["appearances"]) for person in document["people"]) == [2, 2, 4]
    number = document["people"][0]["number"]
    assert [one["camera_name"] for one in document["people"][0]["appearances"]] == ["entrance"] * 2 + ["till"] * 2
    code, out, _ = bot("people", "shop.gallery", "--threshold", "0.9", "--html", "people.html")
    assert code == 0
    assert out.splitlines()[-1] == "3 people in 8 appearances; a cosine of 0.900 or more counts as one person"
    page = Page(tmp_path / "people.html")
    assert len(page.all("img")) == 8
    assert "3 people" in page.words
    # Names are in the index, so that searches have them.
    assert [person["name"] for person in people("--name", f"{number}=Anna")["people"]] == ["Anna", None, None]
    document = json.loads(bot("match", red, "shop.gallery", "--top", 4, "--json")[1])
    assert {match["identity"] for match in document["matches"]} == {"Anna"}
    # One appearance is somebody else, so the group is divided; and back.
    one = people()["people"][0]["appearances"][0]["appearance"]
    assert people("--name", f"{one}=Bob")["count"] == 4
    assert people("--name", f"{one}=Anna")["count"] == 3
    # Forgetting leaves nothing of her on the disk.
    crops = [tmp_path / match["path"] for match in document["matches"]]
    pictures = [path.read_bytes() for path in crops]
    with LocalIndex(tmp_path / "shop.gallery") as index:
        mine = [item.path for item in index.items() if item.identity == "Anna"]
        others = len(index) - len(mine)
    assert all(picture in content(tmp_path / "shop.gallery") for picture in pictures)
    code, out, err = bot("forget", "Anna", "shop.gallery", "--json")
    assert code == 0, err
    assert json.loads(out)["appearances"] == 4
    left = content(tmp_path / "shop.gallery")
    assert not any(picture in left for picture in pictures)
    assert b"Anna" not in left
    assert not any(path.encode() in left for path in mine)
    with LocalIndex(tmp_path / "shop.gallery") as index:
        assert len(index) == others
    assert people()["count"] == 2
    # What was read is not read again, so she stays forgotten.
    assert bot("index", yard, "-o", "shop.gallery")[0] == 0
    assert people()["count"] == 2
    code, _, err = bot("forget", "Anna", "shop.gallery")
    assert (code, "nobody is called Anna" in err) == (2, True)


def test_the_table_of_people(bot: Any, yard: Path, tmp_path: Path) -> None:
    assert bot("index", yard, "-o", "shop.gallery")[0] == 0
    words = ("people", "shop.gallery", "--threshold", "0.9", "--json", "--csv", "people.csv")
    code, out, err = bot(*words, "--name", "1=Anna")
    assert (code, "wrote people.csv" in err) == (0, True)
    people = json.loads(out)["people"]
    with (tmp_path / "people.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["person", "name", "appearance", "camera", "from", "to", "source", "picture"]
    assert [
        (row["person"], row["appearance"], row["camera"], float(row["from"]), float(row["to"]), row["source"])
        for row in rows
    ] == [
        (str(person["number"]), one["appearance"], one["camera_name"], one["from"], one["to"], one["video"])
        for person in people
        for one in person["appearances"]
    ]
    assert [row["name"] for row in rows] == ["Anna"] * len(people[0]["appearances"]) + [""] * 4
    assert len(rows) == 8
    assert all((tmp_path / row["picture"]).is_file() and row["appearance"] in row["picture"] for row in rows)


@needs_milvus
def test_people_in_milvus_are_counted_named_and_forgotten(bot: Any, yard: Path, red: Path, tmp_path: Path) -> None:
    assert bot("index", yard, "-o", "shop.db")[0] == 0

    def people(*words: object) -> Any:
        code, out, err = bot("people", "shop.db", "--threshold", "0.9", "--json", *words)
        assert code == 0, err
        return json.loads(out)

    first = people()["people"][0]
    assert [one["camera_name"] for one in first["appearances"]] == ["entrance"] * 2 + ["till"] * 2
    named = people("--name", f"{first['number']}=Anna")["people"]
    assert [person["name"] for person in named] == ["Anna", None, None]
    document = json.loads(bot("match", red, "shop.db", "--top", 4, "--json")[1])
    assert {match["identity"] for match in document["matches"]} == {"Anna"}
    pictures = [(tmp_path / match["path"]).read_bytes() for match in document["matches"]]
    assert all(picture in content(tmp_path / "shop.footage") for picture in pictures)
    code, out, err = bot("forget", "Anna", "shop.db", "--json")
    assert code == 0, err
    assert "Milvus removes deleted vectors" in err
    assert json.loads(out)["appearances"] == 4
    left = content(tmp_path / "shop.footage")
    assert not any(picture in left for picture in pictures)
    assert [person["name"] for person in people()["people"]] == [None, None]
    assert json.loads(bot("match", red, "shop.db", "--json")[1])["matches"][0]["score"] < 0.1
    assert bot("forget", "Anna", "shop.db")[0] == 2


def test_the_live_recogniser_uses_the_names(bot: Any, yard: Path) -> None:
    assert bot("index", yard, "-o", "shop.gallery")[0] == 0
    found = json.loads(bot("people", "shop.gallery", "--threshold", "0.9", "--json")[1])["people"]

    def names_of(colour: str) -> set[str | None]:
        with open_enrolment_gallery("shop.gallery", embedder()) as gallery:
            recognizer = LiveRecognizer(DETECTOR, embedder(), gallery, FPS)
            pictures = walk(1.5, [(colour, 0.0, 1.5)])
            results = [recognizer.process_frame(frame) for frame in frames_of(pictures, FPS)]
        assert sum(len(result.persons) for result in results) > 10
        return {person.name for result in results for person in result.persons}

    assert names_of("red") == {None}
    number = next(person["number"] for person in found if len(person["appearances"]) == 4)  # of the red one
    assert bot("people", "shop.gallery", "--threshold", "0.9", "--name", f"{number}=Anna")[0] == 0
    assert "Anna" in names_of("red")
    assert names_of("blue") == {None}


def test_people_are_compared_without_the_camera_means(bot: Any, yard: Path, red: Path, tmp_path: Path) -> None:
    """The mean of one camera is blue, so that red people of it no longer look like those of the other camera."""
    assert bot("index", yard, "-o", "shop.gallery")[0] == 0

    def count() -> int:
        return int(json.loads(bot("people", "shop.gallery", "--threshold", "0.9", "--json")[1])["count"])

    assert count() == len(COLOURS)
    blue = tmp_path / "blue.png"
    Image.new("RGB", (20, 40), COLOURS["blue"]).save(blue)
    with LocalIndex(tmp_path / "shop.gallery") as index:
        entrance, till = (Footage(index).find_camera(name) for name in ("entrance", "till"))
    mean = open_embedder(tmp_path / "model.onnx").embed(blue)[0]
    means = CameraMeans(0 * mean, {entrance: 0.9 * mean, till: 0 * mean}, {entrance: 30, till: 30})
    contract = read_contract(tmp_path / "model.onnx")
    write_contract(tmp_path / "model.onnx", dataclasses.replace(contract, camera_means=stored_means(means, 60)))
    assert count() > len(COLOURS)


def test_the_camera_means_of_named_cameras(bot: Any, yard: Path, tmp_path: Path) -> None:
    """They hold in every index, because the number of a camera follows from its name."""
    assert bot("index", yard, "-o", "shop.gallery")[0] == 0
    assert bot("index", yard / NAMES[1], "-o", "till.gallery")[0] == 0
    with LocalIndex(tmp_path / "shop.gallery") as shop, LocalIndex(tmp_path / "till.gallery") as till:
        assert Footage(shop).find_camera("till") == Footage(till).find_camera("till")
    for words in (["--gallery", "shop.gallery"], ["--footage", yard / NAMES[0], "--footage", yard / NAMES[1]]):
        code, _, err = bot("adapt", "model.onnx", *words, "-o", "adapted.onnx")
        assert code == 2
        assert re.search(
            r"crops found: camera (entrance: \d+, camera till|till: \d+, camera entrance): \d+; take more footage", err
        ), err
        assert not (tmp_path / "adapted.onnx").exists()


def test_crops_that_replace_a_video_leave_nothing_of_it(bot: Any, yard: Path, tmp_path: Path) -> None:
    assert bot("index", yard / NAMES[0], "-o", "shop.gallery")[0] == 0
    assert list((tmp_path / "shop.gallery" / "footage").rglob("*.jpg"))
    for number in range(2):
        draw(tmp_path / "crops" / f"{number}.png", number)
    code, _, err = bot("index", "crops", "-o", "shop.gallery", "--replace")
    assert code == 0, err
    assert not list((tmp_path / "shop.gallery" / "footage").rglob("*.jpg"))
    # And the video can be indexed again.
    code, out, err = bot("index", yard / NAMES[0], "-o", "shop.gallery")
    assert code == 0, err
    assert f"{len(VISITS)} appearances in 1 videos (1 read now)" in out
    assert json.loads(bot("people", "shop.gallery", "--threshold", "0.9", "--json")[1])["count"] == len(COLOURS)


def test_no_output_replaces_what_is_read(bot: Any, yard: Path, red: Path, tmp_path: Path) -> None:
    before, video = red.read_bytes(), tmp_path / "mine.mkv"
    video.write_bytes((yard / NAMES[0]).read_bytes())
    for words in (
        ("match", red, yard, "--montage", red),
        ("demo", "--source", video, "--output", video, "--headless"),
        ("demo", "--source", video, "--events", video, "--headless"),
    ):
        code, _, err = bot(*words)
        assert code == 2
        assert "is read by this command, and would be replaced; name another file" in err
    assert red.read_bytes() == before
    assert video.read_bytes() == (yard / NAMES[0]).read_bytes()


def test_a_video_with_another_name_is_not_read_again(bot: Any, tmp_path: Path) -> None:
    """Its people would count twice, and who was forgotten would be back."""
    write_lossless(tmp_path / "old.mkv", walk(11, [("red", 0.5, 3.0), ("blue", 6.0, 8.5)]))
    assert bot("index", "old.mkv", "-o", "shop.gallery")[0] == 0
    assert bot("people", "shop.gallery", "--threshold", "0.9", "--name", "1=Anna")[0] == 0
    assert bot("forget", "Anna", "shop.gallery")[0] == 0
    (tmp_path / "entrance-7.mkv").write_bytes((tmp_path / "old.mkv").read_bytes())
    (tmp_path / "old.mkv").unlink()
    code, out, err = bot("index", "entrance-7.mkv", "-o", "shop.gallery", "--camera", "door")
    assert code == 0, err
    assert "1 appearances in 1 videos (0 read now)" in out
    (person,) = json.loads(bot("people", "shop.gallery", "--threshold", "0.9", "--json")[1])["people"]
    (appearance,) = person["appearances"]
    assert appearance["camera_name"] == "door"
    assert appearance["video"] == str(tmp_path / "entrance-7.mkv")
    # A copy beside it is a video of its own, as before.
    (tmp_path / "copy.mkv").write_bytes((tmp_path / "entrance-7.mkv").read_bytes())
    assert "(1 read now)" in bot("index", "copy.mkv", "-o", "shop.gallery")[1]


def test_people_say_how_many_appearances_have_the_name(bot: Any, yard: Path) -> None:
    """Those that were indexed later have it from the others only, and `bot forget` leaves them."""
    assert bot("index", yard / NAMES[0], "-o", "shop.gallery")[0] == 0
    assert bot("people", "shop.gallery", "--threshold", "0.9", "--name", "1=Anna")[0] == 0
    assert bot("index", yard / NAMES[1], "-o", "shop.gallery")[0] == 0
    _, out, _ = bot("people", "shop.gallery", "--threshold", "0.9")
    assert "person 1, Anna (2 of 4 named)" in out
    person = json.loads(bot("people", "shop.gallery", "--threshold", "0.9", "--json")[1])["people"][0]
    assert [one["name"] for one in person["appearances"]] == ["Anna", "Anna", None, None]
    assert bot("people", "shop.gallery", "--threshold", "0.9", "--name", "1=Anna")[0] == 0
    assert "named)" not in bot("people", "shop.gallery", "--threshold", "0.9")[1]


def test_no_clip_is_cut_from_another_video(bot: Any, tmp_path: Path, red: Path) -> None:
    """As where a recorder writes over its oldest file."""
    write_lossless(tmp_path / "ring.mkv", walk(7, [("red", 0.5, 3.0)]))
    assert bot("index", "ring.mkv", "-o", "shop.gallery")[0] == 0
    write_lossless(tmp_path / "ring.mkv", walk(7, [("blue", 0.5, 3.0)]))
    code, _, err = bot("match", red, "shop.gallery", "--clips", "clips")
    assert code == 0, err
    assert "another video than the one that was indexed" in err
    assert not list((tmp_path / "clips").glob("*.webm"))


def test_another_detector_says_which_names_it_drops(bot: Any, yard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bot("index", yard / NAMES[0], "-o", "shop.gallery")[0] == 0
    assert bot("people", "shop.gallery", "--threshold", "0.9", "--name", "1=Anna")[0] == 0
    other = dataclasses.replace(DETECTOR, name="another")
    monkeypatch.setattr(detectors, "open_detector", lambda *_, **__: other)
    _, _, err = bot("index", yard / NAMES[0], "-o", "shop.gallery")
    assert "read again, because the detector is another (another, before: a fake); it drops the names Anna" in err


def test_the_person_at_a_moment_has_the_camera_of_the_video(bot: Any, yard: Path) -> None:
    assert bot("index", yard, "-o", "shop.gallery")[0] == 0
    moment = f"{yard / NAMES[0]}@00:00:02"
    code, out, err = bot("match", moment, "shop.gallery", "--exclude-same-camera", "--json")
    assert code == 0, err
    assert {match["camera_name"] for match in json.loads(out)["matches"]} == {"till"}


def test_a_model_is_adapted_to_footage(bot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One camera sees red people, the other green and blue ones, so crops of one camera are more alike."""
    monkeypatch.setattr(adapt, "MIN_CAMERA_CROPS", 2)
    seen = {"entrance": [("red", 0.5, 3.0), ("red", 4.0, 6.5)], "till": [("blue", 0.5, 3.0), ("green", 4.0, 6.5)]}
    for camera, visits in seen.items():
        write_lossless(tmp_path / f"{camera}.mkv", walk(7, visits))
    code, out, err = bot(
        "adapt", "model.onnx", "--footage", "entrance.mkv", "--footage", "till.mkv", "-o", "a.onnx", "--json"
    )
    assert code == 0, err
    document = json.loads(out)
    assert set(document["cameras"]) == {"entrance", "till"}
    assert document["crops"] == sum(document["cameras"].values())
    assert document["camera_gap"]["after"] < document["camera_gap"]["before"]
    means = camera_means_of(read_contract(tmp_path / "a.onnx"))
    assert means
    # The same crops through an index give the same means, and the camera's number is the one in the index.
    assert bot("index", "entrance.mkv", "till.mkv", "-o", "shop.gallery")[0] == 0
    assert bot("adapt", "model.onnx", "--gallery", "shop.gallery", "-o", "b.onnx")[0] == 0
    assert read_contract(tmp_path / "b.onnx").camera_means == read_contract(tmp_path / "a.onnx").camera_means
    with LocalIndex(tmp_path / "shop.gallery") as index:
        footage = Footage(index)
        red, own = (means.of_camera[footage.find_camera(name)] for name in seen)
    assert red[0] > own[0] + 0.2  # more red than green and blue people on average


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["index", "{yard}", "-o", "x.gallery", "--metadata", "x.csv"], "are for a folder of crops"),
        (["index", "{yard}", "-o", "x.gallery", "--start", "2026-01-31T12:00"], "one time for 2 videos"),
        (["index", "{crops}", "-o", "x.gallery", "--camera", "till"], "holds none (--camera)"),
        (["index", "{crops}", "{crops}", "-o", "x.gallery"], "one folder of crops at a time"),
        (["index", "{yard}", "none.mp4", "-o", "x.gallery"], "none.mp4: no such file or folder"),
        (["people", "x.gallery"], "x.gallery: no such folder"),
        (["adapt", "model.onnx"], "--images FOLDER, --gallery INDEX or --footage VIDEO"),
        (["adapt", "model.onnx", "--footage", "none.mp4"], "none.mp4: no such file or folder"),
        (["adapt", "model.onnx", "--images", "{crops}", "--detector", "hog"], "only videos are searched for people"),
        (["people", "{empty}"], "no appearances of people"),
        (["people", "{empty}", "--name", "Anna"], "write WHO=NAME"),
        (["people", "{empty}", "--csv", "people.txt"], "people.txt"),
        (["match", "{crops}/1.png", "{crops}", "--camera", "till"], "till: only cameras of videos have names"),
        (["match", "{crops}/1.png", "{crops}", "--camera", "123456"], "not in the range"),
        (["match", "{crops}/1.png", "{crops}", "--detector", "hog"], "only videos are searched for people"),
        (["match", "{crops}/1.png", "{crops}", "--box", "1,2,3,4"], "a box is for a moment of a video"),
        (["match", "{video}@1", "{yard}", "--box", "1,2,3"], "is not LEFT,TOP,WIDTH,HEIGHT"),
        (["match", "{video}@1.5", "{yard}", "--box", "9000,2,3,4"], "the box is outside (--box)"),
        (["match", "{video}@2:00", "{yard}"], "ends at 00:00:14, before 00:02:00"),
        (["match", "{yard}/none.mkv@2:00", "{yard}"], "none.mkv: no such image"),
    ],
)
def test_wrong_usage_is_one_line(words: list[str], message: str, bot: Any, yard: Path, tmp_path: Path) -> None:
    draw(tmp_path / "crops" / "1.png", 1)
    open_or_create_index(tmp_path / "empty.gallery", CONTRACT, tmp_path).close()
    places = {"empty": "empty.gallery", "yard": yard, "video": yard / NAMES[0], "crops": tmp_path / "crops"}
    code, out, err = bot(*(word.format(**places) for word in words))
    assert (code, out) == (2, ""), err
    assert message in err.splitlines()[-1]
