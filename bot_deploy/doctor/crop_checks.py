"""Signs in the pixels of crops that something was done to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.images import Pixels

EXAMPLES = 3  # files that a warning names
LOOKED_AT = 256  # pixels of a side that are enough to judge a crop's values by

# The limits were set on 1,500 crops of Market-1501, all of VIPeR and 1,500 synthetic ones: at most 0.5 % of any set's
# crops are past one of them.
SHARE = 0.1  # of the crops that show a sign, and it is no accident
LEVELS = 32  # different values; the least of a clean crop is 72
BLACK, WHITE = 8, 247  # what a JPEG makes of 0 and 255
CLIPPED = 0.5  # share of values that are black or white; the most of a clean crop is 0.47
DARK, BRIGHT = 16, 240  # mean; clean crops have 34 to 204
FLAT = 60  # between the darkest and the brightest percent; 0.1 % of clean crops have less
GREY = 4.0  # largest difference of a channel from the mean of all; 0.1 % of clean crops have less
BORDER = 0.1  # share of a side that has one colour
RATIO = 2.0  # times narrower or wider than the model's input
SMALL = 3.0  # times shorter than the model's input


@dataclass(frozen=True)
class Finding:
    """A warning: a sign that the contract is violated."""

    kind: str
    crops: int  # that show it
    message: str
    examples: tuple[str, ...]


@dataclass(frozen=True)
class CropStatistics:
    """What the values of a crop say; see the limits above."""

    height: int
    width: int
    levels: int
    clipped: float  # share of the values between plain bars
    mean: float
    contrast: float
    chroma: float
    border: float  # share of the height or width


def measure_crop(source: Pixels) -> CropStatistics:
    """Measures uint8 RGB [H, W, 3]; of a large picture, every n-th pixel."""
    height, width = source.shape[:2]
    pixels = source[:: max(1, height // LOOKED_AT), :: max(1, width // LOOKED_AT)]
    top, bottom = _bars(pixels)
    left, right = _bars(pixels.swapaxes(0, 1))
    rows, columns = pixels.shape[:2]
    inside = pixels[top : rows - bottom, left : columns - right]
    grey = pixels.astype(np.float32).mean(2)
    darkest, brightest = np.percentile(grey, (1, 99))
    return CropStatistics(
        height=height,
        width=width,
        levels=len(np.unique(pixels)),
        clipped=float(((inside <= BLACK) | (inside >= WHITE)).mean()) if inside.size else 0.0,
        mean=float(grey.mean()),
        contrast=float(brightest - darkest),
        chroma=float(np.percentile(np.abs(pixels - grey[..., None]).max(2), 99)),
        border=min(1.0, max((top + bottom) / rows, (left + right) / columns)),
    )


def _bars(pixels: Pixels) -> tuple[int, int]:
    """How many rows from the top and from the bottom have one colour."""

    def plain(rows: npt.NDArray[np.int16]) -> int:
        differs = np.abs(rows - rows[0].mean(0)).max((1, 2)) > 12  # noqa: PLR2004 - JPEG's ripples at an edge
        return int(differs.argmax()) if differs.any() else len(rows)

    rows = pixels.astype(np.int16)
    return plain(rows), plain(rows[::-1])


def crop_issues(crop: CropStatistics, contract: Contract) -> Iterator[str]:
    """The kinds of warning that a crop gives cause for: one for its values, and those for its shape."""
    if crop.levels <= LEVELS:
        yield "levels"
    elif not DARK <= crop.mean <= BRIGHT:
        yield "exposure"
    elif crop.contrast < FLAT:
        yield "flat"
    elif crop.clipped >= CLIPPED:
        yield "clipped"
    elif crop.border >= BORDER:
        yield "border"
    elif crop.chroma < GREY:
        yield "grey"
    ratio = crop.height / crop.width * contract.width / contract.height
    if not 1 / RATIO <= ratio <= RATIO:
        yield "shape"
    elif crop.height * SMALL < contract.height:
        yield "small"


MEANINGS = {
    "levels": f"hold {LEVELS} different values or fewer; were they scaled to 0-1 or normalised, then cast to uint8?",
    "clipped": "are mostly pure black and white; were they normalised before they were saved? (the model normalises)",
    "exposure": "are nearly black or nearly white; scaled to 0-1 and saved as uint8, or a camera without light?",
    "flat": "have hardly any contrast; were their values squeezed, as by undoing a normalisation that was never done?",
    "grey": "have no colour; from an infrared camera at night? The model tells people apart by colour, too",
    "border": "have plain bars at their sides; letterboxed? Cut the person only, and let the model's resize stretch it",
    "shape": "are much wider or narrower than the model's input; whole frames, or boxes of half a person?",
    "small": f"have less than 1/{SMALL:.0f} of the model's height in pixels; cut them from a larger picture",
}


def crop_warnings(statistics: Sequence[CropStatistics], paths: Sequence[Path], contract: Contract) -> Iterator[Finding]:
    shown = [set(crop_issues(one, contract)) for one in statistics]
    for kind, meaning in MEANINGS.items():
        rows = np.array([kind in found for found in shown])
        if rows.mean() >= SHARE:
            names = tuple(str(paths[row]) for row in np.flatnonzero(rows)[:EXAMPLES])
            yield Finding(kind, int(rows.sum()), f"{share_of(rows)} {meaning}", names)


def share_of(rows: npt.NDArray[np.bool_]) -> str:
    return f"{rows.sum()} of {len(rows)} crops"
