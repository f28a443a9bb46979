"""`bot doctor`: each figure against a naive computation, and each warning on a folder made to deserve it."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bot_deploy import images
from bot_deploy.contract import Contract
from bot_deploy.doctor import Diagnosis, Effect, diagnose, signs, what_ifs
from bot_deploy.embedder import Embedder
from bot_deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels

HEIGHT, WIDTH, DIM = 16, 8, 6
CONTRACT = Contract(arch="projection", height=HEIGHT, width=WIDTH, dim=DIM, fingerprint="0" * 16)
REAL = Contract(arch="projection", height=128, width=64, dim=DIM, fingerprint="0" * 16)
MATRIX = np.random.default_rng(0).normal(size=(HEIGHT * WIDTH * 3, DIM))
VALUE_SIGNS = {"levels", "exposure", "flat", "clipped", "border", "grey", "shape", "small"}


def project(batch: Pixels) -> Vectors:
    """[N, H, W, 3] to unit vectors [N, DIM] of pixels averaged down to 16x8: the model."""
    n, height, width = batch.shape[:3]
    small = batch.reshape(n, HEIGHT, height // HEIGHT, WIDTH, width // WIDTH, 3).mean((2, 4))
    vectors = (small.reshape(n, -1) - 110) @ MATRIX
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def embedder(run: Callable[[Pixels], Vectors] = project, contract: Contract = CONTRACT, batch: int = 5) -> Embedder:
    return Embedder(contract, "a projection", run, batch)


def noise(seed: int, height: int = 21, width: int = 11) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return path


def kinds(diagnosis: Diagnosis) -> list[str]:
    return [warning.kind for warning in diagnosis.warnings]


def effect(diagnosis: Diagnosis, name: str) -> Effect:
    (found,) = [one for one in diagnosis.effects if one.name == name]
    return found


# ---- what-ifs, pixel by pixel ----


def test_bgr() -> None:
    crop = noise(0, HEIGHT, WIDTH)
    got = what_ifs.bgr(crop, CONTRACT)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            assert tuple(got[y, x]) == tuple(crop[y, x])[::-1]


@pytest.mark.parametrize(
    ("make", "reference"),
    [
        (what_ifs.scaled, lambda v, m, s: int(v / 255)),
        (what_ifs.wrapped, lambda v, m, s: int((v / 255 - m) / s) % 256),
        (what_ifs.twice, lambda v, m, s: round(255 * min(1, max(0, (v / 255 - m) / s)))),
        (what_ifs.never, lambda v, m, s: round(255 * (m + s * v / 255))),
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


def test_never_normalised_is_what_a_network_without_it_sees() -> None:
    crop = noise(2, HEIGHT, WIDTH)
    seen = (what_ifs.never(crop, CONTRACT) / 255 - np.array(CONTRACT.mean)) / np.array(CONTRACT.std)
    np.testing.assert_allclose(seen, crop / 255, atol=0.5 / 255 / min(CONTRACT.std) + 1e-9)


@pytest.mark.parametrize("shape", [(40, 21), (16, 8), (9, 5), (200, 31), (17, 97)])
def test_without_antialiasing_is_opencvs_linear(shape: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    crop = noise(3, *shape)
    expected = cv2.resize(crop, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    assert np.abs(what_ifs.not_antialiased(crop, CONTRACT).astype(int) - expected).max() <= 1


def test_kernels() -> None:
    crop = noise(4, 2 * HEIGHT, 2 * WIDTH)
    ways = {what.name: what.pixels(crop, CONTRACT) for what in what_ifs.WHAT_IFS}
    blocks = crop.reshape(HEIGHT, 2, WIDTH, 2, 3)
    assert np.abs(ways["resized by area (box)"] - blocks.mean((1, 3))).max() <= 1  # rounded twice, once for each axis
    np.testing.assert_array_equal(ways["resized by nearest"], blocks[:, 1, :, 1])
    expected = Image.fromarray(crop).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(ways["resized by bicubic"], expected)


def test_letterbox() -> None:
    crop = np.full((16, 4, 3), 200, np.uint8)
    got = what_ifs.letterboxed(crop, CONTRACT)
    assert got[..., 0].tolist() == [[0, 0, 200, 200, 200, 200, 0, 0]] * HEIGHT
    wide = what_ifs.letterboxed(np.full((8, 16, 3), 200, np.uint8), CONTRACT)
    assert wide[:, 0, 0].tolist() == [0] * 6 + [200] * 4 + [0] * 6
    assert what_ifs.letterboxed(np.full((1, 500, 3), 9, np.uint8), CONTRACT).shape == (HEIGHT, WIDTH, 3)


def test_recompressed_halved_and_tighter() -> None:
    crop = noise(5, HEIGHT, WIDTH)
    stream = io.BytesIO()
    Image.fromarray(crop).save(stream, "JPEG", quality=50)
    np.testing.assert_array_equal(what_ifs.recompressed(crop, CONTRACT), np.asarray(Image.open(stream)))
    half = images.resize(crop, (HEIGHT // 2, WIDTH // 2))
    np.testing.assert_array_equal(what_ifs.halved(crop, CONTRACT), images.resize(half, (HEIGHT, WIDTH)))
    np.testing.assert_array_equal(what_ifs.tighter(crop, CONTRACT), images.resize(crop[1:15, 1:7], (HEIGHT, WIDTH)))


@pytest.mark.parametrize("what", what_ifs.WHAT_IFS, ids=lambda what: what.name)
@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (3, 2), (33, 17)])
def test_every_what_if_fits_the_model(what: what_ifs.WhatIf, shape: tuple[int, int]) -> None:
    pixels = what.pixels(noise(6, *shape), CONTRACT)
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
    sources = [images.load(path) for path in sorted(folder.iterdir())]
    inputs = [images.resize(source, (HEIGHT, WIDTH)) for source in sources]
    right = [project(pixels[None])[0] for pixels in inputs]
    assert diagnosis.crops == len(sources) == 13
    for what in what_ifs.WHAT_IFS:
        fed = [what.pixels(source, CONTRACT) for source in sources]
        wrong = [project(pixels[None])[0] for pixels in fed]
        cosines = [cosine(a, b) for a, b in zip(right, wrong, strict=True)]
        pairs = [cosine(wrong[a], wrong[b]) for a in range(13) for b in range(a)]
        got = effect(diagnosis, what.name)
        assert got.mean_cosine == pytest.approx(np.mean(cosines), abs=1e-6)
        assert got.min_cosine == pytest.approx(min(cosines), abs=1e-6)
        assert got.mean_similarity == pytest.approx(np.mean(pairs), abs=1e-6)
        assert got.changed == pytest.approx(sum((a != b).any() for a, b in zip(fed, inputs, strict=True)) / 13)
        if what.name != "as 0-1 cast to uint8":  # where all are equal, the nearest is a matter of rounding
            moved = [nearest_other(right, row) != nearest_other(wrong, row) for row in range(13)]
            assert got.nearest_changed == pytest.approx(np.mean(moved))
    assert {what.name for what in what_ifs.WHAT_IFS} == {one.name for one in diagnosis.effects}
    order = [one.mean_cosine for one in diagnosis.effects]
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
    assert bicubic.sign not in diagnosis.table()
    assert "no difference" in diagnosis.table()
    assert effect(diagnosis, what_ifs.BGR).changed == 1
    assert effect(diagnosis, what_ifs.BGR).sign in diagnosis.table()


def test_at_most_count_crops_spread_evenly(folder: Path) -> None:
    seen: list[Pixels] = []

    def run(batch: Pixels) -> Vectors:
        seen.extend(batch)
        return project(batch)

    assert diagnose(embedder(run, batch=100), folder, 4).crops == 4
    paths = sorted(folder.iterdir())
    expected = [images.load_resized(paths[row], (HEIGHT, WIDTH)) for row in (0, 4, 8, 12)]
    np.testing.assert_array_equal(seen[:4], expected)


def test_broken_files_are_left_out(folder: Path) -> None:
    (folder / "05.png").write_bytes(b"no image")
    diagnosis = diagnose(embedder(), folder)
    assert diagnosis.crops == 12
    assert [str(folder / "05.png") in str(error) for error in diagnosis.broken] == [True]


def test_too_little_to_examine(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        diagnose(embedder(), tmp_path / "nowhere")
    with pytest.raises(InputError, match="0 usable"):
        diagnose(embedder(), tmp_path)
    save(tmp_path / "a.png", noise(0))
    with pytest.raises(InputError, match="1 usable"):
        diagnose(embedder(), tmp_path)


# ---- warnings about the crops ----


@pytest.fixture(scope="session")
def crops(people: Path) -> list[Pixels]:
    found = images.find(people)
    return [images.load(path) for path in found[:: len(found) // 40][:40]]


def shown(crops: list[Pixels], tmp_path: Path, suffix: str = ".png") -> Diagnosis:
    for number, pixels in enumerate(crops):
        save(tmp_path / f"{number:03d}{suffix}", pixels)
    return diagnose(embedder(contract=REAL, batch=32), tmp_path)


def grey(crop: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(crop).convert("L").convert("RGB"))


def between_bars(crop: Pixels, colour: int = 0) -> Pixels:
    return np.pad(crop, ((0, 0), (32, 32), (0, 0)), constant_values=colour)


def test_clean_crops_give_no_warning(crops: list[Pixels], tmp_path: Path) -> None:
    diagnosis = shown(crops, tmp_path)
    assert diagnosis.warnings == ()
    assert diagnosis.verdict == "nothing looks violated on 40 crops"


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize(
    ("kind", "violate"),
    [
        ("levels", lambda crop: what_ifs.scaled(crop, REAL)),
        ("flat", lambda crop: what_ifs.never(crop, REAL)),
        ("clipped", lambda crop: what_ifs.twice(crop, REAL)),
        ("exposure", lambda crop: (255 * (crop / 255) ** 5).astype(np.uint8)),
        ("exposure", lambda crop: (255 - 255 * (1 - crop / 255) ** 6).astype(np.uint8)),
        ("grey", grey),
        ("border", between_bars),
        ("border", lambda crop: between_bars(crop, 114)),
        ("shape", lambda crop: images.resize(crop, (90, 160))),
        ("small", lambda crop: images.resize(crop, (42, 21))),
    ],
)
def test_violated_crops_give_that_warning(
    crops: list[Pixels], tmp_path: Path, kind: str, violate: Callable[[Pixels], Pixels], suffix: str
) -> None:
    diagnosis = shown([violate(crop) for crop in crops], tmp_path, suffix)
    (warning,) = [one for one in diagnosis.warnings if one.kind == kind]
    assert warning.crops >= 12
    assert all(name.startswith(str(tmp_path)) for name in warning.examples)
    assert len(warning.examples) == 3
    assert kind in diagnosis.verdict
    assert f"warning: {kind}: {warning.crops} of 40 crops" in diagnosis.table()


def test_values_wrapped_around_leave_few_levels(crops: list[Pixels], tmp_path: Path) -> None:
    assert "levels" in kinds(shown([what_ifs.wrapped(crop, REAL) for crop in crops], tmp_path))


def test_a_few_odd_crops_are_no_violation(crops: list[Pixels], tmp_path: Path) -> None:
    assert shown([*map(grey, crops[:3]), *crops[3:]], tmp_path / "few").warnings == ()
    (warning,) = shown([*map(grey, crops[:5]), *crops[5:]], tmp_path / "more").warnings
    assert (warning.kind, warning.crops) == ("grey", 5)
    assert [name.rpartition("/")[2] for name in warning.examples] == ["000.png", "001.png", "002.png"]


def test_look_measures_by_hand() -> None:
    crop = np.zeros((10, 6, 3), np.uint8)
    crop[:, 1:5] = np.arange(20, 220, 20, dtype=np.uint8)[:, None, None]
    crop[:, 1:5, 0] += 30
    seen = signs.look(crop)
    assert (seen.height, seen.width) == (10, 6)
    assert seen.border == pytest.approx(2 / 6)
    assert seen.levels == 1 + 10 + 10
    assert seen.clipped == pytest.approx(0)  # the bars do not count
    assert seen.mean == pytest.approx(crop.mean())
    assert seen.chroma == pytest.approx(20)


@pytest.mark.parametrize("archive", ["Market-1501-v15.09.15.zip", "VIPeR.v1.0.zip"])
def test_real_crops_show_no_sign(shared: Path, archive: str) -> None:
    path = shared / "data" / archive
    if not path.is_file():
        pytest.skip(f"needs {path}")
    with zipfile.ZipFile(path) as pack:
        names = sorted(name for name in pack.namelist() if name.lower().endswith((".jpg", ".bmp")))
        found = [images.decode(pack.read(name), name) for name in names[:: len(names) // 200]]
    for contract in (REAL, dataclasses.replace(REAL, height=256, width=128)):
        counts = dict.fromkeys(VALUE_SIGNS, 0)
        for crop in found:
            for kind in signs.signs(signs.look(crop), contract):
                counts[kind] += 1
        assert max(counts.values()) < 0.02 * len(found), counts
    violated = [set(signs.signs(signs.look(what_ifs.twice(crop, REAL)), REAL)) for crop in found]
    assert sum("clipped" in kinds for kinds in violated) > 0.8 * len(found)


# ---- warnings about the model ----


def test_nan(folder: Path) -> None:
    def run(batch: Pixels) -> Vectors:
        vectors = project(batch)
        vectors[batch[:, 0, 0, 0] > 128] = np.nan
        return vectors

    diagnosis = diagnose(embedder(run), folder)
    lost = sum(images.load_resized(path, (HEIGHT, WIDTH))[0, 0, 0] > 128 for path in folder.iterdir())
    assert diagnosis.warnings[0].kind == "nan"
    assert diagnosis.warnings[0].crops == lost > 0
    text = json.dumps(diagnosis.to_dict(), allow_nan=False)
    assert json.loads(text)["mean_similarity"] is None


def test_norm(folder: Path) -> None:
    diagnosis = diagnose(embedder(lambda batch: 3 * project(batch)), folder)
    assert kinds(diagnosis) == ["norm"]
    assert "length 3 to 3" in diagnosis.warnings[0].message
    assert effect(diagnosis, what_ifs.BGR) == dataclasses.replace(
        effect(diagnose(embedder(), folder), what_ifs.BGR),
        **{
            name: pytest.approx(getattr(effect(diagnosis, what_ifs.BGR), name))
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


# ---- the verb ----


def bot(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "bot_deploy", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_the_verb(onnx_file: Path, crops: list[Pixels], tmp_path: Path) -> None:
    for number, crop in enumerate(crops[:12]):
        save(tmp_path / f"{number:02d}.png", grey(crop))
    (tmp_path / "broken.jpg").write_bytes(b"")
    done = bot("doctor", onnx_file, "--images", tmp_path, "--json", "--threads", 1)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["model"] == str(onnx_file)
    assert document["crops"] == 12
    assert len(document["effects"]) == len(what_ifs.WHAT_IFS)
    assert set(document["effects"][0]) == {field.name for field in dataclasses.fields(Effect)}
    assert "grey" in [warning["kind"] for warning in document["warnings"]]
    assert "left out" in done.stderr
    (tmp_path / "broken.jpg").unlink()
    words = bot("doctor", onnx_file, "--images", tmp_path, "--count", 4, "--threads", 1)
    assert words.returncode == 0, words.stderr
    assert "as BGR (red and blue swapped)" in words.stdout
    assert "on 4 crops" in words.stdout.splitlines()[-1]


def test_the_verb_with_bad_input(onnx_file: Path, tmp_path: Path) -> None:
    for arguments in [
        ("doctor", onnx_file, "--images", tmp_path / "nowhere"),
        ("doctor", onnx_file, "--images", tmp_path),
        ("doctor", tmp_path / "no.onnx", "--images", tmp_path),
        ("doctor", onnx_file),
        ("doctor", onnx_file, "--images", tmp_path, "--count", 1),
    ]:
        done = bot(*arguments)
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr


def test_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import bot_deploy.doctor, bot_deploy.commands.doctor"
    subprocess.run([sys.executable, "-c", code], check=True)
