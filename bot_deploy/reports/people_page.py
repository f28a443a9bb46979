"""The people of a gallery of footage as one HTML file: the path of each through the cameras, with pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .montage import MAX_TILES
from .page import render_page

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot_deploy.matching.people import SeenPerson


def write_people(people: Sequence[SeenPerson], description: str, root: Path, path: Path) -> None:
    """Writes the page `path` of `people`, with the best picture of each appearance; `root` is the gallery's.

    At most MAX_TILES appearances of each are drawn; the page says how many are not.

    Raises:
        RunError: the file cannot be written.
    """
    render_page("people.html", path, root, people=people, details={"Gallery": description}, MAX_TILES=MAX_TILES)
