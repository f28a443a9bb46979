"""Rankings as JSON, as a table to read, and as a .csv file."""

from __future__ import annotations

import csv
import os
from typing import TYPE_CHECKING

from bot_deploy.escaping import safe_cell
from bot_deploy.files import write_atomically
from bot_deploy.footage.times import format_span

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot_deploy.footage import Appearance
    from bot_deploy.matching.match import Match, Ranking
    from bot_deploy.matching.people import SeenPerson

COLUMNS = ("query", "rank", "path", "score", "identity", "camera", "time", "decision", "verdict")
PEOPLE_COLUMNS = ("person", "name", "appearance", "camera", "from", "to", "source", "picture")
APPEARANCE_COLUMNS = ("camera_name", "from", "to", "video", "video_from", "video_to")  # where a gallery has videos


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
                **(appearance_document(match.appearance) if match.appearance else {}),
            }
            for match in ranking.matches
        ],
        "verdict": ranking.verdict.explanation,
        "decision": ranking.verdict.decision,
        "false_accept_rate": ranking.verdict.false_accept_rate,
        "gallery_false_accept_rate": ranking.verdict.gallery_false_accept_rate,
        "other_cameras": list(ranking.verdict.other_cameras),
    }


def appearance_document(appearance: Appearance) -> dict[str, object]:
    """When, where and in which video, for JSON."""
    return {
        "camera_name": appearance.camera,
        "from": appearance.start,
        "to": appearance.end,
        "video": str(appearance.video),
        "video_from": appearance.video_start,
        "video_to": appearance.video_end,
        "frames": list(appearance.frames),
    }


def text_lines(rankings: Sequence[Ranking]) -> list[str]:
    """`rankings` as lines of text; several have the path of the query above each, and an empty line between them."""
    lines: list[str] = []
    for ranking in rankings:
        lines += [*([""] if lines else []), *([str(ranking.query)] if len(rankings) > 1 else []), *_lines(ranking)]
    return lines


def _lines(ranking: Ranking) -> list[str]:
    if any(match.appearance for match in ranking.matches):
        rows = [
            (str(match.rank), f"{match.score:.4f}", *_where_and_when(match), str(match.path))
            for match in ranking.matches
        ]
        table = [("rank", "score", "camera", "from", "to", "picture"), *rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
        return [*(line.rstrip() for line in lines), ranking.verdict.explanation]
    rows_of_crops = [f"{match.rank:4d}  {match.score:.4f}  {match.path}" for match in ranking.matches]
    return ["rank  score   path", *rows_of_crops, ranking.verdict.explanation]


def _where_and_when(match: Match) -> tuple[str, str, str]:
    """Camera, beginning and end of `match`; of a crop from no video its camera and time."""
    appearance = match.appearance
    if appearance is None:
        camera = "" if match.camera is None else str(match.camera)
        return camera, "" if match.time is None else f"{match.time:g}", ""
    return appearance.camera, *format_span(appearance)


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
            has_videos = any(match.appearance for ranking in rankings for match in ranking.matches)
            writer.writerow((*COLUMNS, *(APPEARANCE_COLUMNS if has_videos else ())))
            for ranking in rankings:
                query, verdict = _path_cell(ranking.query), ranking.verdict
                for match in ranking.matches:
                    match_path, identity = _path_cell(match.path), safe_cell(match.identity or "")
                    row = (query, match.rank, match_path, f"{match.score:.6f}", identity, match.camera, match.time)
                    seen = _appearance_cells(match.appearance) if match.appearance else ()
                    writer.writerow((*row, verdict.decision, verdict.explanation, *seen))

    write_atomically(path, write)


def write_people_csv(people: Sequence[SeenPerson], root: Path, path: Path) -> None:
    """Writes the table `path` with PEOPLE_COLUMNS and a row for each appearance; `root` is the gallery's.

    Cells are as those of `write_csv`. `picture` is a crop from the middle of the appearance.

    Raises:
        RunError: the file cannot be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file)
            writer.writerow(PEOPLE_COLUMNS)
            for person in people:
                for one in person.appearances:
                    seen = one.appearance
                    camera, start, end, video, *_ = _appearance_cells(seen)
                    who = person.number, safe_cell(person.name or ""), safe_cell(seen.short_key)
                    picture = _path_cell(root / seen.crops[len(seen.crops) // 2])
                    writer.writerow((*who, camera, start, end, video, picture))

    write_atomically(path, write)


def _appearance_cells(appearance: Appearance) -> tuple[object, ...]:
    """The values of APPEARANCE_COLUMNS."""
    start, end, video = appearance.start, appearance.end, _path_cell(appearance.video)
    return safe_cell(appearance.camera), start, end, video, appearance.video_start, appearance.video_end


def _path_cell(path: Path) -> str:
    return safe_cell(str(path), f".{os.sep}")
