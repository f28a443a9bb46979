"""`bot match`: a folder of queries to every kind of output, and what is refused before a gallery is embedded."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.random_gallery import draw
from PIL import Image

from bot_deploy import cli, open_embedder
from bot_deploy.artifacts.contract import Calibration
from bot_deploy.datasets.names import parse_name
from bot_deploy.embedder import Embedder
from bot_deploy.gallery import LocalIndex
from bot_deploy.matching.calibrate import store_calibration

ROUNDING = 2e-5  # of vectors to fp16


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def bot(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: object) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of `bot match`."""
        with pytest.raises(SystemExit) as done:
            cli.main(["match", *map(str, words)])
        said = capsys.readouterr()
        return int(done.value.code or 0), said.out, said.err

    return run


@pytest.fixture
def queries(people: Path, tmp_path: Path) -> Path:
    """Three images, of two people, and a broken one."""
    root = tmp_path / "asked"
    (root / "sub").mkdir(parents=True)
    files = sorted((people / "query").iterdir())
    for file, folder in ((files[0], root), (files[1], root / "sub"), (files[-1], root)):
        shutil.copy(file, folder)
    (root / "broken.jpg").write_bytes(b"no image")
    return root


def check_best(matches: Any, model: Embedder, query: Any, gallery: Path) -> None:
    """That `matches` are the nearest of all, nearest first; as near as rounding, they may change places."""
    files = sorted(gallery.rglob("*.jpg"))
    vectors = np.asarray(model.embed(files), np.float64)
    cosines = dict(zip(map(str, files), vectors @ query / np.linalg.norm(query), strict=True))
    best = sorted(cosines.values(), reverse=True)[: len(matches)]
    assert [cosines[match["path"]] for match in matches] == pytest.approx(best, abs=ROUNDING)
    assert [match["score"] for match in matches] == pytest.approx(best, abs=ROUNDING)
    assert best[0] - best[-1] > 10 * ROUNDING


def test_a_folder_of_queries(bot: Any, onnx_file: Path, people: Path, queries: Path, tmp_path: Path) -> None:
    gallery, model = people / "bounding_box_test", open_embedder(onnx_file)
    outputs = {kind: tmp_path / "out" / f"ranks.{kind}" for kind in ("csv", "html", "png")}
    options = ("--csv", outputs["csv"], "--html", outputs["html"], "--montage", outputs["png"])
    code, out, err = bot(queries, gallery, "--model", onnx_file, "--top", 4, "--json", *options)
    assert code == 0, err
    document = json.loads(out)
    pictures = sorted(path for path in queries.rglob("*.jpg") if path.name != "broken.jpg")
    assert [one["query"] for one in document["queries"]] == [str(path) for path in pictures]
    for path, one in zip(pictures, document["queries"], strict=True):
        assert len(one["matches"]) == 4
        check_best(one["matches"], model, model.embed([path])[0], gallery)
        assert one["decision"] == "uncalibrated"
    assert document["model"] == str(onnx_file)
    assert document["gallery"] == {"images": len(list(gallery.rglob("*.jpg"))), "broken": 0, "broken_files": []}
    reason = "not a JPEG, PNG, WebP, BMP, GIF, TIFF or AVIF image"
    assert document["broken_queries"] == [{"path": f"{queries}/broken.jpg", "error": reason}]
    assert f"left out: {queries}/broken.jpg: {reason}" in err
    for path in outputs.values():
        assert f"wrote {path}\n" in err
    with outputs["csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["query"], row["path"]) for row in rows] == [
        (one["query"], match["path"]) for one in document["queries"] for match in one["matches"]
    ]
    text = outputs["html"].read_text()
    assert (text.count("<article>"), text.count("<img")) == (3, 15)
    assert "3 (3 uncalibrated); 1 more are broken" in text
    with Image.open(outputs["png"]) as image:
        assert image.size == (5 * 106 + 20, 3 * 224 + 10)
    # To read: each under its own name.
    code, out, _ = bot(queries, gallery, "--model", onnx_file, "--top", 4)
    assert code == 0
    assert [block.splitlines()[0] for block in out.split("\n\n")] == [str(path) for path in pictures]


