"""Augmentation against loops over single images, and random erasing against the loop of the released code."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from bot_deploy.train import transforms
from bot_deploy.train.recipe import Recipe

Pixels = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.int64]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SIZES = [(256, 128), (128, 64)]
NUM_BOXES = 10_000
OFF = Recipe(flip_probability=0, padding=0, erasing_probability=0)


def augment(images: torch.Tensor, recipe: Recipe, rng: np.random.Generator) -> torch.Tensor:
    count, height, width, _ = images.shape
    sized = dataclasses.replace(recipe, height=height, width=width)
    return transforms.augment(images, sized, transforms.draw_augmentation(count, sized, rng))


def noise(count: int, height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def naive_flip_and_crop(image: Pixels, *, flipped: bool, top: int, left: int, pad: int) -> Pixels:
    height, width, _ = image.shape
    result = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            # position of this pixel in the image before padding
            row, column = top + y - pad, left + x - pad
            if 0 <= row < height and 0 <= column < width:
                result[y, x] = image[row, width - 1 - column if flipped else column]
    return result


def naive_box(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """The released code's loop; top, left, height, width, or zeros."""
    for _ in range(100):
        area = rng.uniform(0.02, 0.4) * height * width
        ratio = rng.uniform(0.3, 3.33)
        box_height, box_width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if box_width < width and box_height < height:
            top = rng.integers(0, height - box_height, endpoint=True)
            left = rng.integers(0, width - box_width, endpoint=True)
            return int(top), int(left), box_height, box_width
    return 0, 0, 0, 0


def erase(images: torch.Tensor, boxes: list[list[int]], *, authors: bool = True) -> torch.Tensor:
    return transforms.erase(images.clone(), torch.tensor(boxes), authors=authors)


@pytest.mark.parametrize("pad", [0, 2, 5])
def test_flip_and_crop_is_flip_then_pad_then_crop(pad: int) -> None:
    # The corners, the edges and the middle, each with and without mirroring.
    places = [(top, left) for top in (0, pad, 2 * pad) for left in (0, pad, 2 * pad)]
    draws = [(flipped, top, left) for flipped in (False, True) for top, left in places]
    images = noise(len(draws), 12, 7)
    flipped, top, left = (torch.tensor(values) for values in zip(*draws, strict=True))
    result = transforms.flip_and_crop(torch.from_numpy(images), flipped, top, left, pad).numpy()
    assert result.dtype == np.uint8
    for number, (mirrored, y, x) in enumerate(draws):
        expected = naive_flip_and_crop(images[number], flipped=mirrored, top=y, left=x, pad=pad)
        np.testing.assert_array_equal(result[number], expected, err_msg=f"{draws[number]}")


def test_normalise_is_to_unit_range_minus_mean_by_std() -> None:
    images = noise(3, 6, 4)
    result = transforms.normalize_pixels(torch.from_numpy(images))
    assert result.dtype == torch.float32
    assert result.shape == (3, 3, 6, 4)
    assert result.is_contiguous(memory_format=torch.channels_last)
    for n, y, x, c in np.ndindex(3, 6, 4, 3):
        expected = (images[n, y, x, c] / 255 - MEAN[c]) / STD[c]
        assert float(result[n, c, y, x]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_erasing_boxes_keep_within_their_limits(height: int, width: int) -> None:
    boxes = transforms.draw_erasing_boxes(NUM_BOXES, height, width, 0.5, np.random.default_rng(0))
    assert boxes.shape == (NUM_BOXES, 4)
    assert boxes.dtype == np.int64
    erased = boxes[boxes[:, 2] > 0]
    assert len(erased) / NUM_BOXES == pytest.approx(0.5, abs=0.02)  # four standard deviations
    whole = boxes[boxes[:, 2] == 0]
    assert not whole[:, 2:].any()
    top, left, high, wide = erased.T
    assert (high < height).all()
    assert (wide < width).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + high <= height).all()
    assert (left + wide <= width).all()
    # Sides are rounded to whole pixels: by half a pixel at most.
    area = height * width
    assert ((high + 0.5) * (wide + 0.5) >= 0.02 * area).all()
    assert ((high - 0.5) * (wide - 0.5) <= 0.4 * area).all()
    assert ((high + 0.5) / (wide - 0.5) >= 0.3).all()
    assert ((high - 0.5) / (wide + 0.5) <= 3.33).all()
    # The limits are reached.
    assert (high * wide < 0.03 * area).any()
    assert (high * wide > 0.38 * area).any()
    assert (high / wide < 0.4).any()
    assert (high / wide > 3.2).any()
    # Boxes reach all four edges of the image.
    assert (top == 0).any()
    assert (left == 0).any()
    assert (top + high == height).any()
    assert (left + wide == width).any()


