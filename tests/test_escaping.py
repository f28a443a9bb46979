"""Foreign text for terminals, JSON and tables."""

from __future__ import annotations

import csv
import io
import json

import pytest
from helpers.commands import run_in_process_of_bot
from hypothesis import given
from hypothesis import strategies as st

from bot_deploy import console
from bot_deploy.escaping import escape, json_line, safe_cell

TEXT = st.text(st.characters(codec=None))  # with lone surrogates, as file names have them
# Cells that begin with one of these are formulas for a spreadsheet.
SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Zoë 王.jpg", "Zoë 王.jpg"),
        ("a\x1b[31mred", r"a\x1b[31mred"),
        ("a\nbot: fine", r"a\nbot: fine"),
        ("\r\t\x00\x7f", r"\r\t\x00\x7f"),
        ("\x9b2J\x85", r"\x9b2J\x85"),
        ("gpj.\u202exe", r"gpj.\u202exe"),
        ("\u2066a\u2069\u200b\u2028\ufeff", r"\u2066a\u2069\u200b\u2028\ufeff"),
        ("caf\udce9", r"caf\udce9"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_is_no_visible_character_is_escaped(name: str, shown: str) -> None:
    assert escape(name) == shown


@given(TEXT)
def test_escaped_text_is_visible_and_stays_as_it_is(text: str) -> None:
    assert escape(text).isprintable()
    assert escape(escape(text)) == escape(text)
    assert (escape(text) == text) == text.isprintable()


@given(st.dictionaries(TEXT, st.one_of(TEXT, st.integers(), st.none()), max_size=3))
def test_json_on_one_visible_line_gives_the_same_back(document: dict[str, object]) -> None:
    line = json_line(document)
    assert line.isprintable()
    assert json.loads(line) == document


def test_json_keeps_letters_readable() -> None:
    assert json_line({"name": "Zoë\u202e"}) == '{"name": "Zoë\\u202e"}'


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("a;=cmd|' /C calc'!A0", "a;'=cmd|' /C calc'!A0"),
        ("a; -b", "a;' -b"),
        ("a\t@b", "a\t'@b"),
        (' "=1', "' \"=1"),
        ("\uff1d1", "'\uff1d1"),
        ("-1", "-1"),
        ("-1.5e3;-2", "-1.5e3;-2"),
        ("-1+2", "'-1+2"),
        ("+1", "'+1"),
        ("a=1;b-c", "a=1;b-c"),
    ],
)
def test_cells_that_a_spreadsheet_would_run(cell: str, written: str) -> None:
    assert safe_cell(cell) == written


@given(st.text(st.sampled_from("ab1 ;,\t\n\r'\"|=+-@\uff1d\u00a0")), st.sampled_from(";,\t"))
def test_no_separator_makes_a_cell_a_formula(text: str, separator: str) -> None:
    file = io.StringIO()
    csv.writer(file).writerow(["0", safe_cell(text), "1"])
    for row in csv.reader(io.StringIO(file.getvalue(), newline=""), delimiter=separator):
        for cell in row:
            if cell.strip(" \"'\u00a0\t\r\n")[:1] in tuple(SIGNS):
                begin = cell.lstrip(' "\u00a0\t\r\n')
                assert begin.startswith("'") or float(begin.split('"')[0]) <= 0


def test_every_line_on_the_terminal_is_escaped_and_masked(capsys: pytest.CaptureFixture[str]) -> None:
    console.show("rank", "a\x1b[2J\nb", "rtsp://me:secret@host/x?token=secret")
    console.say("bad\u202e")
    console.say_left_out(["x\ny"])
    console.show_json({"path": "a\x7f\u202e\n", "gallery": ["milvus://me:secret@host/x"]})
    shown = capsys.readouterr()
    assert shown.out.split("\n") == [
        "rank",
        r"a\x1b[2J\nb",
        "rtsp://***@host/x?***",
        r'{"path": "a\u007f\u202e\n", "gallery": ["milvus://***@host/x"]}',
        "",
    ]
    assert shown.err == "bad\\u202e\nleft out: x\\ny\n"


def test_warnings_of_python_are_escaped_too() -> None:
    before = "import atexit, warnings; atexit.register(warnings.warn, 'glyph \\x1b[2J\\n is missing')"
    done = run_in_process_of_bot(before, "--version")
    assert done.stderr == "UserWarning: glyph \\x1b[2J\\n is missing\n"