def test_a_folder_of_one_person(bot: Any, onnx_file: Path, people: Path, queries: Path) -> None:
    gallery, model = people / "bounding_box_test", open_embedder(onnx_file)
    words = (queries, gallery, "--model", onnx_file, "--top", 5, "--json", "--same-person")
    code, out, err = bot(*words)
    assert code == 0, err
    document = json.loads(out)
    pictures = sorted(path for path in queries.rglob("*.jpg") if path.name != "broken.jpg")
    assert (document["query"], document["shots"]) == (str(queries), [str(path) for path in pictures])
    mean = model.embed(pictures).mean(axis=0)
    check_best(document["matches"], model, mean, gallery)
    assert len(document["broken_queries"]) == 1
    # Re-ranked, the same are found with the same scores, in another order.
    everyone = len(list(gallery.rglob("*.jpg")))
    plain, reranked = (json.loads(bot(*words, "--top", everyone, *more)[1])["matches"] for more in ((), ("--rerank",)))
    scores, again = ({match["path"]: match["score"] for match in found} for found in (plain, reranked))
    assert scores == again
    assert list(scores) != list(again)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["{query}", "{crops}", "--html", "{tmp}/x.txt"], 2, "x.txt: a page ends in .htm, .html"),
        (["{query}", "{crops}", "--montage", "{tmp}/x.svg"], 2, "x.svg: a figure ends in "),
        (["{query}", "{crops}", "--csv", "{tmp}/x.tsv"], 2, "x.tsv: a table ends in .csv"),
        (["{query}", "{crops}", "--csv", "{query}/x.csv"], 1, "x.csv: cannot be written (File exists)"),
        (["{query}", "{crops}", "--html", "{tmp}/folder.html"], 1, "folder.html: cannot be written (it is a folder)"),
        (
            ["{query}", "{crops}", "--since", "noon"],
            2,
            "noon: not a time; write one such as 2026-01-31T12:00, or a number (--since)",
        ),
        (
            ["{query}", "{crops}", "--until", "nan"],
            2,
            "nan: not a time; write one such as 2026-01-31T12:00, or a number (--until)",
        ),
        (
            ["{query}", "{crops}", "--same-person"],
            2,
            "of that person (--same-person)",
        ),
        (["{query}", "{crops}", "--exclude-same-camera"], 2, "q.bmp: no camera ID in the file name"),
        (["{asked}", "{crops}", "--exclude-same-camera"], 2, "b.bmp: no camera ID in the file name"),
        (["{asked}", "{crops}", "--exclude-same-camera", "--same-person"], 2, "b.bmp: no camera ID in the file name"),
        (["{tmp}/empty", "{crops}"], 2, "empty: none of 0 image files is usable as a query; images end in "),
        (["{tmp}/none.jpg", "{crops}"], 2, "none.jpg: no such image or folder of images"),
        (["{query}", "{tmp}/none"], 2, "none: no such folder"),
    ],
)
def test_what_is_refused_before_work_and_in_one_line(
    words: list[str], code: int, message: str, bot: Any, onnx_file: Path, crops: Path, tmp_path: Path
) -> None:
    names = {"crops": crops, "tmp": tmp_path, "query": draw(tmp_path / "q.bmp", 0), "asked": tmp_path / "asked"}
    draw(tmp_path / "asked" / "a_c1.bmp", 1)
    draw(tmp_path / "asked" / "b.bmp", 2)
    for folder in ("folder.html", "empty"):
        (tmp_path / folder).mkdir()
    found, out, err = bot(*(word.format(**names) for word in words), "--model", onnx_file)
    assert (found, out) == (code, "")
    assert message in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("bot: ")
    assert "Traceback" not in err
    assert not (tmp_path / "cache").exists()  # nothing of the gallery was embedded


@pytest.mark.parametrize("words", [["--top", "0"], ["--min-score", "2"], ["--camera", "123456"]])
def test_wrong_usage(words: list[str], bot: Any) -> None:
    code, out, err = bot("q.jpg", "gallery", *words)
    assert (code, out) == (2, "")
    assert f"Invalid value for '{words[0]}'" in err