@pytest.mark.parametrize(("height", "width"), [*SIZES, (16, 64)])
def test_erasing_boxes_are_distributed_as_the_authors_loop_draws_them(height: int, width: int) -> None:
    rng = np.random.default_rng(1)
    ours = transforms.draw_erasing_boxes(NUM_BOXES, height, width, 1, rng).astype(float)
    theirs = np.array([naive_box(height, width, rng) for _ in range(NUM_BOXES)], dtype=float)
    assert (ours[:, 2] > 0).all()
    assert (theirs[:, 2] > 0).all()

    def measures(boxes: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
        top, left, high, wide = boxes.T
        return {
            "area": high * wide / (height * width),
            "ratio": high / wide,
            "height": high / height,
            "top": top / (height - high),
            "left": left / (width - wide),
        }

    for name, values in measures(ours).items():
        others = measures(theirs)[name]
        deviation = math.sqrt((values.var() + others.var()) / NUM_BOXES)
        assert abs(values.mean() - others.mean()) < 4 * deviation, name
        assert values.std() == pytest.approx(others.std(), rel=0.04), name


@pytest.mark.parametrize("probability", [0, 0.1, 0.9, 1])
def test_the_share_erased_is_the_probability(probability: float) -> None:
    boxes = transforms.draw_erasing_boxes(NUM_BOXES, 128, 64, probability, np.random.default_rng(2))
    share = (boxes[:, 2] > 0).mean()
    if probability in {0, 1}:
        assert share == probability
    else:
        assert share == pytest.approx(probability, abs=0.012)  # four standard deviations


def test_where_no_box_is_smaller_than_the_image_nothing_is_erased() -> None:
    # In an image one pixel high, no box is smaller than the image.
    boxes = transforms.draw_erasing_boxes(200, 1, 64, 1, np.random.default_rng(0))
    assert not boxes[boxes[:, 2] > 0].size


BOX = [2, 1, 5, 3]


def test_authors_erase_with_the_unnormalised_mean() -> None:
    images = torch.randn(2, 3, 12, 8, generator=torch.Generator().manual_seed(0))
    result = erase(images, [BOX, [0, 0, 0, 0]])
    for n, c, y, x in np.ndindex(2, 3, 12, 8):
        inside = n == 0 and 2 <= y < 7 and 1 <= x < 4
        expected = np.float32(MEAN[c]) if inside else float(images[n, c, y, x])
        assert float(result[n, c, y, x]) == expected


def test_paper_erases_with_the_mean_of_the_image() -> None:
    images = torch.randn(2, 3, 12, 8, generator=torch.Generator().manual_seed(0))
    result = erase(images, [[0, 0, 0, 0], BOX], authors=False)
    means = [[sum(map(float, images[n, c].flatten())) / 96 for c in range(3)] for n in range(2)]
    for n, c, y, x in np.ndindex(2, 3, 12, 8):
        inside = n == 1 and 2 <= y < 7 and 1 <= x < 4
        if inside:
            assert float(result[n, c, y, x]) == pytest.approx(means[n][c], abs=1e-6)
        else:
            assert float(result[n, c, y, x]) == float(images[n, c, y, x])


def test_augment_with_everything_off_only_normalises() -> None:
    images = torch.from_numpy(noise(5, 32, 16))
    result = augment(images, OFF, np.random.default_rng(0))
    assert torch.equal(result, transforms.normalize_pixels(images))
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_augment_flips_all_with_probability_one() -> None:
    images = torch.from_numpy(noise(5, 32, 16))
    result = augment(images, Recipe(flip_probability=1, padding=0, erasing_probability=0), np.random.default_rng(0))
    assert torch.equal(result, transforms.normalize_pixels(images.flip(2)))


def test_augment_flips_half_of_the_images() -> None:
    images = torch.from_numpy(np.repeat(noise(1, 4, 4), 2000, axis=0))
    result = augment(images, Recipe(flip_probability=0.5, padding=0, erasing_probability=0), np.random.default_rng(0))
    flipped = (result == transforms.normalize_pixels(images.flip(2))).all(dim=(1, 2, 3))
    straight = (result == transforms.normalize_pixels(images)).all(dim=(1, 2, 3))
    assert (flipped ^ straight).all()
    assert float(flipped.float().mean()) == pytest.approx(0.5, abs=0.045)  # four standard deviations


def test_augment_crops_at_every_place_and_pads_with_black() -> None:
    # One white pixel in the middle shows where each crop was taken.
    pad, middle = 3, 8
    images = torch.zeros(3000, 17, 17, 3, dtype=torch.uint8)
    images[:, middle, middle] = 255
    result = augment(images, Recipe(flip_probability=0, padding=pad, erasing_probability=0), np.random.default_rng(0))
    white = transforms.normalize_pixels(torch.full((1, 1, 1, 3), 255, dtype=torch.uint8))
    black = transforms.normalize_pixels(torch.zeros(1, 1, 1, 3, dtype=torch.uint8))
    shown = (result == white).all(1)
    assert ((result == black).all(1) | shown).all()
    assert (shown.sum(dim=(1, 2)) == 1).all()
    places = shown.nonzero()[:, 1:] - middle
    seen = {(int(y), int(x)) for y, x in places}
    assert seen == {(y, x) for y in range(-pad, pad + 1) for x in range(-pad, pad + 1)}
    assert places.float().mean(0).tolist() == pytest.approx([0, 0], abs=0.15)  # four standard deviations


@pytest.mark.parametrize("protocol", ["authors", "paper"])
def test_augment_erases_as_its_protocol_says(protocol: str) -> None:
    images = torch.from_numpy(noise(8, 32, 16))
    result = augment(
        images,
        Recipe(flip_probability=0, padding=0, erasing_probability=1, protocol=protocol),
        np.random.default_rng(0),
    )
    whole = transforms.normalize_pixels(images)
    for before, after in zip(whole, result, strict=True):
        erased = (before != after).any(0)
        rows, columns = erased.any(1).nonzero().flatten(), erased.any(0).nonzero().flatten()
        box = after[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        fill = torch.tensor(MEAN) if protocol == "authors" else before.mean((1, 2))
        torch.testing.assert_close(box, fill.view(3, 1, 1).expand_as(box), atol=1e-6, rtol=0)
        assert 0.01 < box[0].numel() / (32 * 16) < 0.45


def test_augment_differs_between_images_and_repeats_with_its_seed() -> None:
    images = torch.from_numpy(np.repeat(noise(1, 32, 16), 6, axis=0))
    recipe = Recipe(padding=4)
    once, again, other = (augment(images, recipe, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert len({picture.numpy().tobytes() for picture in once}) > 3


def test_augment_does_not_change_its_input() -> None:
    images = torch.from_numpy(noise(4, 32, 16))
    before = images.clone()
    augment(images, Recipe(erasing_probability=1), np.random.default_rng(0))
    assert torch.equal(images, before)


def test_colours_change_as_in_torchvision() -> None:
    from torchvision.transforms import functional

    rng = np.random.default_rng(5)
    images = torch.from_numpy(rng.integers(0, 256, (3, 8, 6, 3), dtype=np.uint8))
    factors = np.array([[1.3, 0.7, 1.2], [0.6, 1.4, 0.1], [1.0, 1.0, 1.0]], np.float32)
    grey = np.array([False, False, True])
    changed = transforms.change_colours(images, torch.from_numpy(factors), torch.from_numpy(grey))
    for row in range(3):
        image = images[row].permute(2, 0, 1).float() / 255
        image = functional.adjust_brightness(image, float(factors[row, 0]))
        image = functional.adjust_contrast(image, float(factors[row, 1]))
        image = functional.adjust_saturation(image, float(factors[row, 2]))
        if grey[row]:
            image = functional.rgb_to_grayscale(image, 3)
        expected = (image * 255).permute(1, 2, 0)
        assert (
            float((changed[row].float() - expected).abs().max()) <= 0.6 + 0.1
        )  # rounding; their grey weights are shorter


def test_jpeg_is_pillows() -> None:
    import io

    from PIL import Image

    images = torch.from_numpy(np.random.default_rng(6).integers(0, 256, (2, 16, 8, 3), dtype=np.uint8))
    changed = transforms.compress(images, torch.tensor([0, 35]))
    assert torch.equal(changed[0], images[0])
    file = io.BytesIO()
    Image.fromarray(images[1].numpy()).save(file, "JPEG", quality=35)
    assert torch.equal(changed[1], torch.from_numpy(np.asarray(Image.open(file)).copy()))


def test_the_switches_of_augmentation_leave_the_other_draws_alone() -> None:
    plain = transforms.draw_augmentation(50, Recipe(), np.random.default_rng(0))
    recipe = Recipe(color_jitter=0.4, grayscale_probability=0.3, jpeg_probability=0.5)
    changed = transforms.draw_augmentation(50, recipe, np.random.default_rng(0))
    for name in ("flipped", "top", "left", "boxes"):
        assert np.array_equal(getattr(plain, name), getattr(changed, name))
    assert (plain.factors, plain.grey, plain.quality) == (None, None, None)
    assert changed.factors is not None
    assert changed.quality is not None
    assert changed.grey is not None
    assert 0.6 <= changed.factors.min() < changed.factors.max() <= 1.4
    compressed = changed.quality[changed.quality > 0]
    assert 0.2 < len(compressed) / 50 < 0.8
    assert 20 <= compressed.min() <= compressed.max() <= 90
    assert 0.1 < changed.grey.float().mean() < 0.6
