"""Rankings as a document, a table and a .csv."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from bot_deploy.matching.match import Match, Ranking
from bot_deploy.matching.verdict import Verdict
from bot_deploy.reports.tables import json_document, text_lines, write_csv

FOUND = Ranking(
    Path("asked/a.jpg"),
    (Match(Path("g/x/1.jpg"), 0.987654321, 1, "0002", 3, 451.0), Match(Path("g/2.jpg"), -0.25, 2)),
    Verdict("match", "match: the best scores 0.988", 0.001, 0.25),
)
NO_MATCHES = Ranking(Path("b.jpg"), (), Verdict("no match", "no match: nothing is left"))


def test_document() -> None:
    assert json.loads(json.dumps(json_document(FOUND))) == {
        "query": "asked/a.jpg",
        "matches": [
            {"path": "g/x/1.jpg", "score": 0.987654321, "rank": 1, "identity": "0002", "camera": 3, "time": 451.0},
            {"path": "g/2.jpg", "score": -0.25, "rank": 2, "identity": None, "camera": None, "time": None},
        ],
        "verdict": "match: the best scores 0.988",
        "decision": "match",
        "false_accept_rate": 0.001,
        "gallery_false_accept_rate": 0.25,
        "other_cameras": [],
    }
    person = Ranking(Path("p"), (), NO_MATCHES.verdict, shots=(Path("p/1.jpg"), Path("p/2.jpg")))
    assert json_document(person)["shots"] == ["p/1.jpg", "p/2.jpg"]
    assert "shots" not in json_document(NO_MATCHES)


def test_table() -> None:
    one = "rank  score   path\n   1  0.9877  g/x/1.jpg\n   2  -0.2500  g/2.jpg\nmatch: the best scores 0.988"
    assert "\n".join(text_lines([FOUND])) == one
    assert (
        "\n".join(text_lines([FOUND, NO_MATCHES]))
        == f"asked/a.jpg\n{one}\n\nb.jpg\nrank  score   path\nno match: nothing is left"
    )


def test_csv_to_the_letter(tmp_path: Path) -> None:
    write_csv([FOUND, NO_MATCHES], tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_bytes() == (
        b"query,rank,path,score,identity,camera,time,decision,verdict\r\n"
        b"asked/a.jpg,1,g/x/1.jpg,0.987654,0002,3,451.0,match,match: the best scores 0.988\r\n"
        b"asked/a.jpg,2,g/2.jpg,-0.250000,,,,match,match: the best scores 0.988\r\n"
    )


@pytest.mark.parametrize(
    ("name", "identity", "written"),
    [
        ("=1+1.jpg", "=cmd", ("./=1+1.jpg", "'=cmd")),
        ("+a.jpg", "+1", ("./+a.jpg", "'+1")),
        ("-a.jpg", "-a", ("./-a.jpg", "'-a")),
        ("@a.jpg", "@a", ("./@a.jpg", "'@a")),
        ("\ta.jpg", "\ra", ("./\ta.jpg", "'\ra")),
        ("a=1.jpg", "-1", ("a=1.jpg", "-1")),  # Market-1501's junk is a number
        ('a "b", c.jpg', "line\nline", ('a "b", c.jpg', "line\nline")),
        (os.fsdecode(b"caf\xe9.jpg"), "ü☃", ("caf\\udce9.jpg", "ü☃")),
    ],
)
def test_no_cell_is_a_formula_or_breaks_its_row(
    name: str, identity: str, written: tuple[str, str], tmp_path: Path
) -> None:
    ranking = Ranking(Path(name), (Match(Path(name), 0.5, 1, identity),), FOUND.verdict)
    write_csv([ranking], tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["query"], row["path"], row["identity"]) == (written[0], *written)
