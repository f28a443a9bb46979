"""The usual preprocessing mistakes, each as a function that makes the wrong model input of a crop."""

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
class Mistake:
    """A preprocessing mistake."""

    name: str
    apply: Callable[[Pixels, Contract], Pixels]  # crop [H, W, 3] -> the wrong model input [height, width, 3]
    symptom: str  # how to recognise it


def preprocess_correctly(source: Pixels, contract: Contract) -> Pixels:
    """The model input that the contract describes, uint8 [height, width, 3]."""
    return images.resize(source, contract.size)


def swap_red_and_blue(source: Pixels, contract: Contract) -> Pixels:
    """The right input, but in the channel order BGR."""
    return preprocess_correctly(source, contract)[..., ::-1]


def _resize_with(kernel: Image.Resampling) -> Callable[[Pixels, Contract], Pixels]:
    def resized(source: Pixels, contract: Contract) -> Pixels:
        return np.asarray(Image.fromarray(source).resize((contract.width, contract.height), kernel))

    return resized


def resize_without_antialiasing(source: Pixels, contract: Contract) -> Pixels:
    """Bilinear between the four nearest pixels only, as OpenCV's INTER_LINEAR; equal to it within one grey level."""
    whole = (0, 0, source.shape[1], source.shape[0])
    resized = Image.fromarray(source).transform(
        (contract.width, contract.height), Image.Transform.EXTENT, whole, Image.Resampling.BILINEAR
    )
    return np.asarray(resized)


def letterbox(source: Pixels, contract: Contract) -> Pixels:
    """The crop in the middle with its aspect ratio, the rest black."""
    return images.letterbox(source, contract.size)


def scale_to_unit_range(source: Pixels, contract: Contract) -> Pixels:
    """Scaled to [0, 1] and cast to uint8: 1 for a value of 255, else 0."""
    return (preprocess_correctly(source, contract) / 255).astype(np.uint8)


def _normalize(source: Pixels, contract: Contract) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = (
        preprocess_correctly(source, contract) / 255 - np.array(contract.mean)
    ) / np.array(contract.std)
    return values


def normalize_then_cast(source: Pixels, contract: Contract) -> Pixels:
    """Normalised and cast to uint8; negative values wrap around, as with NumPy on x86."""
    return _normalize(source, contract).astype(np.int32).astype(np.uint8)


def normalize_twice(source: Pixels, contract: Contract) -> Pixels:
    """Normalised, clamped to [0, 1] and multiplied by 255; the graph then normalises a second time."""
    return np.asarray(np.rint(255 * _normalize(source, contract).clip(0, 1)), np.uint8)


def skip_normalization(source: Pixels, contract: Contract) -> Pixels:
    """Values that the graph's normalisation turns into [0, 1], as if nothing were normalised."""
    values = np.array(contract.mean) + np.array(contract.std) * preprocess_correctly(source, contract) / 255
    return np.asarray(np.rint(255 * values).clip(0, 255), np.uint8)


def recompress(source: Pixels, contract: Contract) -> Pixels:
    """Compressed as a JPEG of quality 50 and decoded again."""
    stream = io.BytesIO()
    Image.fromarray(source).save(stream, "JPEG", quality=50)
    return preprocess_correctly(images.decode_image(stream.getvalue(), "a crop as JPEG"), contract)


def halve_resolution(source: Pixels, contract: Contract) -> Pixels:
    """Shrunk to half the height and width first."""
    height, width = source.shape[:2]
    return preprocess_correctly(images.resize(source, (max(1, height // 2), max(1, width // 2))), contract)


def cut_one_pixel(source: Pixels, contract: Contract) -> Pixels:
    """Cut by one pixel on each side."""
    return preprocess_correctly(source[1:-1, 1:-1] if min(source.shape[:2]) > 2 else source, contract)  # noqa: PLR2004


MISTAKES = (
    Mistake(
        BGR,
        swap_red_and_blue,
        "Faces are blue in a saved picture of the model's input; cv2.imread and cv2.VideoCapture give BGR.",
    ),
    Mistake(
        "resized by bicubic",
        _resize_with(Image.Resampling.BICUBIC),
        "Pillow's default for resize(); scores drop a little everywhere, most on large crops.",
    ),
    Mistake(
        "resized by area (box)",
        _resize_with(Image.Resampling.BOX),
        "cv2.INTER_AREA; scores drop a little everywhere, most where the scale is small or odd.",
    ),
    Mistake(
        "resized without antialiasing",
        resize_without_antialiasing,
        "cv2.resize's default, or interpolate(antialias=False); large crops match worse than small ones.",
    ),
    Mistake(
        "resized by nearest",
        _resize_with(Image.Resampling.NEAREST),
        "INTER_NEAREST or a plain [::n]; edges look like stairs, and scores flicker from frame to frame.",
    ),
    Mistake(
        "letterboxed, not stretched",
        letterbox,
        "Bars beside the person, as in the input of detectors; ReID models are trained on stretched crops.",
    ),
    Mistake(
        "as 0-1 cast to uint8",
        scale_to_unit_range,
        "ToTensor() or / 255 before the model: its input is black, and every score is near 1.",
    ),
    Mistake(
        "normalised, cast to uint8",
        normalize_then_cast,
        "(x - mean) / std before the model, then astype(uint8): its input holds about six different values.",
    ),
    Mistake(
        "normalised twice",
        normalize_twice,
        "Before the model and again in it, as with a saved tensor: its input is mostly pure black and white.",
    ),
    Mistake(
        "not normalised",
        skip_normalization,
        "A copy of the network without its normalisation, on values of 0-1: all scores are high and close together.",
    ),
    Mistake(
        "as JPEG of quality 50",
        recompress,
        "8x8 blocks in the stored crops; the files are much smaller than before.",
    ),
    Mistake(
        "from half the resolution",
        halve_resolution,
        "Crops of a substream or a shrunk frame instead of the full picture; they look blurred beside the others.",
    ),
    Mistake(
        "one pixel tighter (for scale)",
        cut_one_pixel,
        "Not a mistake: the effect of another detector's box; a smaller effect is noise.",
    ),
)
