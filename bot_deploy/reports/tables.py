"""Rankings as a document, a table and a .csv."""

from __future__ import annotations

import csv
import os
from typing import TYPE_CHECKING

from bot_deploy.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot_deploy.matching.match import Ranking

COLUMNS = ("query", "rank", "path", "score", "identity", "camera", "time", "decision", "verdict")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with which a spreadsheet's formula begins


def document(ranking: Ranking) -> dict[str, object]:
    """`ranking` for JSON."""
    shots = {"shots": [str(shot) for shot in ranking.images]} if ranking.images else {}
    return {
        "query": str(ranking.query),
        **shots,
        "matches": [
            {
                "path": str(match.path),
                "score": match.score,
                "rank": match.rank,
                "identity": match.identity,
                "camera": match.camera,
                "time": match.time,
            }
            for match in ranking.matches
        ],
        "verdict": ranking.verdict.explanation,
        "decision": ranking.verdict.decision,
        "false_accept_rate": ranking.verdict.false_accept_rate,
        "gallery_false_accept_rate": ranking.verdict.gallery_false_accept_rate,
    }


def table(rankings: Sequence[Ranking]) -> str:
    """`rankings` to read, each under its query where there are several."""
    return "\n\n".join(
        "\n".join([*([str(ranking.query)] if len(rankings) > 1 else []), *_lines(ranking)]) for ranking in rankings
    )


def _lines(ranking: Ranking) -> list[str]:
    rows = [f"{match.rank:4d}  {match.score:.4f}  {match.path}" for match in ranking.matches]
    return ["rank  score   path", *rows, ranking.verdict.explanation]


def write_csv(rankings: Sequence[Ranking], path: Path) -> None:
    """Writes COLUMNS, a row for each match, to `path`; a query without matches has none.

    No cell is a formula: a path that looks like one gets "./" before it, and an identity "'".

    Raises:
        RunError: it cannot be written.
    """

    def write(temporary: Path) -> None:
        # The name of a file need not be text.
        with temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            rows = csv.writer(file)
            rows.writerow(COLUMNS)
            for ranking in rankings:
                query, verdict = _cell(str(ranking.query), f".{os.sep}"), ranking.verdict
                for match in ranking.matches:
                    found = _cell(str(match.path), f".{os.sep}"), f"{match.score:.6f}", _cell(match.identity or "", "'")
                    rows.writerow(
                        (query, match.rank, *found, match.camera, match.time, verdict.decision, verdict.explanation)
                    )

    write_atomically(path, write)


def _cell(text: str, guard: str) -> str:
    return guard + text if text.startswith(FORMULA) and not text.lstrip("-").isdecimal() else text
