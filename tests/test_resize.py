"""The one resize, to golden pixels and by a naive loop."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from helpers.image_files import NOISE, SMOOTH, U8, encoded_as

from bot_deploy import images


def triangle_weights(size: int, out: int) -> list[list[tuple[int, float]]]:
    """For each output pixel the input pixels it sees and their weights: a triangle, widened when shrinking."""
    scale = size / out
    support = max(scale, 1.0)
    rows = []
    for target in range(out):
        centre = (target + 0.5) * scale
        seen = []
        for source in range(size):
            weight = 1 - abs(source + 0.5 - centre) / support
            if weight > 0:
                seen.append((source, weight))
        total = sum(weight for _, weight in seen)
        rows.append([(source, weight / total) for source, weight in seen])
    return rows


def naive_resize(image: U8, height: int, width: int) -> npt.NDArray[np.float64]:
    down, across = triangle_weights(image.shape[0], height), triangle_weights(image.shape[1], width)
    out = np.zeros((height, width, 3))
    for y in range(height):
        for x in range(width):
            for channel in range(3):
                out[y, x, channel] = math.fsum(
                    wy * wx * float(image[sy, sx, channel]) for sy, wy in down[y] for sx, wx in across[x]
                )
    return out


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((30, 20), (10, 5)),  # down, by whole numbers
        ((31, 17), (12, 7)),  # down
        ((7, 5), (20, 13)),  # up
        ((9, 21), (24, 8)),  # up and down
        ((24, 6), (7, 15)),
        ((1, 1), (4, 3)),
        ((13, 9), (1, 1)),
        ((16, 8), (16, 4)),  # one side already fits
    ],
)
def test_resize_to_golden_pixels(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = np.random.default_rng(5).integers(0, 256, (*source, 3), dtype=np.uint8)
    resized = images.resize(image, target)
    assert resized.dtype == np.uint8
    assert resized.shape == (*target, 3)
    assert np.abs(resized - naive_resize(image, *target)).max() <= 1


def test_resize_by_hand() -> None:
    # Halving a row: each output pixel sees four inputs with weights 1 3 3 1, three at the borders.
    row = np.repeat(np.array([[0, 80, 160, 240]], np.uint8)[..., None], 3, axis=2)
    expected = [round((3 * 0 + 3 * 80 + 160) / 7), round((80 + 3 * 160 + 3 * 240) / 7)]
    np.testing.assert_array_equal(images.resize(row, (1, 2))[0, :, 0], expected)


def test_an_image_that_fits_is_left_alone() -> None:
    np.testing.assert_array_equal(images.resize(NOISE, (128, 64)), NOISE)


def test_size_is_height_and_width(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded_as("png"))
    assert images.read_resized(tmp_path / "a.png", (20, 10)).shape == (20, 10, 3)
    np.testing.assert_array_equal(images.read_resized(tmp_path / "a.png", (20, 10)), images.resize(SMOOTH, (20, 10)))
