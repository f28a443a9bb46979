"""Rank lists as one figure."""

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

    Colour = tuple[int, int, int]

logger = logging.getLogger(__name__)

TILE_HEIGHT, TILE_WIDTH = 192, 96  # pixels of a crop with its frame
MAX_TILES = 20  # matches drawn of one query, and images of a multi-shot query
MAX_QUERIES = 70  # rows; a WebP has at most 16,383 pixels of height
GAP, FRAME, CAPTION_HEIGHT, FONT_SIZE = 10, 4, 22, 13  # pixels
PAPER, INK = (255, 255, 255), (40, 40, 40)
QUERY_COLOUR = (40, 90, 200)
MATCH_COLOURS = {True: (30, 150, 60), False: (205, 50, 45), None: (190, 190, 190)}  # by Ranking.is_correct


def write_rank_list_figure(rankings: Sequence[Ranking], path: Path) -> None:
    """Writes the figure `path`: a row for each query, with its matches, their ranks and scores.

    Where identities are known (see `Ranking.is_correct`), correct matches have a green frame and wrong ones a red one.
    A multi-shot query is drawn by its first image.

    Raises:
        InputError: `path` does not end in the suffix of an image.
        RunError: the file cannot be written.
    """
    prepare_output(path, "a figure", images.WRITABLE_SUFFIXES)
    if len(rankings) > MAX_QUERIES:
        logger.info(f"{path}: shows the first {MAX_QUERIES} of {len(rankings)} queries")
        rankings = rankings[:MAX_QUERIES]
    columns = 1 + max(len(ranking.matches[:MAX_TILES]) for ranking in rankings)
    step_x, step_y = TILE_WIDTH + GAP, TILE_HEIGHT + CAPTION_HEIGHT + GAP
    sheet = Image.new("RGB", (columns * step_x + 2 * GAP, len(rankings) * step_y + GAP), PAPER)
    for row, ranking in enumerate(rankings):
        top = GAP + row * step_y
        paths = ranking.shots or (ranking.query,)
        _draw_tile(sheet, (GAP, top), paths[0], QUERY_COLOUR, "query" if len(paths) == 1 else f"{len(paths)} images")
        for match in ranking.matches[:MAX_TILES]:
            left = 2 * GAP + match.rank * step_x
            colour = MATCH_COLOURS[ranking.is_correct(match)]
            _draw_tile(sheet, (left, top), match.path, colour, f"{match.rank}:  {match.score:.3f}")
    kind = Image.registered_extensions()[path.suffix.lower()]
    write_atomically(path, lambda temporary: sheet.save(temporary, format=kind))


def _draw_tile(sheet: Image.Image, corner: tuple[int, int], path: Path, colour: Colour, caption: str) -> None:
    left, top = corner
    centre, font = left + TILE_WIDTH // 2, ImageFont.load_default(FONT_SIZE)
    right, bottom = left + TILE_WIDTH - 1, top + TILE_HEIGHT - 1  # the last pixels
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, right, bottom), fill=colour)
    try:
        crop = images.read_resized(path, (TILE_HEIGHT - 2 * FRAME, TILE_WIDTH - 2 * FRAME))
        sheet.paste(Image.fromarray(crop), (left + FRAME, top + FRAME))
    except ImageError as error:  # the gallery's files may be on another machine
        logger.warning(f"not drawn: {error}")
        draw.rectangle((left + FRAME, top + FRAME, right - FRAME, bottom - FRAME), fill=PAPER)
        draw.text((centre, top + TILE_HEIGHT // 2), "no image", INK, font, anchor="mm")
    draw.text((centre, top + TILE_HEIGHT + 4), caption, INK, font, anchor="ma")
