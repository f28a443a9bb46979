"""A model without a network: pixels averaged and projected, so that every figure can be computed by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from bot_deploy.artifacts.contract import Contract
from bot_deploy.doctor import Diagnosis, Effect
from bot_deploy.embedder import Embedder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bot_deploy.embedder import Vectors
    from bot_deploy.images import Pixels


HEIGHT, WIDTH, DIM = 16, 8, 6
CONTRACT = Contract(arch="projection", height=HEIGHT, width=WIDTH, dim=DIM, fingerprint="0" * 16)
REAL = Contract(arch="projection", height=128, width=64, dim=DIM, fingerprint="0" * 16)
MATRIX = np.random.default_rng(0).normal(size=(HEIGHT * WIDTH * 3, DIM))


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
    (match,) = [effect for effect in diagnosis.effects if effect.name == name]
    return match
