"""Where the pictures of several cameras stand in one picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

MAX_HEIGHT, MAX_WIDTH = 1080, 1920  # pixels, of several pictures together


class Place(NamedTuple):
    """Where a picture stands: the pixels of its upper left corner, and pixels there for one of its own."""

    left: int
    top: int
    scale: float


@dataclass(frozen=True)
class Grid:
    """Equal cells in rows; a picture is fitted into its cell."""

    cell: tuple[int, int]  # height and width
    columns: int
    rows: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of all cells."""
        return self.rows * self.cell[0], self.columns * self.cell[1]

    def place(self, number: int, size: tuple[int, int]) -> Place:
        """The place of picture `number`, from 0, of `size`: height and width."""
        row, column = divmod(number, self.columns)
        scale = min(cell / side for cell, side in zip(self.cell, size, strict=True))
        top, left = (
            round((cell - scale * side) / 2) + cell * index
            for cell, side, index in zip(self.cell, size, (row, column), strict=True)
        )
        return Place(left, top, scale)

    def find(self, point: tuple[int, int], sizes: list[tuple[int, int]]) -> tuple[int, tuple[float, float]] | None:
        """The picture at `point` (x, y), of those of `sizes`, and the point in its own pixels; None beside them."""
        for number, size in enumerate(sizes):
            left, top, scale = self.place(number, size)
            x, y = (point[0] - left) / scale, (point[1] - top) / scale
            if 0 <= x < size[1] and 0 <= y < size[0]:
                return number, (x, y)
        return None


def arrange(count: int, size: tuple[int, int]) -> Grid:
    """The grid for `count` pictures, the first of which has `size`: height and width. One keeps its size."""
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    scale = 1.0 if count == 1 else min(1.0, MAX_HEIGHT / (rows * size[0]), MAX_WIDTH / (columns * size[1]))
    return Grid((max(1, int(scale * size[0])), max(1, int(scale * size[1]))), columns, rows)
