"""Embeddings of people with known identities and cameras: unit vectors around a random direction for each person."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bot_deploy.embedder import Vectors


def random_embeddings(
    people: int, cameras: int, crops_per_camera: int, noise: float, seed: int = 0
) -> tuple[Vectors, list[int], list[int]]:
    """Unit vectors [N, 32], their identities from 1, and their cameras."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(people, 32))
    ids = np.repeat(np.arange(1, people + 1), cameras * crops_per_camera)
    cams = np.tile(np.repeat(np.arange(cameras), crops_per_camera), people)
    vectors = centres[ids - 1] + noise * rng.normal(size=(len(ids), 32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), ids.tolist(), cams.tolist()
