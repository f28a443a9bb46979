"""Embeddings of images as a file: NumPy, CSV or Parquet."""

from __future__ import annotations

import csv
import json
import os
from typing import TYPE_CHECKING

import numpy as np

from bot_deploy.escaping import safe_cell
from bot_deploy.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot_deploy.embedder import Vectors

SUFFIXES = (".csv", ".npy", ".parquet")


def check_packages(path: Path) -> None:
    """Imports what `write_embeddings` needs for `path`, before long work begins.

    Raises:
        ModuleNotFoundError: pyarrow is not installed, which writes .parquet.
    """
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet  # noqa: F401


def paths_file(path: Path) -> Path:
    """The file beside a .npy file that names its images."""
    return path.with_suffix(".paths.json")


def write_embeddings(path: Path, image_paths: Sequence[Path], vectors: Vectors, embedding_space: str) -> None:
    """Writes `vectors` [N, D] of the images `image_paths` [N] to `path`, a row for each image.

    - .npy: float32 [N, D]; `paths_file(path)` is a JSON list of the N paths.
    - .csv: columns path (no formula), e0, e1 and so on; the numbers read back as the same float32.
    - .parquet: columns path (string) and embedding (list of D float32); the metadata has `embedding_space`.

    Raises:
        RunError: a file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        # A file name need not be text: JSON escapes every character.
        names = json.dumps([str(image_path) for image_path in image_paths], indent=0)
        write_atomically(paths_file(path), lambda temporary: temporary.write_text(names + "\n", encoding="ascii"))
        write_atomically(path, lambda temporary: _write_npy(temporary, vectors))
    elif suffix == ".csv":
        write_atomically(path, lambda temporary: _write_csv(temporary, image_paths, vectors))
    else:
        write_atomically(path, lambda temporary: _write_parquet(temporary, image_paths, vectors, embedding_space))


def _write_npy(path: Path, vectors: Vectors) -> None:
    with path.open("wb") as file:
        np.save(file, vectors)


def _write_csv(path: Path, image_paths: Sequence[Path], vectors: Vectors) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        rows = csv.writer(file)
        rows.writerow(["path", *(f"e{column}" for column in range(vectors.shape[1]))])
        for image_path, vector in zip(image_paths, vectors, strict=True):
            rows.writerow([safe_cell(str(image_path), f".{os.sep}"), *map(str, vector)])


def _write_parquet(path: Path, image_paths: Sequence[Path], vectors: Vectors, embedding_space: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [str(image_path).encode(errors="backslashreplace").decode() for image_path in image_paths]
    numbers = pa.array(vectors.reshape(-1), pa.float32())
    columns = [pa.array(names, pa.string()), pa.FixedSizeListArray.from_arrays(numbers, vectors.shape[1])]
    table = pa.Table.from_arrays(columns, ["path", "embedding"])
    pq.write_table(table.replace_schema_metadata({"embedding_space": embedding_space}), path)
