"""The doctor compares directions: a model whose vectors have other lengths than 1 is judged by its cosines, too."""

from __future__ import annotations

import numpy as np
import pytest

from bot_deploy.doctor.embedding_checks import _mirror_separation
from bot_deploy.doctor.similarity import nearest_crops


def test_the_longest_vector_is_not_everybodys_nearest() -> None:
    angles = np.radians([0, 10, 60, 75])
    lengths = np.array([1, 1, 100, 1])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], 1) * lengths[:, None]
    assert nearest_crops(embeddings).tolist() == [1, 0, 3, 2]


def test_lengths_do_not_change_the_separation_from_mirror_images() -> None:
    rng = np.random.default_rng(0)
    embeddings, mirrored = rng.normal(size=(2, 20, 8))
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (embeddings, mirrored)]
    pairs = np.array([unit[0][i] @ unit[0][j] for i in range(20) for j in range(i + 1, 20)])
    expected = (np.mean([a @ b for a, b in zip(*unit, strict=True)]) - pairs.mean()) / pairs.std()
    assert _mirror_separation(embeddings * rng.uniform(1, 50, (20, 1)), mirrored) == pytest.approx(expected)
