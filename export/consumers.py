"""The programs that run a ReID network of somebody else, and how each prepares a crop.

Each function below repeats what a program does with one crop, so that parity compares the embeddings that the program
will get. All but Triton's clients shrink crops without antialiasing, as our training does not: see `ResizeSkew`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bot_deploy import images
from bot_deploy.choices import CONSUMERS, INPUT_LAYOUTS, INPUT_RANGES, MAX_BATCH, MEAN, OPSET, STD
from bot_deploy.doctor.mistakes import resize_without_antialiasing
from bot_deploy.errors import InputError, require_range

from .front import Front

if TYPE_CHECKING:
    from collections.abc import Callable

    from bot_deploy.artifacts.contract import Contract
    from bot_deploy.images import Pixels

OLDER_OPSET = 17  # the newest that TensorRT 8 and older releases of OpenCV read
Input = npt.NDArray[Any]  # what a graph takes for one crop, without the batch


@dataclass(frozen=True)
class Consumer:
    """A program, and the file that it takes."""

    name: str  # one of choices.CONSUMERS
    front: Front
    prepare: Callable[[Pixels, Contract], Input]  # crop RGB uint8 [H, W, 3] of any size -> input of the graph
    opset: int = OLDER_OPSET
    own_resize: bool = True  # whether it resizes otherwise than we do


def prepare_ultralytics(crop: Pixels, contract: Contract) -> Input:
    """Ultralytics 8.4.190, trackers/utils/reid.py, `ReID._crops_to_tensor`: bilinear, from 0 to 1."""
    return _planes(resize_without_antialiasing(crop, contract)) / np.float32(255)


def prepare_boxmot(crop: Pixels, contract: Contract) -> Input:
    """BoxMOT 25.0, reid/core/crops.py, `prepare_crop_batch`: cv2.resize, ImageNet's mean and standard deviation."""
    return _normalize(_planes(resize_without_antialiasing(crop, contract)))


def prepare_deepstream(crop: Pixels, contract: Contract) -> Input:
    """DeepStream 9.2, nvtracker: netScaleFactor * (pixel - offset), with the factor 1 and the offset 0 of our block."""
    return _planes(resize_without_antialiasing(crop, contract))


def prepare_opencv(crop: Pixels, contract: Contract) -> Input:
    """OpenCV 4.14, `cv2.dnn.blobFromImage(crop, 1, (width, height), swapRB=True)`: bilinear, RGB from 0 to 255."""
    return _planes(resize_without_antialiasing(crop, contract))


def prepare_triton(crop: Pixels, contract: Contract) -> Input:
    """A client of Triton sends the bytes of the contract."""
    return images.resize(crop, contract.size)


def _prepare_plain(front: Front, crop: Pixels, contract: Contract) -> Input:
    """Our resize, then what `front` says."""
    pixels = images.resize(crop, contract.size)
    if front.layout == "uint8-nhwc":
        return pixels
    planes = _planes(pixels)
    return {"0-255": planes, "0-1": planes / np.float32(255), "imagenet": _normalize(planes)}[front.pixel_range]


def _planes(pixels: Pixels) -> npt.NDArray[np.float32]:
    return pixels.transpose(2, 0, 1).astype(np.float32)


def _normalize(planes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (MEAN, STD))
    return (planes / np.float32(255) - mean) / std


KNOWN = {
    "ultralytics": Consumer("ultralytics", Front("float-nchw", "0-1"), prepare_ultralytics),
    "boxmot": Consumer("boxmot", Front("float-nchw", "imagenet"), prepare_boxmot),
    # DeepStream scales vectors to length 1 in float32 itself, also where the network runs in FP16.
    "deepstream": Consumer("deepstream", Front("float-nchw", unit_length=False), prepare_deepstream),
    "triton": Consumer("triton", Front(), prepare_triton, OPSET, own_resize=False),
    "opencv": Consumer("opencv", Front("float-nchw"), prepare_opencv),
}


def make_consumer(
    name: str = "plain",
    *,
    layout: str | None = None,
    pixel_range: str | None = None,
    batch: int | None = None,
    unit_length: bool | None = None,
) -> Consumer:
    """The program `name` with a file of other properties than usual.

    Args:
        name: one of `choices.CONSUMERS`. "plain" is any program that resizes as the contract says.
        layout: one of `choices.INPUT_LAYOUTS`; by default that of the program, for "plain" "float-nchw".
        pixel_range: one of `choices.INPUT_RANGES`; by default that of the program, for "plain" "imagenet".
        batch: the only number of images that the graph takes; by default any.
        unit_length: whether embeddings have length 1; by default they have, except for DeepStream, which normalises.

    Raises:
        InputError: no such program, layout, range or batch, or one that does not fit the program.
    """
    for parameter, value, choices in (
        ("for", name, CONSUMERS),
        ("input", layout, INPUT_LAYOUTS),
        ("range", pixel_range, INPUT_RANGES),
    ):
        if value is not None and value not in choices:
            raise InputError(f"{value!r}: choose from {', '.join(choices)}", parameter=parameter)
    if batch is not None:
        require_range("batch_static", batch, 1, MAX_BATCH)
    if name == "plain":
        front = _plain_front(layout, pixel_range)
    else:
        front = KNOWN[name].front
        for parameter, asked, own in (("input", layout, front.layout), ("range", pixel_range, front.pixel_range)):
            if asked not in {None, own}:
                raise InputError(f"{name} takes {own}; {asked} is for other programs, `plain`", parameter=parameter)
        if name == "triton" and batch is not None:
            raise InputError("Triton makes batches of any size", parameter="batch_static")
    front = replace(front, batch=batch, unit_length=front.unit_length if unit_length is None else unit_length)
    if name == "plain":
        return Consumer("plain", front, partial(_prepare_plain, front), own_resize=False)
    return replace(KNOWN[name], front=front)


def _plain_front(layout: str | None, pixel_range: str | None) -> Front:
    if layout == "uint8-nhwc":
        if pixel_range not in {None, "0-255"}:
            raise InputError(f"bytes are from 0 to 255, not in the range {pixel_range}", parameter="range")
        return Front()
    return Front("float-nchw", pixel_range or "imagenet")
