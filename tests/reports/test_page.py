"""Rank lists as a page: what is in the file, and what a browser makes of it."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from bot_deploy.artifacts.contract import Calibration
from bot_deploy.datasets.names import CropMetadata
from bot_deploy.errors import RunError
from bot_deploy.gallery import parse_name
from bot_deploy.matching.match import Match, Ranking
from bot_deploy.matching.verdict import Verdict
from bot_deploy.reports import page

if TYPE_CHECKING:
    from pathlib import Path

VERDICT = Verdict("match", "match: the best scores 0.9 <&>")
HOSTILE = 'x"><img src=http:evil onerror=alert(1)><script>alert(2)<!--&lt;.png'


def save(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (30, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def found(path: Path, rank: int, seen: CropMetadata) -> Match:
    return Match(path, 1 - rank / 10, rank, *seen)


def ranked(query: Path, *paths: Path) -> Ranking:
    matches = tuple(found(path, rank, parse_name(path.name)) for rank, path in enumerate(paths, 1))
    return Ranking(query, matches, VERDICT, parse_name(query.name))


class Page(HTMLParser):
    """Every element with its attributes, and the text in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def frames(self) -> list[str | None]:
        """Classes of the tiles, in order."""
        return [a["class"] for tag, a in self.elements if tag == "img" or "missing" in (a.get("class") or "")]


def drawn(attributes: dict[str, str | None]) -> Image.Image:
    kind, _, data = str(attributes["src"]).partition(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def test_frames_pictures_and_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gallery = tmp_path / "g"
    query = save(tmp_path / "0007_c1s1_000451_00.png", (10, 20, 200))
    right = save(gallery / "sub" / "0007_c2s1_000452_00.png", (10, 200, 20), (200, 100))
    wrong = save(gallery / "0008_c2s1_000453_00.png", (200, 20, 10), (100, 1000))
    junk = save(gallery / "-1_c2s1_000454_00.png", (90, 90, 90))
    gone = gallery / "0007_c3s1_000455_00.png"
    page.write_html([ranked(query, right, wrong, junk, gone)], {"Gallery": "g: <4>"}, gallery, tmp_path / "x.html")
    html = Page(tmp_path / "x.html")
    assert html.frames() == ["query", "correct", "wrong", "unknown", "missing correct"]
    # Thumbnails keep their proportions, fit a tile, and are never enlarged.
    assert [drawn(image).size for image in html.all("img")] == [(30, 60), (96, 48), (19, 192), (30, 60)]
    for image, colour in zip(html.all("img"), [(10, 20, 200), (10, 200, 20), (200, 20, 10)], strict=False):
        np.testing.assert_allclose(np.asarray(drawn(image)).mean(axis=(0, 1)), colour, atol=4)
    assert html.all("img")[1]["alt"] == "match 1, score 0.9000"
    words = " ".join(html.text.split())
    for said in (
        "1 0.9000 ✓ same person identity 0007 camera 2 frame 452 sub/0007_c2s1_000452_00.png",
        "2 0.8000 ✗ another person identity 0008",
        "3 0.7000 identity -1",
        "no image",
        "match: the best scores 0.9 <&>",
        "Gallery g: <4>",
    ):
        assert re.sub(r"\s", "", said) in re.sub(r"\s", "", words), said
    assert caplog.messages == [f"not drawn: {gone}: cannot be read (No such file or directory)"]


def test_it_is_self_contained_and_runs_nothing(tmp_path: Path) -> None:
    root = tmp_path / "g"
    hostile = save(root / HOSTILE, (1, 2, 3))
    seen = CropMetadata("</bdi><script>alert(3)</script>", 1, float("nan"))
    ranking = Ranking(tmp_path / HOSTILE, (found(hostile, 1, seen),), VERDICT, CropMetadata("'\"><b onclick=x>"))
    page.write_html([ranking], {"<i>": "<u>http"}, root, tmp_path / "x.html")
    html = Page(tmp_path / "x.html")
    assert {tag for tag, _ in html.elements} == {
        *("html", "meta", "title", "style", "header", "h1", "dl", "dt", "dd", "bdi", "main", "article", "h2", "p"),
        *("strong", "div", "ul", "ol", "li", "figure", "figcaption", "span", "img", "b"),
    }
    assert all(str(image["src"]).startswith("data:image/webp;base64,") for image in html.all("img"))
    assert {name for _, attributes in html.elements for name in attributes} <= {
        *("lang", "charset", "http-equiv", "content", "name", "class", "width", "height", "alt", "src", "role"),
        "aria-label",
    }
    source = (tmp_path / "x.html").read_text(encoding="utf-8")
    for word in ("url(", "@import", "href", "://", "<script", "<link", "<iframe"):
        assert word not in source
    policy = next(meta["content"] for meta in html.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).split("; ")[0] == "default-src 'none'"
    assert "script" not in str(policy)
    for text in (HOSTILE, str(seen.identity), "<u>http", "time nan"):
        assert text in html.text


def test_omitted_matches_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_TILES", 2)
    shots = tuple(save(tmp_path / "p" / f"{number}.png", (9, 9, 9)) for number in range(3))
    many = Ranking(
        tmp_path / "p", tuple(found(shots[0], rank, CropMetadata()) for rank in range(1, 6)), VERDICT, shots=shots
    )
    nobody = Ranking(shots[0], (), Verdict("no match", "no match: nobody"))
    page.write_html([many, nobody], {}, tmp_path, tmp_path / "x.html")
    html = Page(tmp_path / "x.html")
    assert html.frames() == ["query", "query", "unknown", "unknown", "query"]
    assert "Not drawn: 3 more matches and 1 more images of the query." in html.text
    assert "No matches." in html.text
    assert "same person" not in html.text  # no key to frames where nothing is known


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"x\.html: cannot be written"):
        page.write_html([Ranking(tmp_path, (), VERDICT)], {}, tmp_path, tmp_path / "none" / "x.html")


