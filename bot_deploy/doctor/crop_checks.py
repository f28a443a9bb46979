"""Signs in the pixels of crops that they were processed, cut or stored wrongly."""

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

MAX_EXAMPLES = 3  # files that a warning lists
MEASURED_PIXELS = 256  # pixels of a side that are enough to measure a crop

# The limits were set on 1,500 crops of Market-1501, all of VIPeR and 1,500 synthetic crops. At most 0.5 % of the crops
# of each set exceed a limit.
MIN_SHARE = 0.1  # share of crops with an issue, from which on it is no accident
MAX_FEW_LEVELS = 32  # different values; clean crops have at least 72
BLACK, WHITE = 8, 247  # values that a JPEG makes of 0 and 255
MIN_CLIPPED = 0.5  # share of values that are black or white; clean crops have at most 0.47
DARK, BRIGHT = 16, 240  # mean value; clean crops have 34 to 204
MIN_CONTRAST = 60  # between the darkest and the brightest percent; 0.1 % of clean crops have less
MIN_CHROMA = 4.0  # largest difference of a channel from the mean of all; 0.1 % of clean crops have less
MIN_BORDER = 0.1  # share of a side that has one colour
MAX_RATIO = 2.0  # times narrower or wider than the model's input
MAX_ENLARGEMENT = 3.0  # times shorter than the model's input
PLAIN_TOLERANCE = 12  # differences inside a bar: ripples of JPEG at its edge


@dataclass(frozen=True)
class DoctorWarning:
    """A warning: a sign that crops or model do not fulfil the contract."""

    kind: str
    crops: int  # number of crops that show it
    message: str
    examples: tuple[str, ...]  # files


@dataclass(frozen=True)
class CropStatistics:
    """Figures of the pixels of one crop, for the limits above."""

    height: int
    width: int
    levels: int
    clipped: float  # share of black and white values, without plain bars
    mean: float
    contrast: float
    chroma: float
    border: float  # share of the height or width that plain bars take


def measure_crop(source: Pixels) -> CropStatistics:
    """Measures a crop, uint8 RGB [H, W, 3]; in a large image, every n-th pixel."""
    height, width = source.shape[:2]
    pixels = source[:: max(1, height // MEASURED_PIXELS), :: max(1, width // MEASURED_PIXELS)]
    top, bottom = _measure_bars(pixels)
    left, right = _measure_bars(pixels.swapaxes(0, 1))
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


def _measure_bars(pixels: Pixels) -> tuple[int, int]:
    """The number of rows of one colour at the top and at the bottom."""

    def plain(rows: npt.NDArray[np.int16]) -> int:
        differs = np.abs(rows - rows[0].mean(0)).max((1, 2)) > PLAIN_TOLERANCE
        return int(differs.argmax()) if differs.any() else len(rows)

    rows = pixels.astype(np.int16)
    return plain(rows), plain(rows[::-1])


def crop_issues(crop: CropStatistics, contract: Contract) -> Iterator[str]:
    """The issues of a crop: at most one of its values, and at most one of its shape."""
    if crop.levels <= MAX_FEW_LEVELS:
        yield "levels"
    elif not DARK <= crop.mean <= BRIGHT:
        yield "exposure"
    elif crop.contrast < MIN_CONTRAST:
        yield "flat"
    elif crop.clipped >= MIN_CLIPPED:
        yield "clipped"
    elif crop.border >= MIN_BORDER:
        yield "border"
    elif crop.chroma < MIN_CHROMA:
        yield "grey"
    ratio = crop.height / crop.width * contract.width / contract.height
    if not 1 / MAX_RATIO <= ratio <= MAX_RATIO:
        yield "shape"
    elif crop.height * MAX_ENLARGEMENT < contract.height:
        yield "small"


MESSAGES = {
    "levels": f"hold at most {MAX_FEW_LEVELS} different values; scaled to 0-1 or normalised, then cast to uint8?",
    "clipped": "are mostly pure black and white; were they normalised before they were saved? (the model normalises)",
    "exposure": "are nearly black or nearly white; scaled to 0-1 and saved as uint8, or a camera without light?",
    "flat": "have hardly any contrast; were their values squeezed, as by undoing a normalisation that was never done?",
    "grey": "have no colour; from an infrared camera at night? The model distinguishes people also by colour",
    "border": "have plain bars at their sides; letterboxed? Cut the person only, and let the model's resize stretch it",
    "shape": "are much wider or narrower than the model's input; whole frames, or boxes of half a person?",
    "small": f"have less than 1/{MAX_ENLARGEMENT:.0f} of the model's height in pixels; cut them from a larger picture",
}


def find_crop_warnings(
    statistics: Sequence[CropStatistics], paths: Sequence[Path], contract: Contract
) -> Iterator[DoctorWarning]:
    """A warning for each issue that at least MIN_SHARE of the crops show."""
    issues = [set(crop_issues(crop, contract)) for crop in statistics]
    for kind, message in MESSAGES.items():
        affected = np.array([kind in of_crop for of_crop in issues])
        if affected.mean() >= MIN_SHARE:
            examples = tuple(str(paths[row]) for row in np.flatnonzero(affected)[:MAX_EXAMPLES])
            yield DoctorWarning(kind, int(affected.sum()), f"{format_share(affected)} {message}", examples)


def format_share(affected: npt.NDArray[np.bool_]) -> str:
    """The number of affected crops, for a message."""
    return f"{affected.sum()} of {len(affected)} crops"
