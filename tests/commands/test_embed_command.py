"""`bot embed`: a row for each image, equal to what `Embedder.embed_files` gives."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import run_bot, run_python

from bot_deploy import images, open_embedder
from bot_deploy.reports.embedding_files import write_embeddings


@pytest.fixture
def crops(people: Path, tmp_path: Path) -> Path:
    """A folder of five crops, one of them below another folder, and two broken files."""
    root = tmp_path / "crops"
    (root / "sub").mkdir(parents=True)
    for number, source in enumerate(images.find_images(people / "query")[:5]):
        shutil.copy(source, root / ("sub" if number == 4 else "") / f"{number} ä,\"'.jpg")
    (root / "broken.jpg").write_bytes(b"no image")
    (root / "cut.jpg").write_bytes(source.read_bytes()[:-30])
    return root


def read(path: Path) -> tuple[list[str], np.ndarray]:
    """Paths and vectors in a file of any kind, read by other code than ours."""
    if path.suffix == ".npy":
        return json.loads(path.with_suffix(".paths.json").read_text()), np.load(path)
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        assert header == ["path", *(f"e{column}" for column in range(len(header) - 1))]
        return [row[0] for row in rows], np.array([row[1:] for row in rows], np.float32)
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(path).to_pydict()
    assert list(table) == ["path", "embedding"]
    return table["path"], np.array(table["embedding"], np.float32)


@pytest.mark.parametrize("suffix", ["npy", "csv", "parquet"])
def test_files_and_folders(onnx_file: Path, crops: Path, people: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / "new" / f"vectors.{suffix}"
    alone = images.find_images(people / "query")[-1]
    done = run_bot("embed", alone, crops, alone, "-o", out, "--model", onnx_file, "--batch", "3", "--json")
    assert done.returncode == 0, done.stderr
    files = [alone, *(path for path in images.find_images(crops) if path.name not in {"broken.jpg", "cut.jpg"})]
    assert len(files) == 6
    embedder = open_embedder(onnx_file)
    expected, errors = embedder.embed_files(files)
    assert not any(errors)
    paths, vectors = read(out)
    assert paths == [str(path) for path in files]
    assert (vectors.dtype, vectors.shape) == (np.float32, (6, embedder.contract.dim))
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    document = json.loads(done.stdout)
    broken = document.pop("broken_files")
    assert document == {
        "out": str(out),
        "paths": str(tmp_path / "new" / "vectors.paths.json") if suffix == "npy" else None,
        "model": str(onnx_file),
        "embedding_space": embedder.contract.embedding_space,
        "images": 6,
        "dim": embedder.contract.dim,
        "broken": 2,
    }
    assert [entry["path"] for entry in broken] == [str(crops / "broken.jpg"), str(crops / "cut.jpg")]
    for entry in broken:
        assert f"left out: {entry['path']}: {entry['error']}\n" in done.stderr


@pytest.mark.parametrize("suffix", ["npy", "csv", "parquet"])
def test_numbers_and_names_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(50, 7)) * 10.0 ** rng.integers(-8, 8, (50, 7))).astype(np.float32)
    image_paths = [Path(f'a b/{row} "ö",\n.jpg') for row in range(50)]
    write_embeddings(tmp_path / f"x.{suffix}", image_paths, vectors, "space-fi")
    paths, numbers = read(tmp_path / f"x.{suffix}")
    assert paths == [str(path) for path in image_paths]
    np.testing.assert_array_equal(numbers, vectors)


@pytest.mark.parametrize("suffix", ["npy", "csv", "parquet"])
def test_a_file_name_that_is_no_text(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    name = os.fsdecode(b"caf\xe9.jpg")
    write_embeddings(tmp_path / f"x.{suffix}", [Path(name)], np.ones((1, 2), np.float32), "space-fi")
    paths, _ = read(tmp_path / f"x.{suffix}")
    assert paths == [name if suffix == "npy" else "caf\\udce9.jpg"]


def test_parquet_names_the_embedding_space(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    write_embeddings(tmp_path / "x.parquet", [Path("a.jpg")], np.ones((1, 2), np.float32), "space-fi")
    schema = pq.read_schema(tmp_path / "x.parquet")
    assert schema.metadata[b"embedding_space"] == b"space-fi"
    embedding = schema.field("embedding").type
    assert (embedding.list_size, str(embedding.value_type)) == (2, "float")


def test_the_newest_model_is_the_default(onnx_file: Path, crops: Path, tmp_path: Path) -> None:
    (tmp_path / "runs" / "x").mkdir(parents=True)
    shutil.copy(onnx_file, tmp_path / "runs" / "x" / "model.onnx")
    done = run_bot("embed", crops, "-o", "v.npy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"model {Path('runs/x/model.onnx')} on " in done.stderr
    assert done.stdout == "v.npy: 5 embeddings of 512 dimensions\n"
    assert np.load(tmp_path / "v.npy").shape == (5, 512)


def test_what_is_wrong_is_one_line(onnx_file: Path, crops: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words, message in (
        ((crops, "-o", "v.txt"), "v.txt: a file of embeddings ends in .csv, .npy, .parquet"),
        ((tmp_path / "empty", "-o", "v.npy"), f"{tmp_path / 'empty'}: no images in it; images end in ."),
        (
            (crops / "cut.jpg", crops / "broken.jpg", "-o", "v.npy"),
            "none of the 2 images is usable; nothing was written",
        ),
        ((crops, "none.jpg", "-o", "v.npy"), "none.jpg: no such image or folder"),
    ):
        done = run_bot("embed", *words, "--model", onnx_file, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(f"bot: {message}")
        assert done.stdout == ""
        assert not list(tmp_path.glob("v*"))


def test_parquet_without_pyarrow_is_one_line_before_any_work(crops: Path, tmp_path: Path) -> None:
    program = """
import sys
sys.modules["pyarrow"] = None
from bot_deploy.cli import main
main()
"""
    done = run_python("-c", program, "embed", crops, "-o", tmp_path / "v.parquet", "--model", "none.onnx")
    assert (done.returncode, done.stderr) == (1, "bot: pyarrow is not installed; pip install 'bot-deploy[parquet]'\n")
