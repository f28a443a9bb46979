"""Every command on files, folders and people whose names hold control characters, line breaks and formulas."""

from __future__ import annotations

import csv
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.command_lines import COMMAND_LINES, cases, command_line
from helpers.commands import run_in_process_of_bot
from helpers.fake_camera import BLUE, RED, crop_of, scene
from helpers.random_gallery import draw_people
from PIL import Image

from bot_deploy.escaping import escape

if TYPE_CHECKING:
    from collections.abc import Callable

    from helpers.commands import Printed

FOLDER = "$x^$\x1b]0;title\x07\u202e<b>\nrank"
PEOPLE = ["al\x1b[31mice", "bo\nb\u2066", "=1+2", "zo\x9b31m\x7fe"]
FILE = "c{camera}_{shot}\x1b[2J\r\n\u202e@SUM(1)\t.png"
QUERY = "=cmd|'\x1b[A\n\u202e;+1.png"


@pytest.fixture
def root(tmp_path: Path, model: Path) -> Path:
    """A folder of everything, of whose names none is harmless; one file is no image."""
    root = draw_people(tmp_path / FOLDER, PEOPLE, FILE)
    shutil.copy(model, root / "\u202emodel.onnx")
    (root / "test" / PEOPLE[0] / "-broken\x1b[1m\n.jpg").write_bytes(b"no image")
    shutil.copy(min((root / "test" / PEOPLE[2]).iterdir()), tmp_path / QUERY)
    return root


def words(name: str, root: Path, checkpoint: Path) -> list[str]:
    out = root / "out\x1b[0m"
    line = command_line(
        name,
        MODEL=root / "\u202emodel.onnx",
        CROPS=root / "test",
        DATA=root,
        QUERY=QUERY,
        CHECKPOINT=checkpoint,
        OUT=out,
    )
    options = {
        "match": ["--csv", f"{out}.csv", "--html", f"{out}.html", "--montage", f"{out}.png"],
        "demo": ["--gallery", str(root / "test")],
    }
    return [*line, *options.get(name, [])]


def is_visible(text: str) -> bool:
    """Whether `text` is lines of visible characters."""
    return text.replace("\n", "").isprintable()


@pytest.fixture
def ready(name: str, root: Path, bot: Callable[..., Printed], tiny_checkpoint: Path) -> list[str]:
    """The words of a command, after an index was made where it needs one; data sets without their broken file."""
    if "index" in name and name != "index":
        assert bot(*words("index", root, tiny_checkpoint)).code == 0
    if "DATA" in COMMAND_LINES[name]:
        next((root / "test").rglob("*broken*")).unlink()
    return words(name, root, tiny_checkpoint)


@pytest.mark.parametrize(
    "name", cases("export", "adapt")
)  # the first takes long, see below; the other wants more crops
def test_only_visible_characters_are_printed(name: str, ready: list[str], bot: Callable[..., Printed]) -> None:
    printed = bot(*ready)
    assert printed.code == 0, printed.err
    assert is_visible(printed.out)
    assert is_visible(printed.err)
    assert r"\x1b]0;title\x07\u202e<b>\nrank" in printed.out + printed.err
    assert not [line for line in printed.out.splitlines() if line.startswith("rank/")]  # the end of FOLDER


def texts(document: object) -> list[str]:
    """All texts in a JSON document."""
    if isinstance(document, str):
        return [document]
    if isinstance(document, dict):
        return [text for value in document.values() for text in texts(value)]
    return [text for value in document for text in texts(value)] if isinstance(document, list) else []


@pytest.mark.parametrize("name", cases("eval", "demo", "bench", "adapt"))
def test_json_gives_names_back(name: str, ready: list[str], root: Path, bot: Callable[..., Printed]) -> None:
    printed = bot(*ready, "--json")
    assert printed.code == 0, printed.err
    assert is_visible(printed.out)
    assert is_visible(printed.err)
    found = texts(json.loads(printed.out))
    paths = {Path(text.partition(".jpg: ")[0]) for text in found if str(root) in text}
    assert paths
    assert all(path.exists() or path.with_suffix(".jpg").exists() for path in paths), paths
    if name.startswith("match"):
        assert set(PEOPLE) & set(found)
    if name in {"match", "match of a folder", "embed", "index"}:
        assert any(text.endswith("-broken\x1b[1m\n.jpg") for text in found)


def test_the_table_and_the_page_of_match(root: Path, bot: Callable[..., Printed], tiny_checkpoint: Path) -> None:
    assert bot(*words("match", root, tiny_checkpoint)).code == 0
    with (root / "out\x1b[0m.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["query"] for row in rows] == ["./" + QUERY.replace(";+", ";'+")] * 10
    assert rows[0]["identity"] == "'=1+2"
    assert {Path(row["path"]).exists() for row in rows} == {True}
    html = (root / "out\x1b[0m.html").read_text(encoding="utf-8")
    assert is_visible(html)
    parser = HTMLParser()
    shown: list[str] = []
    parser.handle_data = shown.append  # type: ignore[method-assign]
    parser.feed(html)
    assert escape(QUERY) in shown
    assert r"=1+2/c1_0\x1b[2J\r\n\u202e@SUM(1)\t.png" in shown


# The demo in which coloured rectangles are people.
FAKE_DETECTOR = """
from bot_deploy.video import detectors
from helpers.fake_camera import DETECTOR
detectors.open_detector = lambda *arguments, **others: DETECTOR
"""


def test_the_demo_names_people_in_visible_characters(model: Path, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    Image.fromarray(scene((RED, (40, 60, 90, 200)), (BLUE, (200, 60, 250, 200)))).save(tmp_path / "frames" / "1.png")
    for person, colour in zip(PEOPLE, (RED, BLUE), strict=False):
        (tmp_path / "known" / person).mkdir(parents=True)
        Image.fromarray(crop_of(colour)).save(tmp_path / "known" / person / "1.png")
    command = f"demo --source frames --gallery known --model {model} --headless --events - --min-score 0.9"
    done = run_in_process_of_bot(FAKE_DETECTOR, *command.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert is_visible(done.stdout)
    assert is_visible(done.stderr)
    assert {json.loads(line)["name"] for line in done.stdout.splitlines()} == set(PEOPLE[:2])
