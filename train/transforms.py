"""Augmentation of whole batches on the training device (paper sections 2 and 3.2)."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bot_deploy.choices import AUTHORS, MEAN, STD

if TYPE_CHECKING:
    import numpy.typing as npt

    from .recipe import Recipe

ERASED_AREA = (0.02, 0.4)  # share of the image
ERASED_ASPECT_RATIO = (0.3, 3.33)  # height / width
MAX_BOX_TRIES = 100
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey (ITU-R BT.601)
JPEG_QUALITY = (20, 90)


@dataclass(frozen=True)
class Augmentation:
    """The random changes to each image of a batch; all tensors are on one device."""

    flipped: Tensor  # bool [N]
    top: Tensor  # int64 [N], of the crop in the padded image
    left: Tensor  # int64 [N]
    boxes: Tensor  # int64 [N, 4], to erase: top, left, height, width
    factors: Tensor | None = None  # float32 [N, 3], of brightness, contrast and saturation; None: no jitter
    grey: Tensor | None = None  # bool [N], whether the colours go
    quality: Tensor | None = None  # int64 [N], for `compress`, before the images leave the CPU; 0: no compression

    def select(self, rows: slice) -> Augmentation:
        """The changes to some images of the batch."""
        chosen: dict[str, Any] = {name: None if values is None else values[rows] for name, values in vars(self).items()}
        return Augmentation(**chosen)


def draw_augmentation(count: int, recipe: Recipe, rng: np.random.Generator) -> Augmentation:
    """Random changes to `count` images of the recipe's size, on the CPU."""
    flipped = rng.random(count) < recipe.flip_probability
    top, left = rng.integers(0, 2 * recipe.padding + 1, (2, count))
    boxes = draw_erasing_boxes(count, recipe.height, recipe.width, recipe.erasing_probability, rng)
    # What is switched off draws nothing, so that the draws of all recipes without it stay the same.
    factors = grey = quality = None
    if recipe.color_jitter:
        factors = rng.uniform(1 - recipe.color_jitter, 1 + recipe.color_jitter, (count, 3)).astype(np.float32)
    if recipe.grayscale_probability:
        grey = rng.random(count) < recipe.grayscale_probability
    if recipe.jpeg_probability:
        low, high = JPEG_QUALITY
        quality = rng.integers(low, high + 1, count) * (rng.random(count) < recipe.jpeg_probability)
    optional = (None if array is None else torch.from_numpy(array) for array in (factors, grey, quality))
    return Augmentation(*map(torch.from_numpy, (flipped, top, left, boxes)), *optional)


@cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """`values` on `device`, copied there once: a copy at each step would make the CPU wait for the GPU."""
    return torch.tensor(values, device=device)


def augment(
    images: Tensor,
    recipe: Recipe,
    augmentation: Augmentation,
    mean: tuple[float, float, float] = MEAN,
    std: tuple[float, float, float] = STD,
) -> Tensor:
    """Images uint8 [N, H, W, 3] to augmented, normalised float [N, 3, H, W] in channels_last memory.

    The images and `augmentation` are on one device, and nothing leaves it.
    """
    if augmentation.factors is not None or augmentation.grey is not None:
        images = change_colours(images, augmentation.factors, augmentation.grey)
    cropped = flip_and_crop(images, augmentation.flipped, augmentation.top, augmentation.left, recipe.padding)
    return erase(normalize_pixels(cropped, mean, std), augmentation.boxes, authors=recipe.protocol == AUTHORS)


def compress(images: Tensor, quality: Tensor) -> Tensor:
    """Images uint8 [N, H, W, 3] on the CPU after a JPEG compression of this `quality` [N]; 0 leaves one as it is."""
    pixels = images.numpy().copy()
    for row in np.flatnonzero(quality.numpy()):
        file = io.BytesIO()
        Image.fromarray(pixels[row]).save(file, "JPEG", quality=int(quality[row]))
        pixels[row] = np.asarray(Image.open(file))
    return torch.from_numpy(pixels)


