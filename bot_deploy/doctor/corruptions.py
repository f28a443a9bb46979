"""The usual mistakes, each as what it makes of a crop."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from bot_deploy import images

if TYPE_CHECKING:
    from collections.abc import Callable

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.images import Pixels


BGR = "as BGR (red and blue swapped)"


@dataclass(frozen=True)
class Corruption:
    """A way to feed a crop that is not the contract's; `pixels` makes the model's input [height, width, 3] of one."""

    name: str
    pixels: Callable[[Pixels, Contract], Pixels]
    sign: str  # how to recognise it


def preprocess_correctly(source: Pixels, contract: Contract) -> Pixels:
    return images.resize(source, contract.size)


def bgr(source: Pixels, contract: Contract) -> Pixels:
    return preprocess_correctly(source, contract)[..., ::-1]


def _by(kernel: Image.Resampling) -> Callable[[Pixels, Contract], Pixels]:
    def resized(source: Pixels, contract: Contract) -> Pixels:
        return np.asarray(Image.fromarray(source).resize((contract.width, contract.height), kernel))

    return resized


def not_antialiased(source: Pixels, contract: Contract) -> Pixels:
    """The four nearest pixels of each point, however far apart: OpenCV's INTER_LINEAR to within one grey level."""
    whole = (0, 0, source.shape[1], source.shape[0])
    shrunk = Image.fromarray(source).transform(
        (contract.width, contract.height), Image.Transform.EXTENT, whole, Image.Resampling.BILINEAR
    )
    return np.asarray(shrunk)


def letterboxed(source: Pixels, contract: Contract) -> Pixels:
    """Aspect ratio kept, the rest black, the crop in the middle."""
    height, width = source.shape[:2]
    scale = min(contract.height / height, contract.width / width)
    inner = images.resize(source, (max(1, round(height * scale)), max(1, round(width * scale))))
    box = np.zeros((contract.height, contract.width, 3), np.uint8)
    top, left = (contract.height - inner.shape[0]) // 2, (contract.width - inner.shape[1]) // 2
    box[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return box


def scaled(source: Pixels, contract: Contract) -> Pixels:
    """[0, 1] cast to uint8: 1 where a value was 255, else 0."""
    return (preprocess_correctly(source, contract) / 255).astype(np.uint8)


def _normalised(source: Pixels, contract: Contract) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = (
        preprocess_correctly(source, contract) / 255 - np.array(contract.mean)
    ) / np.array(contract.std)
    return values


def normalized_then_uint8(source: Pixels, contract: Contract) -> Pixels:
    """Normalised and cast to uint8; negative values wrap around, as NumPy does it on x86."""
    return _normalised(source, contract).astype(np.int32).astype(np.uint8)


def normalized_twice(source: Pixels, contract: Contract) -> Pixels:
    """Normalised, clamped to [0, 1] and times 255, so that the graph normalises what is normalised."""
    return np.asarray(np.rint(255 * _normalised(source, contract).clip(0, 1)), np.uint8)


def not_normalized(source: Pixels, contract: Contract) -> Pixels:
    """What the graph's own normalisation turns into [0, 1], as a network would get it that nobody normalises for."""
    values = np.array(contract.mean) + np.array(contract.std) * preprocess_correctly(source, contract) / 255
    return np.asarray(np.rint(255 * values).clip(0, 255), np.uint8)


def recompressed(source: Pixels, contract: Contract) -> Pixels:
    """Through a JPEG of quality 50."""
    stream = io.BytesIO()
    Image.fromarray(source).save(stream, "JPEG", quality=50)
    return preprocess_correctly(images.decode_image(stream.getvalue(), "a crop as JPEG"), contract)


def halved(source: Pixels, contract: Contract) -> Pixels:
    """From half the crop's pixels each way."""
    height, width = source.shape[:2]
    return preprocess_correctly(images.resize(source, (max(1, height // 2), max(1, width // 2))), contract)


def tighter(source: Pixels, contract: Contract) -> Pixels:
    """One pixel less on each side."""
    return preprocess_correctly(source[1:-1, 1:-1] if min(source.shape[:2]) > 2 else source, contract)  # noqa: PLR2004


CORRUPTIONS = (
    Corruption(
        BGR,
        bgr,
        "Faces are blue in a picture saved of what the model gets; cv2.imread and cv2.VideoCapture give BGR.",
    ),
    Corruption(
        "resized by bicubic",
        _by(Image.Resampling.BICUBIC),
        "Pillow's default for resize(); scores drop a little everywhere, most on large crops.",
    ),
    Corruption(
        "resized by area (box)",
        _by(Image.Resampling.BOX),
        "cv2.INTER_AREA; scores drop a little everywhere, most where the scale is small or odd.",
    ),
    Corruption(
        "resized without antialiasing",
        not_antialiased,
        "cv2.resize's default, or interpolate(antialias=False); large crops match worse than small ones.",
    ),
    Corruption(
        "resized by nearest",
        _by(Image.Resampling.NEAREST),
        "INTER_NEAREST or a plain [::n]; edges look like stairs, and scores flicker from frame to frame.",
    ),
    Corruption(
        "letterboxed, not stretched",
        letterboxed,
        "Bars beside the person, as detectors are fed; ReID models are trained on stretched crops.",
    ),
    Corruption(
        "as 0-1 cast to uint8",
        scaled,
        "ToTensor() or / 255 before the model: its input is black, and every score is near 1.",
    ),
    Corruption(
        "normalised, cast to uint8",
        normalized_then_uint8,
        "(x - mean) / std before the model, then astype(uint8): its input holds about six different values.",
    ),
    Corruption(
        "normalised twice",
        normalized_twice,
        "Before the model and in it, as of a saved normalised tensor: its input is mostly pure black and white.",
    ),
    Corruption(
        "not normalised",
        not_normalized,
        "What a copy of the network without its normalisation gets on 0-1: scores are all high and close together.",
    ),
    Corruption(
        "as JPEG of quality 50",
        recompressed,
        "8x8 blocks in the stored crops, which are much smaller files than before.",
    ),
    Corruption(
        "from half the resolution",
        halved,
        "Crops of a substream or a shrunk frame instead of the full picture; they look soft beside the others.",
    ),
    Corruption(
        "one pixel tighter (for scale)",
        tighter,
        "No mistake: what another detector's box does; less than this is noise.",
    ),
)
