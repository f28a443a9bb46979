"""`Embedder.embed`: every kind of image, channel orders, and images that are not usable."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.commands import run_python
from helpers.image_files import exif
from PIL import Image

from bot_deploy.artifacts.contract import Contract
from bot_deploy.embedder import Embedder
from bot_deploy.errors import ImageError, InputError

# The model returns the mean red, green and blue of each image: its embeddings can be written down by hand.
EMBEDDER = Embedder(
    Contract(arch="mean", height=4, width=2, dim=3, fingerprint="0" * 16),
    "the mean colour",
    lambda batch: batch.mean((1, 2), dtype=np.float32),
    batch_size=2,
    unit_length=False,
)
RED, GREEN, BLUE = 200, 100, 50


def crop(red: int = RED, green: int = GREEN, blue: int = BLUE, height: int = 9, width: int = 5) -> np.ndarray:
    """An image of one colour, which no resize changes."""
    return np.full((height, width, 3), (red, green, blue), np.uint8)


def tensor(array: np.ndarray, *axes: int) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(axes) if axes else array))


def opaque(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array).convert("RGBA")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    Image.fromarray(crop()).save(tmp_path / "a crop.png")
    return tmp_path / "a crop.png"


KINDS = {
    "array": crop(),
    "array that is a view": crop(height=20)[3:14:2, ::-1],
    "array of the model's size": crop(height=4, width=2),
    "PIL image": Image.fromarray(crop()),
    "PIL image with alpha": opaque(crop()),
    "PIL image with a palette": Image.fromarray(crop()).quantize(4),
    "tensor [3, H, W]": tensor(crop(), 2, 0, 1),
    "tensor [H, W, 3]": tensor(crop()),
    "tensor that is a view": tensor(crop(), 2, 0, 1)[:, 1:, ::2],
    "tensor that needs no gradient": tensor(crop(), 2, 0, 1).clone().detach(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_picture_of_every_kind_is_one_row(kind: str) -> None:
    vectors = EMBEDDER.embed(KINDS[kind])
    assert (vectors.dtype, vectors.shape) == (np.float32, (1, 3))
    np.testing.assert_array_equal(vectors, [[200, 100, 50]])


def test_a_path_is_one_picture(file: Path) -> None:
    for path in (file, str(file)):
        np.testing.assert_array_equal(EMBEDDER.embed(path), [[200, 100, 50]])


COLOURS = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
CROPS = np.stack([crop(*colour) for colour in COLOURS])


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(CROPS, id="array [N, H, W, 3]"),
        pytest.param(list(CROPS), id="list of arrays"),
        pytest.param(tuple(crop(*colour, height=7 + colour[0]) for colour in COLOURS), id="tuple of several sizes"),
        pytest.param(tensor(CROPS), id="tensor [N, H, W, 3]"),
        pytest.param(tensor(CROPS, 0, 3, 1, 2), id="tensor [N, 3, H, W]"),
        pytest.param([tensor(image, 2, 0, 1) for image in CROPS], id="list of tensors"),
        pytest.param([CROPS[0], Image.fromarray(CROPS[1]), tensor(CROPS[2], 2, 0, 1)], id="mixed list"),
    ],
)
def test_many_images_keep_their_order(images: Any) -> None:
    np.testing.assert_array_equal(EMBEDDER.embed(images), COLOURS)


def test_a_generator_of_pictures_and_files_among_arrays(file: Path) -> None:
    np.testing.assert_array_equal(EMBEDDER.embed(iter(CROPS)), COLOURS)
    np.testing.assert_array_equal(EMBEDDER.embed([CROPS[0], file, str(file)]), [[10, 20, 30], *[[200, 100, 50]] * 2])


@pytest.mark.parametrize("nothing", [[], (), np.empty((0, 9, 5, 3), np.uint8), iter(())])
def test_no_pictures(nothing: Any) -> None:
    assert EMBEDDER.embed(nothing).shape == (0, 3)
    vectors, mask = EMBEDDER.embed(nothing, on_error="skip")
    assert (vectors.shape, vectors.dtype, mask.shape, mask.dtype) == ((0, 3), np.float32, (0,), bool)


def test_bgr_is_the_order_of_arrays_and_tensors_only(file: Path) -> None:
    bgr = crop()[..., ::-1]
    assert bgr[0, 0].tolist() == [50, 100, 200]
    images = [bgr, tensor(bgr), tensor(bgr, 2, 0, 1), np.ascontiguousarray(bgr), file, Image.fromarray(crop())]
    np.testing.assert_array_equal(EMBEDDER.embed(images, color="BGR"), [[200, 100, 50]] * 6)
    np.testing.assert_array_equal(EMBEDDER.embed(np.stack([bgr, bgr]), "BGR"), [[200, 100, 50]] * 2)
    np.testing.assert_array_equal(EMBEDDER.embed(images[:4]), [[50, 100, 200]] * 4)


def test_a_tensor_of_three_by_three_pixels_has_its_channels_first() -> None:
    image = torch.zeros(3, 5, 3, dtype=torch.uint8)
    image[0] = 90
    np.testing.assert_array_equal(EMBEDDER.embed(image), [[90, 0, 0]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pil_image_is_turned_upright_like_its_file(orientation: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(orientation)
    path = tmp_path / "x.png"
    Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(path, exif=exif(orientation))
    pixels = Embedder(
        Contract(arch="pixels", height=4, width=4, dim=48, fingerprint="0" * 16),
        "the pixels",
        lambda batch: batch.reshape(len(batch), -1).astype(np.float32),
        unit_length=False,
    )
    with Image.open(path) as image:
        np.testing.assert_array_equal(pixels.embed(image), pixels.embed(path))


def closed() -> Image.Image:
    data = io.BytesIO()
    Image.fromarray(crop()).save(data, "PNG")
    image = Image.open(data)
    image.close()
    return image


# name -> (what is not usable, what the message says)
UNUSABLE: dict[str, tuple[Any, str]] = {
    "None": (None, r"None is no image; give a uint8 array \[H, W, 3\], a path, a PIL image or a torch tensor"),
    "number": (3, "a int is no image; give"),
    "bytes": (b"\xff\xd8", "a bytes is no image; give"),
    "dictionary": ({"image": crop()}, "a dict is no image; give"),
    "nested list": (crop().tolist(), "a list is no image; give"),
    "float array": (crop() / 255, r"float64 \(9, 5, 3\); give uint8 RGB \[H, W, 3\], not normalised"),
    "grey array": (crop()[..., 0], r"uint8 \(9, 5\); give uint8 RGB \[H, W, 3\]"),
    "channels first": (crop().transpose(2, 0, 1), r"uint8 \(3, 9, 5\); give uint8 RGB \[H, W, 3\]"),
    "empty crop": (crop()[4:4], r"uint8 \(0, 5, 3\); an empty crop; give uint8 RGB"),
    "objects": (np.array([None, 1], dtype=object), r"object \(2,\); give"),
    "float tensor": (torch.zeros(3, 9, 5), r"torch\.float32 \(3, 9, 5\); give uint8 \[3, H, W\] or \[H, W, 3\], not"),
    "bfloat16 tensor": (torch.zeros(3, 9, 5, dtype=torch.bfloat16), r"torch\.bfloat16 \(3, 9, 5\); give"),
    "grey tensor": (tensor(crop()[..., 0]), r"torch\.uint8 \(9, 5\); give"),
    "four channels": (torch.zeros(4, 9, 5, dtype=torch.uint8), r"torch\.uint8 \(4, 9, 5\); give"),
    "empty tensor": (tensor(crop())[:, :0], r"torch\.uint8 \(9, 0, 3\); an empty crop; give"),
    "closed PIL image": (closed(), "PIL image: corrupt or truncated"),
    "empty PIL image": (Image.new("RGB", (0, 7)), "PIL image of 0x7 pixels; an empty crop"),
    "missing file": ("nowhere/x.jpg", "nowhere/x.jpg: cannot be read"),
    "no image": (Path(__file__), "not a JPEG, PNG, WebP, BMP, GIF, TIFF or AVIF image"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_picture_that_is_not_usable_is_named_by_its_index(name: str) -> None:
    image, message = UNUSABLE[name]
    with pytest.raises(ImageError, match=rf"^image 2: .*{message}"):
        EMBEDDER.embed([crop(), crop(), image])


@pytest.mark.parametrize("name", [name for name in UNUSABLE if name not in {"nested list", "objects"}])
def test_one_picture_that_is_not_usable(name: str) -> None:
    image, message = UNUSABLE[name]
    with pytest.raises(ImageError, match=rf"^image 0: .*{message}"):
        EMBEDDER.embed(image)


def test_skip_leaves_a_zero_row_and_false_in_the_mask() -> None:
    images = [crop(*COLOURS[0])]
    for image, _ in UNUSABLE.values():
        images += [image, crop(*COLOURS[1])]
    vectors, mask = EMBEDDER.embed(images, on_error="skip")
    assert mask.dtype == bool
    assert mask.tolist() == [True, *[False, True] * len(UNUSABLE)]
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, [[10, 20, 30], *[[0, 0, 0], [40, 50, 60]] * len(UNUSABLE)])


def test_skip_where_all_or_none_are_usable() -> None:
    vectors, mask = EMBEDDER.embed([None, crop()[:0]], on_error="skip")
    assert (vectors.tolist(), mask.tolist()) == ([[0, 0, 0]] * 2, [False] * 2)
    vectors, mask = EMBEDDER.embed(crop()[..., ::-1], "BGR", on_error="skip")
    assert (vectors.tolist(), mask.tolist()) == ([[200, 100, 50]], [True])


@pytest.mark.parametrize("options", [{"color": "bgr"}, {"color": "GRAY"}, {"on_error": "ignore"}, {"on_error": None}])
def test_other_options_are_refused(options: Any) -> None:
    with pytest.raises(InputError, match=next(iter(options))) as caught:
        EMBEDDER.embed(crop(), **options)
    assert not isinstance(caught.value, ImageError)


def test_torch_is_not_imported(file: Path, onnx_file: Path) -> None:
    program = """
import sys
import numpy as np
from PIL import Image
from bot_deploy import open_embedder
embedder = open_embedder(sys.argv[1], "cpu")
images = [np.zeros((9, 5, 3), np.uint8), sys.argv[2], Image.new("RGB", (5, 9)), None, 3, [[1]]]
vectors, mask = embedder.embed(images, on_error="skip")
print(vectors.shape, mask.tolist(), "torch" in sys.modules)
"""
    done = run_python("-c", program, onnx_file, file)
    assert done.stdout.strip() == "(6, 512) [True, True, True, False, False, False] False", done.stderr