# ---- two images ----


@pytest.fixture
def calibrated(onnx_file: Path, tmp_path: Path) -> Path:
    """A model with a calibration that any two images pass."""
    path = tmp_path / "calibrated.onnx"
    path.write_bytes(onnx_file.read_bytes())
    thresholds = {"threshold": -0.9, "reject_threshold": -0.95, "false_reject_rate": 0.0, "curve": ((-0.9, 0.01),)}
    pairs = {"genuine_pairs": 100, "impostor_pairs": 10_000, "target_false_accept_rate": 0.01}
    store_calibration(path, Calibration(data="d", **pairs, **thresholds))  # type: ignore[arg-type]
    return path


def test_two_images(bot: Any, calibrated: Path, people: Path, tmp_path: Path) -> None:
    model = open_embedder(calibrated)
    first, second = sorted((people / "query").iterdir())[:2]
    code, out, err = bot(first, second, "--model", calibrated, "--json")
    assert code == 0, err
    document = json.loads(out)
    vectors = model.embed([first, second]).astype(np.float64)
    (match,) = document["matches"]
    assert (document["query"], match["path"], match["rank"]) == (str(first), str(second), 1)
    assert match["score"] == pytest.approx(vectors[0] @ vectors[1], abs=1e-6)
    assert (document["decision"], document["false_accept_rate"]) == ("match", 0.01)
    assert document["gallery_false_accept_rate"] == pytest.approx(0.01)
    assert document["gallery"] == {"images": 1, "broken": 0, "broken_files": []}
    assert not (tmp_path / "cache").exists()  # no index
    # Each image of a folder is compared.
    code, out, _ = bot(people / "query", second, "--model", calibrated, "--json", "--top", 3)
    assert [len(one["matches"]) for one in json.loads(out)["queries"]] == [1] * len(list((people / "query").iterdir()))


def test_two_images_with_filters_and_outputs(bot: Any, calibrated: Path, people: Path, tmp_path: Path) -> None:
    first, second = sorted((people / "query").iterdir())[:2]
    camera = parse_name(second.name).camera
    words = (first, second, "--model", calibrated, "--json")
    for options, found in (
        (("--camera", camera), 1),
        (("--exclude-camera", camera), 0),
        (("--since", 10**9), 0),
        (("--until", 10**9, "--rerank"), 1),
        (("--min-score", 1), 0),
    ):
        code, out, err = bot(*words, *options)
        assert code == 0, err
        assert len(json.loads(out)["matches"]) == found, options
        assert ("the times of this gallery are seconds of the video or frame numbers, up to " in err) == (
            "--since" in options
        )
    outputs = ("--html", tmp_path / "x.html", "--montage", tmp_path / "x.png", "--csv", tmp_path / "x.csv")
    code, _, err = bot(*words, *outputs)
    assert code == 0, err
    assert (tmp_path / "x.html").read_text().count("<img") == 2
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 2


def test_a_second_image_that_is_not_usable(bot: Any, onnx_file: Path, people: Path, tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(b"no image")
    first = min((people / "query").iterdir())
    code, out, err = bot(first, tmp_path / "b.jpg", "--model", onnx_file)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == f"bot: {tmp_path}/b.jpg: not a JPEG, PNG, WebP, BMP, GIF, TIFF or AVIF image"


def test_a_damaged_gallery_is_closed_again(bot: Any, people: Path, onnx_file: Path, tmp_path: Path) -> None:
    index = tmp_path / "x.gallery"
    with pytest.raises(SystemExit):
        cli.main(["index", str(people / "query"), "-o", str(index), "--model", str(onnx_file)])
    with contextlib.closing(sqlite3.connect(index / "gallery.sqlite")) as connection, connection:
        connection.execute("UPDATE rows SET size = -1")
    query = min((people / "query").iterdir())
    closed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalIndex, "close", lambda self, close=LocalIndex.close: (closed.append(self), close(self)))
        code, _, err = bot(query, index, "--model", onnx_file)
    assert code == 2, err
    assert len(closed) == 1