def change_colours(images: Tensor, factors: Tensor | None, grey: Tensor | None) -> Tensor:
    """Images uint8 [N, H, W, 3] with other brightness, contrast and saturation, and without colours where `grey`.

    Each step is torchvision's: the first of the `factors` [N, 3] multiplies the image, the second its distance from the
    mean grey, and the third its distance from its own greys; clipped after each step.
    """
    values = images.float()
    luma = _constant(LUMA, images.device)
    if factors is not None:
        by = factors[:, :, None, None, None]
        values = (values * by[:, 0]).clamp(0, 255)
        mean = (values * luma).sum(3, keepdim=True).mean((1, 2), keepdim=True)
        values = (mean + by[:, 1] * (values - mean)).clamp(0, 255)
        greys = (values * luma).sum(3, keepdim=True)
        values = (greys + by[:, 2] * (values - greys)).clamp(0, 255)
    if grey is not None:
        greys = (values * luma).sum(3, keepdim=True)
        values = torch.where(grey[:, None, None, None], greys, values)
    return values.round().to(torch.uint8)


def flip_and_crop(images: Tensor, flipped: Tensor, top: Tensor, left: Tensor, pad: int) -> Tensor:
    """Images [N, H, W, 3], mirrored where `flipped`, padded by `pad` black pixels and cropped from `top`, `left`."""
    count, height, width, _ = images.shape
    padded = nn.functional.pad(images, (0, 0, pad, pad, pad, pad))
    numbers, rows, columns = (torch.arange(size, device=images.device) for size in (count, height, width))
    columns = left[:, None] + columns
    # Reading the padded image from the right mirrors it.
    columns = torch.where(flipped[:, None], width + 2 * pad - 1 - columns, columns)
    return padded[numbers[:, None, None], (top[:, None] + rows)[:, :, None], columns[:, None, :]]


def normalize_pixels(
    images: Tensor, mean: tuple[float, float, float] = MEAN, std: tuple[float, float, float] = STD
) -> Tensor:
    """Images uint8 [N, H, W, 3] to float [N, 3, H, W]: scaled to [0, 1], minus the mean, divided by std."""
    shift, scale = (_constant(values, images.device).view(1, 3, 1, 1) for values in (mean, std))
    return images.permute(0, 3, 1, 2).float().mul(1 / 255).sub(shift).div(scale)


def draw_erasing_boxes(
    count: int, height: int, width: int, probability: float, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Boxes to erase, int [N, 4] as top, left, height, width; a box of height 0 erases nothing.

    As in the released code, area and aspect ratio are uniform. The first of 100 tries with a box that is smaller than
    the image in both directions counts. If there is none, nothing is erased.
    """
    area = rng.uniform(*ERASED_AREA, (count, MAX_BOX_TRIES)) * height * width
    ratio = rng.uniform(*ERASED_ASPECT_RATIO, (count, MAX_BOX_TRIES))
    heights, widths = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (heights < height) & (widths < width)
    first = fits.argmax(1)
    chosen = np.stack([heights, widths])[:, np.arange(count), first].astype(np.int64)
    # randint(0, H - h) of the released code includes both ends.
    corner = rng.integers(0, np.maximum(np.array([[height], [width]]) - chosen, 0) + 1)
    erased = (rng.random(count) < probability) & fits.any(1)
    return np.concatenate([corner, chosen * erased]).T


def erase(images: Tensor, boxes: Tensor, *, authors: bool = True) -> Tensor:
    """Normalised images [N, 3, H, W] with their `boxes` [N, 4] filled.

    The released code fills with (0.485, 0.456, 0.406), although the image is already normalised. The paper fills with
    the mean of the image.
    """
    top, left, height, width = (side[:, None] for side in boxes.T)
    rows, columns = (torch.arange(size, device=images.device) for size in images.shape[2:])
    inside_rows, inside_columns = (rows >= top) & (rows < top + height), (columns >= left) & (columns < left + width)
    inside = (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]
    fill = _constant(MEAN, images.device).view(1, 3, 1, 1) if authors else images.mean((2, 3), keepdim=True)
    return torch.where(inside, fill, images)
