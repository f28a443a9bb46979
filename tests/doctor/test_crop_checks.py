"""The crop warnings of `bot doctor`, each on a folder with that issue, and the command."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers.commands import run_bot, run_python
from helpers.projection_model import REAL, embedder, kinds, save
from PIL import Image

from bot_deploy import images
from bot_deploy.doctor import Diagnosis, crop_checks, diagnose, mistakes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bot_deploy.images import Pixels

ISSUES = {"levels", "exposure", "flat", "clipped", "border", "grey", "shape", "small"}


# ---- warnings about the crops ----


@pytest.fixture(scope="session")
def crops(people: Path) -> list[Pixels]:
    files = images.find_images(people)
    return [images.read_image(path) for path in files[:: len(files) // 40][:40]]


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
    assert diagnosis.summary == "no warnings on 40 crops"


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize(
    ("kind", "violate"),
    [
        ("levels", lambda crop: mistakes.scale_to_unit_range(crop, REAL)),
        ("flat", lambda crop: mistakes.skip_normalization(crop, REAL)),
        ("clipped", lambda crop: mistakes.normalize_twice(crop, REAL)),
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
    (warning,) = [warning for warning in diagnosis.warnings if warning.kind == kind]
    assert warning.crops >= 12
    assert all(name.startswith(str(tmp_path)) for name in warning.examples)
    assert len(warning.examples) == 3
    assert kind in diagnosis.summary
    assert f"warning: {kind}: {warning.crops} of 40 crops" in "\n".join(diagnosis.text_lines())


def test_normalized_then_uint8_leaves_few_levels(crops: list[Pixels], tmp_path: Path) -> None:
    assert "levels" in kinds(shown([mistakes.normalize_then_cast(crop, REAL) for crop in crops], tmp_path))


def test_a_few_odd_crops_give_no_warning(crops: list[Pixels], tmp_path: Path) -> None:
    assert shown([*map(grey, crops[:3]), *crops[3:]], tmp_path / "few").warnings == ()
    (warning,) = shown([*map(grey, crops[:5]), *crops[5:]], tmp_path / "more").warnings
    assert (warning.kind, warning.crops) == ("grey", 5)
    assert [name.rpartition("/")[2] for name in warning.examples] == ["000.png", "001.png", "002.png"]


def test_statistics_of_a_crop_by_hand() -> None:
    crop = np.zeros((10, 6, 3), np.uint8)
    crop[:, 1:5] = np.arange(20, 220, 20, dtype=np.uint8)[:, None, None]
    crop[:, 1:5, 0] += 30
    seen = crop_checks.measure_crop(crop)
    assert (seen.height, seen.width) == (10, 6)
    assert seen.border == pytest.approx(2 / 6)
    assert seen.levels == 1 + 10 + 10
    assert seen.clipped == pytest.approx(0)  # the bars do not count
    assert seen.mean == pytest.approx(crop.mean())
    assert seen.chroma == pytest.approx(20)


@pytest.mark.parametrize("archive", ["Market-1501-v15.09.15.zip", "VIPeR.v1.0.zip"])
def test_real_crops_have_no_issues(shared: Path, archive: str) -> None:
    path = shared / "data" / archive
    if not path.is_file():
        pytest.skip(f"needs {path}")
    with zipfile.ZipFile(path) as pack:
        names = sorted(name for name in pack.namelist() if name.lower().endswith((".jpg", ".bmp")))
        crops = [images.decode_image(pack.read(name), name) for name in names[:: len(names) // 200]]
    for contract in (REAL, dataclasses.replace(REAL, height=256, width=128)):
        counts = dict.fromkeys(ISSUES, 0)
        for crop in crops:
            for kind in crop_checks.crop_issues(crop_checks.measure_crop(crop), contract):
                counts[kind] += 1
        assert max(counts.values()) < 0.02 * len(crops), counts
    violated = [
        set(crop_checks.crop_issues(crop_checks.measure_crop(mistakes.normalize_twice(crop, REAL)), REAL))
        for crop in crops
    ]
    assert sum("clipped" in kinds for kinds in violated) > 0.8 * len(crops)


# ---- the command ----


def test_the_command(onnx_file: Path, crops: list[Pixels], tmp_path: Path) -> None:
    for number, crop in enumerate(crops[:12]):
        save(tmp_path / f"{number:02d}.png", grey(crop))
    (tmp_path / "broken.jpg").write_bytes(b"")
    result = run_bot("doctor", onnx_file, "--images", tmp_path, "--json", "--threads", 1)
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["model"] == str(onnx_file)
    assert document["crops"] == 12
    assert document["broken"] == 1
    assert len(document["effects"]) == len(mistakes.MISTAKES)
    figures = {"changed", "mean_cosine", "min_cosine", "nearest_changed", "mean_similarity"}
    assert set(document["effects"][0]) == {"name", "sign", *figures}
    assert "grey" in [warning["kind"] for warning in document["warnings"]]
    assert "left out" in result.stderr
    (tmp_path / "broken.jpg").unlink()
    table = run_bot("doctor", onnx_file, "--images", tmp_path, "--count", 4, "--threads", 1)
    assert table.returncode == 0, table.stderr
    assert "as BGR (red and blue swapped)" in table.stdout
    assert "on 4 crops" in table.stdout.splitlines()[-1]


def test_the_command_with_bad_input(onnx_file: Path, tmp_path: Path) -> None:
    for arguments in [
        ("doctor", onnx_file, "--images", tmp_path / "nowhere"),
        ("doctor", onnx_file, "--images", tmp_path),
        ("doctor", tmp_path / "no.onnx", "--images", tmp_path),
        ("doctor", onnx_file),
        ("doctor", onnx_file, "--images", tmp_path, "--count", 1),
    ]:
        result = run_bot(*arguments)
        assert result.returncode == 2, result.stderr
        assert result.stdout == ""
        assert "Traceback" not in result.stderr


def test_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import bot_deploy.doctor, bot_deploy.commands.doctor"
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr
