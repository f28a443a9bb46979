"""Rank lists as pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from bot_deploy import images
from bot_deploy.datasets import identity_in
from bot_deploy.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot_deploy.match import Ranking

HEIGHT, WIDTH = 192, 96  # pixels of a crop
MOST = 20  # matches of one query that are drawn
GAP, FRAME, CAPTION = 10, 4, 22
PAPER, INK = (255, 255, 255), (40, 40, 40)
QUERY, RIGHT, WRONG, UNKNOWN = (40, 90, 200), (30, 150, 60), (205, 50, 45), (190, 190, 190)


def montage(rankings: Sequence[Ranking], path: Path) -> None:
    """Writes a picture to `path`: a row for each query, then its matches with rank and score.

    Where file names carry identities (Market-1501), right matches are framed green and wrong ones red.

    Raises:
        RunError: `path` cannot be written.
    """
    columns = 1 + max(len(ranking.matches[:MOST]) for ranking in rankings)
    step_x, step_y = WIDTH + GAP, HEIGHT + CAPTION + GAP
    sheet = Image.new("RGB", (columns * step_x + 2 * GAP, len(rankings) * step_y + GAP), PAPER)
    for row, ranking in enumerate(rankings):
        top = GAP + row * step_y
        wanted = identity_in(ranking.query.name)
        _tile(sheet, (GAP, top), ranking.query, QUERY, "query")
        for match in ranking.matches[:MOST]:
            left = 2 * GAP + match.rank * step_x
            colour = UNKNOWN if wanted is None else RIGHT if identity_in(match.path.name) == wanted else WRONG
            _tile(sheet, (left, top), match.path, colour, f"{match.rank}:  {match.score:.3f}")
    check_picture(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except OSError as error:
        raise RunError(f"{path}: the picture cannot be written ({error.strerror or error})") from None


def check_picture(path: Path) -> None:
    """Raises InputError when `path` names no kind of picture that `montage` writes."""
    if path.suffix.lower() not in images.SUFFIXES:
        raise InputError(f"{path}: a picture ends in {', '.join(sorted(images.SUFFIXES))}")


def _tile(sheet: Image.Image, corner: tuple[int, int], path: Path, colour: tuple[int, int, int], text: str) -> None:
    left, top = corner
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, left + WIDTH - 1, top + HEIGHT - 1), fill=colour)
    inner = images.load_resized(path, (HEIGHT - 2 * FRAME, WIDTH - 2 * FRAME))
    sheet.paste(Image.fromarray(inner), (left + FRAME, top + FRAME))
    draw.text((left + WIDTH // 2, top + HEIGHT + 4), text, INK, ImageFont.load_default(13), anchor="ma")
