"""Batch-norm statistics: fixed at the end of a training, or measured on crops of a user's cameras (AdaBN).

Batch-norm layers subtract the mean and divide by the standard deviation that the training crops had. Crops of other
cameras have others. AdaBN (Li et al., 2016) measures them again, without labels; no weight changes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bot_deploy import images
from bot_deploy.artifacts.checkpoint import Checkpoint, contract_of
from bot_deploy.backends.torch import runner
from bot_deploy.camera_means import camera_gap
from bot_deploy.embedder import Embedder
from bot_deploy.errors import ImageError, InputError
from bot_deploy.machine import available_cores
from bot_deploy.model import InferenceGraph
from bot_deploy.progress import show_progress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bot_deploy.embedder import Vectors

BATCH = 64  # crops that a layer's mean and variance are taken from; the statistics are the mean of those of all batches
MIN_CROPS = 2 * BATCH  # few crops show few people
MIN_GAIN = 0.01  # of the relative gap; where cameras differ little, new statistics cost more than they gain


@dataclass(frozen=True)
class BatchNormAdaptation:
    """A network with the statistics of some crops, and what they change."""

    checkpoint: Checkpoint
    gap_before: float  # see `relative_gap`
    gap_after: float


def read_crops(crops: Sequence[Path], size: tuple[int, int]) -> tuple[images.Pixels, list[ImageError | None]]:
    """Pixels uint8 [N, height, width, 3] of the files `crops`, and the errors [N]: None, or why the row is zero."""
    pixels = np.zeros((len(crops), *size, 3), np.uint8)
    errors: list[ImageError | None] = [None] * len(crops)
    loaded = images.read_many(crops, size, workers=available_cores())
    for row, picture in enumerate(show_progress(loaded, "reading", len(crops))):
        if isinstance(picture, ImageError):
            errors[row] = picture
        else:
            pixels[row] = picture
    return pixels, errors


def adapt_batch_norm(
    saved: Checkpoint, pixels: images.Pixels, cameras: Sequence[int | None], seed: int = 0
) -> BatchNormAdaptation:
    """`saved` with the batch-norm statistics of crops.

    Args:
        saved: the network as it is.
        pixels: the crops from `read_crops`, without the broken ones.
        cameras: camera IDs [N]; None for an unknown camera.
        seed: of the order of the crops.

    Raises:
        InputError: fewer than MIN_CROPS crops, crops of fewer than two cameras, a network without batch-norm, or
            crops of one camera that stay about as alike as they were, so that nothing would be gained.
    """
    if len(pixels) < MIN_CROPS or len({camera for camera in cameras if camera is not None}) < 2:  # noqa: PLR2004
        raise InputError(
            f"batch-norm statistics need {MIN_CROPS} crops of at least 2 cameras, and {len(pixels)} are usable; "
            "cameras are in file names such as c2_0001.jpg, or in folders such as c2/",
            parameter="images",
        )
    before = relative_gap(_embed(saved, pixels), cameras)
    adapted = measure_statistics(saved, pixels, np.random.default_rng(seed).permutation(len(pixels)).tolist())
    after = relative_gap(_embed(adapted, pixels), cameras)
    if before - after < MIN_GAIN:
        raise InputError(
            "with the batch-norm statistics of these crops, crops of one camera are hardly less alike "
            f"(relative gap {before:.3f} before, {after:.3f} after), so they would gain nothing; use the model as it is"
        )
    return BatchNormAdaptation(adapted, before, after)


def fix_batch_norm(model: nn.Module) -> None:
    """Makes the batch-norm layers of `model` normalise by their statistics, and keep them, until `model.train()`.

    In training they normalise a batch by itself, which bounds what a rare crop can do. The finished model has the
    statistics of all crops, and no bound. Training that ends as the model is used sees what such crops become (Wu and
    Johnson, "Rethinking Batch in BatchNorm", 2021).
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):  # also of several GPUs
            module.eval()


def measure_statistics(saved: Checkpoint, pixels: images.Pixels, order: Sequence[int]) -> Checkpoint:
    """`saved` with the batch-norm statistics of `pixels`, uint8 [N, height, width, 3], in batches of that `order`.

    Every layer sees the crops as the layers before it normalise their own batch. A last batch of less than half of
    BATCH is left out, because its variance would count as much as any other.

    Raises:
        InputError: the network has no batch-norm.
    """
    model = saved.build()
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    if not layers:
        raise InputError(
            f"{saved.contract.arch} has no batch-norm, so there is nothing to adapt", parameter="batch_norm"
        )
    graph = InferenceGraph(model, dataclasses.replace(saved.contract, flip=False)).eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
        layer.train()
    starts = [start for start in range(0, len(order), BATCH) if len(order) - start >= BATCH // 2]
    with torch.inference_mode():
        for start in show_progress(starts, "measuring", len(starts)):
            graph(torch.from_numpy(pixels[np.asarray(order[start : start + BATCH])]))
    fingerprint = contract_of(model, *saved.contract.size).fingerprint
    # Thresholds, camera means and compatible spaces are those of the network as it was.
    contract = dataclasses.replace(
        saved.contract, fingerprint=fingerprint, calibration=None, camera_means=(), whitening="", compatible_with=()
    )
    return dataclasses.replace(saved, contract=contract, state=dict(model.state_dict()))


def relative_gap(vectors: Vectors, cameras: Sequence[int | None]) -> float:
    """How much more alike crops of one camera are than crops of two, in standard deviations of all cosines.

    Args:
        vectors: unit vectors [N, D].
        cameras: camera IDs [N], at least two different ones; None for an unknown camera, whose crops do not count.
    """
    rows = [row for row, camera in enumerate(cameras) if camera is not None]
    known = vectors[rows]
    gap = camera_gap(known, [camera for camera in cameras if camera is not None])
    # Of all pairs: mean cosine |s|^2 / N^2, and mean square |V^T V|^2 / N^2, both with the pairs of a crop and itself.
    every = known.astype(np.float64)
    mean = np.square(every.mean(0)).sum()
    square = np.square(every.T @ every).sum() / len(every) ** 2
    return float(gap / np.sqrt(max(square - mean**2, np.finfo(np.float64).tiny)))


def _embed(saved: Checkpoint, pixels: images.Pixels) -> Vectors:
    run = runner(InferenceGraph(saved.build(), saved.contract), "cpu")
    return Embedder(saved.contract, "PyTorch", run).embed(list(pixels))