# ---- details ----


@pytest.mark.parametrize(
    ("time", "words"),
    [
        (451.0, "frame 451"),
        (0.5, "frame 0.5"),
        (1769862605.0, "2026-01-31 12:30:05 UTC"),
        (1e300, "time 1e+300"),
    ],
)
def test_moments(time: float, words: str) -> None:
    assert page.format_time(time) == words


def test_facts() -> None:
    answers = [Ranking(None, (), Verdict(decision, "")) for decision in ("match", "no match", "match")]  # type: ignore[arg-type]
    assert page.describe_queries(answers, 0) == "3 (2 match, 1 no match)"
    assert page.describe_queries(answers[:1], 4) == "1 (1 match); 4 more are broken"
    found = Calibration(
        data="m.zip",
        genuine_pairs=1,
        impostor_pairs=1,
        target_false_accept_rate=0.001,
        threshold=0.61234,
        reject_threshold=0.3,
        false_reject_rate=0,
        curve=((0, 1),),
    )
    assert page.describe_threshold(found) == "match from 0.612 (false-accept rate 0.001 on m.zip), no match below 0.300"
    assert page.describe_threshold(None).startswith("none: ")
    assert page.describe_filters({}, -1, exclude_same_camera=False) == "nothing"
    filters = {"cameras": (1, 2), "exclude_cameras": (3,), "since": 0, "until": 1769862605}
    assert page.describe_filters(filters, 0.25, exclude_same_camera=True) == (  # type: ignore[arg-type]
        "all cameras but 1, 2; cameras 3; the query's own camera; before frame 0; after 2026-01-31 12:30:05 UTC; "
        "scores below 0.25"
    )


# ---- in a browser ----

COLOURS = {"query": (20, 30, 210), "correct": (20, 210, 190), "wrong": (210, 190, 20), "unknown": (130, 20, 140)}
FRAMES = {"query": (40, 90, 200), "correct": (23, 119, 58), "wrong": (192, 47, 42), "unknown": (169, 176, 187)}
TILE, FRAME = (104, 200), 4  # CSS pixels: 6.5 x 12.5 rem, frame included


def screenshot(html: Path, width: int) -> np.ndarray:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium on the PATH")
    out = html.with_name(f"{width}.png")
    command = [
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
        *(f"--user-data-dir={html.parent / f'profile {width}'}", f"--window-size={width},2400"),
        *(f"--screenshot={out}", html.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert out.exists(), done.stderr
    return np.asarray(Image.open(out).convert("RGB")).astype(int)


@pytest.mark.parametrize("width", [390, 1280])
def test_every_picture_and_frame_is_seen_whole(tmp_path: Path, width: int) -> None:
    root = tmp_path / "g"
    names = {
        "query": "0007_c1s1.png",
        "correct": f"0007_c2s1{HOSTILE}",
        "wrong": "0008_c2s1.png",
        "unknown": "-1_c2s1.png",
    }
    paths = {kind: save(root / name, COLOURS[kind], (96, 192)) for kind, name in names.items()}
    paths["query"] = paths["query"].rename(tmp_path / names["query"])
    query, *others = paths.values()
    page.write_html([ranked(query, *others)] * 2, {"Gallery": "a" * 300}, root, tmp_path / "x.html")
    seen = screenshot(tmp_path / "x.html", width)
    assert seen.shape[1] == width
    inside = (TILE[0] - 2 * FRAME) * (TILE[1] - 2 * FRAME)
    border = TILE[0] * TILE[1] - inside
    head = seen[: np.flatnonzero((seen == FRAMES["query"]).all(axis=2).sum(axis=1) > 50)[0]]
    for kind, colour in COLOURS.items():
        assert (head == FRAMES[kind]).all(axis=2).sum() > 30, kind  # in the key
        # Two of each tile; a frame's corners are round.
        assert (np.abs(seen - colour).max(axis=2) <= 6).sum() == pytest.approx(2 * inside, rel=0.02), kind
        assert (seen == FRAMES[kind]).all(axis=2).sum() == pytest.approx(2 * border, rel=0.12), kind
