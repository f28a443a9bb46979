"""Rankings as JSON, as a table to read, and as a .csv file."""

from __future__ import annotations

import csv
import os
from typing import TYPE_CHECKING

from bot_deploy.escaping import safe_cell
from bot_deploy.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot_deploy.matching.match import Ranking

COLUMNS = ("query", "rank", "path", "score", "identity", "camera", "time", "decision", "verdict")


def json_document(ranking: Ranking) -> dict[str, object]:
    """`ranking` as a JSON object."""
    shots = {"shots": [str(path) for path in ranking.shots]} if ranking.shots else {}
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


def text_lines(rankings: Sequence[Ranking]) -> list[str]:
    """`rankings` as lines of text; several have the path of the query above each, and an empty line between them."""
    lines: list[str] = []
    for ranking in rankings:
        lines += [*([""] if lines else []), *([str(ranking.query)] if len(rankings) > 1 else []), *_lines(ranking)]
    return lines


def _lines(ranking: Ranking) -> list[str]:
    rows = [f"{match.rank:4d}  {match.score:.4f}  {match.path}" for match in ranking.matches]
    return ["rank  score   path", *rows, ranking.verdict.explanation]


def write_csv(rankings: Sequence[Ranking], path: Path) -> None:
    """Writes the table `path` with COLUMNS and a row for each match; a query without matches has no row.

    No cell is a formula of a spreadsheet: a path that looks like one gets the prefix "./", an identity the prefix "'",
    and so does what follows a semicolon.

    Raises:
        RunError: the file cannot be written.
    """

    def write(temporary: Path) -> None:
        # A file name need not be valid text.
        with temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for ranking in rankings:
                query, verdict = _path_cell(ranking.query), ranking.verdict
                for match in ranking.matches:
                    match_path, identity = _path_cell(match.path), safe_cell(match.identity or "")
                    row = (query, match.rank, match_path, f"{match.score:.6f}", identity, match.camera, match.time)
                    writer.writerow((*row, verdict.decision, verdict.explanation))

    write_atomically(path, write)


def _path_cell(path: Path) -> str:
    return safe_cell(str(path), f".{os.sep}")
