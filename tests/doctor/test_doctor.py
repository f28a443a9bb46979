"""`bot doctor`: each figure against a naive computation, and each warning with a model that is broken that way."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from helpers.projection_model import CONTRACT, DIM, HEIGHT, WIDTH, effect, embedder, kinds, noise, project, save
from PIL import Image

from bot_deploy import images
from bot_deploy.artifacts.contract import Contract
from bot_deploy.doctor import diagnose, mistakes
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels

# ---- mistakes, pixel by pixel ----


def test_bgr() -> None:
    crop = noise(0, HEIGHT, WIDTH)
    got = mistakes.swap_red_and_blue(crop, CONTRACT)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            assert tuple(got[y, x]) == tuple(crop[y, x])[::-1]


@pytest.mark.parametrize(
    ("make", "reference"),
    [
        (mistakes.scale_to_unit_range, lambda v, m, s: int(v / 255)),
        (mistakes.normalize_then_cast, lambda v, m, s: int((v / 255 - m) / s) % 256),
        (mistakes.normalize_twice, lambda v, m, s: round(255 * min(1, max(0, (v / 255 - m) / s)))),
        (mistakes.skip_normalization, lambda v, m, s: round(255 * (m + s * v / 255))),
    ],
)
def test_normalisation_mistakes(
    make: Callable[[Pixels, Contract], Pixels], reference: Callable[[int, float, float], int]
) -> None:
    crop = noise(1, HEIGHT, WIDTH)
    crop[0, 0] = 255
    got = make(crop, CONTRACT)
    assert got.dtype == np.uint8
    for channel in range(3):
        mean, std = CONTRACT.mean[channel], CONTRACT.std[channel]
        expected = [reference(int(value), mean, std) for value in crop[..., channel].flat]
        assert got[..., channel].reshape(-1).tolist() == expected


def test_not_normalized_gives_the_network_values_of_0_to_1() -> None:
    crop = noise(2, HEIGHT, WIDTH)
    seen = (mistakes.skip_normalization(crop, CONTRACT) / 255 - np.array(CONTRACT.mean)) / np.array(CONTRACT.std)
    np.testing.assert_allclose(seen, crop / 255, atol=0.5 / 255 / min(CONTRACT.std) + 1e-9)


@pytest.mark.parametrize("shape", [(40, 21), (16, 8), (9, 5), (200, 31), (17, 97)])
def test_without_antialiasing_is_opencvs_linear(shape: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    crop = noise(3, *shape)
    expected = cv2.resize(crop, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    assert np.abs(mistakes.resize_without_antialiasing(crop, CONTRACT).astype(int) - expected).max() <= 1


def test_kernels() -> None:
    crop = noise(4, 2 * HEIGHT, 2 * WIDTH)
    inputs = {mistake.name: mistake.apply(crop, CONTRACT) for mistake in mistakes.MISTAKES}
    blocks = crop.reshape(HEIGHT, 2, WIDTH, 2, 3)
    assert np.abs(inputs["resized by area (box)"] - blocks.mean((1, 3))).max() <= 1  # rounded twice, once for each axis
    np.testing.assert_array_equal(inputs["resized by nearest"], blocks[:, 1, :, 1])
    expected = Image.fromarray(crop).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(inputs["resized by bicubic"], expected)


def test_letterbox() -> None:
    crop = np.full((16, 4, 3), 200, np.uint8)
    got = mistakes.letterbox(crop, CONTRACT)
    assert got[..., 0].tolist() == [[0, 0, 200, 200, 200, 200, 0, 0]] * HEIGHT
    wide = mistakes.letterbox(np.full((8, 16, 3), 200, np.uint8), CONTRACT)
    assert wide[:, 0, 0].tolist() == [0] * 6 + [200] * 4 + [0] * 6
    assert mistakes.letterbox(np.full((1, 500, 3), 9, np.uint8), CONTRACT).shape == (HEIGHT, WIDTH, 3)


def test_recompressed_halved_and_tighter() -> None:
    crop = noise(5, HEIGHT, WIDTH)
    stream = io.BytesIO()
    Image.fromarray(crop).save(stream, "JPEG", quality=50)
    np.testing.assert_array_equal(mistakes.recompress(crop, CONTRACT), np.asarray(Image.open(stream)))
    half = images.resize(crop, (HEIGHT // 2, WIDTH // 2))
    np.testing.assert_array_equal(mistakes.halve_resolution(crop, CONTRACT), images.resize(half, (HEIGHT, WIDTH)))
    np.testing.assert_array_equal(
        mistakes.cut_one_pixel(crop, CONTRACT), images.resize(crop[1:15, 1:7], (HEIGHT, WIDTH))
    )


@pytest.mark.parametrize("mistake", mistakes.MISTAKES, ids=lambda mistake: mistake.name)
@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (3, 2), (33, 17)])
def test_every_mistake_fits_the_model(mistake: mistakes.Mistake, shape: tuple[int, int]) -> None:
    pixels = mistake.apply(noise(6, *shape), CONTRACT)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert pixels.dtype == np.uint8


# ---- figures ----


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(13):
        save(tmp_path / "crops" / f"{seed:02d}.png", noise(seed, HEIGHT + 3 * (seed % 3), WIDTH + seed % 3))
    return tmp_path / "crops"


def cosine(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / (sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b)) ** 0.5


def nearest_other(vectors: list[Vectors], row: int) -> int:
    others = [other for other in range(len(vectors)) if other != row]
    return max(others, key=lambda other: cosine(vectors[row], vectors[other]))


def test_effects_are_the_naive_ones(folder: Path) -> None:
    diagnosis = diagnose(embedder(), folder)
    sources = [images.read_image(path) for path in sorted(folder.iterdir())]
    inputs = [images.resize(source, (HEIGHT, WIDTH)) for source in sources]
    right = [project(pixels[None])[0] for pixels in inputs]
    assert diagnosis.crops == len(sources) == 13
    for mistake in mistakes.MISTAKES:
        fed = [mistake.apply(source, CONTRACT) for source in sources]
        wrong = [project(pixels[None])[0] for pixels in fed]
        cosines = [cosine(a, b) for a, b in zip(right, wrong, strict=True)]
        pairs = [cosine(wrong[a], wrong[b]) for a in range(13) for b in range(a)]
        got = effect(diagnosis, mistake.name)
        assert got.mean_cosine == pytest.approx(np.mean(cosines), abs=1e-6)
        assert got.min_cosine == pytest.approx(min(cosines), abs=1e-6)
        assert got.mean_similarity == pytest.approx(np.mean(pairs), abs=1e-6)
        assert got.changed == pytest.approx(sum((a != b).any() for a, b in zip(fed, inputs, strict=True)) / 13)
        if (
            mistake.name != "as 0-1 cast to uint8"
        ):  # all inputs are equal there, so that rounding decides which is nearest
            moved = [nearest_other(right, row) != nearest_other(wrong, row) for row in range(13)]
            assert got.nearest_changed == pytest.approx(np.mean(moved))
    assert {mistake.name for mistake in mistakes.MISTAKES} == {effect.name for effect in diagnosis.effects}
    order = [effect.mean_cosine for effect in diagnosis.effects]
    assert order == sorted(order)
    pairs = [cosine(right[a], right[b]) for a in range(13) for b in range(a)]
    assert diagnosis.mean_similarity == pytest.approx(np.mean(pairs), abs=1e-6)


def test_crops_of_the_models_size_are_not_resized(tmp_path: Path) -> None:
    for seed in range(4):
        save(tmp_path / f"{seed}.png", noise(seed, HEIGHT, WIDTH))
    diagnosis = diagnose(embedder(), tmp_path)
    bicubic = effect(diagnosis, "resized by bicubic")
    assert (bicubic.changed, bicubic.nearest_changed) == (0, 0)
    assert bicubic.mean_cosine == pytest.approx(1)
    text = "\n".join(diagnosis.text_lines())
    assert bicubic.symptom not in text
    assert "no difference" in text
    assert effect(diagnosis, mistakes.BGR).changed == 1
    assert effect(diagnosis, mistakes.BGR).symptom in text


def test_at_most_count_crops_spread_evenly(folder: Path) -> None:
    seen: list[Pixels] = []

    def run(batch: Pixels) -> Vectors:
        seen.extend(batch)
        return project(batch)

    assert diagnose(embedder(run, batch=100), folder, 4).crops == 4
    paths = sorted(folder.iterdir())
    expected = [images.read_resized(paths[row], (HEIGHT, WIDTH)) for row in (0, 4, 8, 12)]
    np.testing.assert_array_equal(seen[:4], expected)


def test_broken_files_are_left_out(folder: Path) -> None:
    (folder / "05.png").write_bytes(b"no image")
    diagnosis = diagnose(embedder(), folder)
    assert diagnosis.crops == 12
    (broken,) = diagnosis.to_dict()["broken_files"]
    assert (broken["path"], broken["error"][:10]) == (str(folder / "05.png"), "not a JPEG")


def test_too_little_to_examine(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        diagnose(embedder(), tmp_path / "nowhere")
    with pytest.raises(InputError, match="0 usable"):
        diagnose(embedder(), tmp_path)
    save(tmp_path / "a.png", noise(0))
    with pytest.raises(InputError, match="1 usable"):
        diagnose(embedder(), tmp_path)


# ---- warnings about the model ----


def test_nan(folder: Path) -> None:
    def run(batch: Pixels) -> Vectors:
        vectors = project(batch)
        vectors[batch[:, 0, 0, 0] > 128] = np.nan
        return vectors

    diagnosis = diagnose(embedder(run), folder)
    lost = sum(images.read_resized(path, (HEIGHT, WIDTH))[0, 0, 0] > 128 for path in folder.iterdir())
    assert diagnosis.warnings[0].kind == "nan"
    assert diagnosis.warnings[0].crops == lost > 0
    text = json.dumps(diagnosis.to_dict(), allow_nan=False)
    assert json.loads(text)["mean_similarity"] is None


def test_norm(folder: Path) -> None:
    diagnosis = diagnose(embedder(lambda batch: 3 * project(batch)), folder)
    assert kinds(diagnosis) == ["norm"]
    assert "length 3 to 3" in diagnosis.warnings[0].message
    assert effect(diagnosis, mistakes.BGR) == dataclasses.replace(
        effect(diagnose(embedder(), folder), mistakes.BGR),
        **{
            name: pytest.approx(getattr(effect(diagnosis, mistakes.BGR), name))
            for name in ("mean_cosine", "min_cosine", "mean_similarity")
        },
    )


def test_vectors_of_length_zero(folder: Path) -> None:
    diagnosis = diagnose(embedder(lambda batch: np.zeros((len(batch), DIM), np.float32)), folder)
    assert kinds(diagnosis) == ["norm"]


def test_batch(folder: Path) -> None:
    def run(batch: Pixels) -> Vectors:
        vectors = project(batch) + project(batch).mean(0)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    assert kinds(diagnose(embedder(run), folder)) == ["batch"]
    assert kinds(diagnose(embedder(run, batch=1), folder)) == []  # which is the remedy


def test_collapse(folder: Path) -> None:
    def run(batch: Pixels) -> Vectors:
        vectors = project(batch) * 0.05 + np.eye(DIM, dtype=np.float32)[0]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    diagnosis = diagnose(embedder(run), folder)
    assert kinds(diagnosis) == ["collapse"]
    assert diagnosis.mean_similarity > 0.99


def colourful(count: int, *, telling: int) -> list[Pixels]:
    """Crops that are close to their mirror image in the colour `telling`, and hardly in the others."""
    made = []
    for seed in range(count):
        random = np.random.default_rng(seed)
        crop = random.integers(0, 256, (HEIGHT, WIDTH, 3))
        crop = (4 * crop + crop[:, ::-1]) // 5
        crop[..., telling] = (crop[..., telling] + crop[:, ::-1, telling]) // 2
        made.append(crop.astype(np.uint8))
    return made


@pytest.mark.parametrize(("telling", "count", "expected"), [(2, 70, ["swapped"]), (0, 70, []), (2, 40, [])])
def test_swapped(tmp_path: Path, telling: int, count: int, expected: list[str]) -> None:
    def red(batch: Pixels) -> Vectors:
        vectors = batch[..., 0].reshape(len(batch), -1) - 127.0
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    for number, crop in enumerate(colourful(count, telling=telling)):
        save(tmp_path / f"{number}.png", crop)
    assert kinds(diagnose(embedder(red), tmp_path)) == expected
