"""Rank lists as a picture."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from bot_deploy import images
from bot_deploy.errors import ImageError
from bot_deploy.files import prepare_output, write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot_deploy.matching.match import Ranking

logger = logging.getLogger(__name__)

HEIGHT, WIDTH = 192, 96  # pixels of a crop
MOST = 20  # matches of one query that are drawn, and shots of one person
MOST_QUERIES = 70  # rows: a WebP ends at 16,383 pixels
GAP, FRAME, CAPTION = 10, 4, 22
PAPER, INK = (255, 255, 255), (40, 40, 40)
QUERY, RIGHT, WRONG, UNKNOWN = (40, 90, 200), (30, 150, 60), (205, 50, 45), (190, 190, 190)
COLOURS = {True: RIGHT, False: WRONG, None: UNKNOWN}


def write_montage(rankings: Sequence[Ranking], path: Path) -> None:
    """Writes a picture to `path`: a row for each query, then its matches with rank and score.

    Where identities are known (see `Ranking.is_correct`), right matches are framed green and wrong ones red. Of several
    shots of one person, the first stands for all.

    Raises:
        InputError: `path` does not end like a picture.
        RunError: it cannot be written.
    """
    prepare_output(path, "a picture", images.SUFFIXES)
    if len(rankings) > MOST_QUERIES:
        logger.info(f"{path}: shows the first {MOST_QUERIES} of {len(rankings)} queries")
        rankings = rankings[:MOST_QUERIES]
    columns = 1 + max(len(ranking.matches[:MOST]) for ranking in rankings)
    step_x, step_y = WIDTH + GAP, HEIGHT + CAPTION + GAP
    sheet = Image.new("RGB", (columns * step_x + 2 * GAP, len(rankings) * step_y + GAP), PAPER)
    for row, ranking in enumerate(rankings):
        top = GAP + row * step_y
        shots = ranking.images or (ranking.query,)
        _tile(sheet, (GAP, top), shots[0], QUERY, "query" if len(shots) == 1 else f"{len(shots)} shots")
        for match in ranking.matches[:MOST]:
            left = 2 * GAP + match.rank * step_x
            _tile(
                sheet, (left, top), match.path, COLOURS[ranking.is_correct(match)], f"{match.rank}:  {match.score:.3f}"
            )
    kind = Image.registered_extensions()[path.suffix.lower()]
    write_atomically(path, lambda temporary: sheet.save(temporary, format=kind))


def _tile(sheet: Image.Image, corner: tuple[int, int], path: Path, colour: tuple[int, int, int], text: str) -> None:
    left, top = corner
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, left + WIDTH - 1, top + HEIGHT - 1), fill=colour)
    try:
        inner = Image.fromarray(images.read_resized(path, (HEIGHT - 2 * FRAME, WIDTH - 2 * FRAME)))
        sheet.paste(inner, (left + FRAME, top + FRAME))
    except ImageError as error:  # a gallery's files may lie on another machine
        logger.warning(f"not drawn: {error}")
        draw.rectangle((left + FRAME, top + FRAME, left + WIDTH - FRAME - 1, top + HEIGHT - FRAME - 1), fill=PAPER)
        draw.text((left + WIDTH // 2, top + HEIGHT // 2), "no picture", INK, ImageFont.load_default(13), anchor="mm")
    draw.text((left + WIDTH // 2, top + HEIGHT + 4), text, INK, ImageFont.load_default(13), anchor="ma")
